// What the swaps of single layers cost, at one size or at several.
#pragma once

#include <cstddef>
#include <functional>
#include <map>
#include <vector>

#include "convert/calibrate/divergence.h"
#include "convert/model/model.h"
#include "convert/progress.h"

namespace t2r::convert {

// What the swap of each causal attention of `model` alone costs, by layer: the divergence from the
// parent, in nats a token; 0 for those that it keeps full. Prints a line a layer.
std::vector<double> CostsAlone(const Divergence& divergence, TrainingModel* model,
                               Progress* progress);

// Costs of one layer at several sizes, from the squared errors of its attention's output at each,
// and the costs that were measured at some of them (by index, at least one). Near its least a
// divergence grows as the square of what moves it, so cost / error is taken from the measured
// sizes: between two of them it goes along a line in the logarithm of the error, beyond them it
// stays.
std::vector<double> CostsByError(const std::vector<double>& errors,
                                 const std::map<size_t, double>& measured);

// A model swapped at one of several sizes, and the squared errors of its layers' attention.
struct SizedSwap {
  TrainingModel model;
  std::vector<double> errors;  // by layer, over the parent's squared output
};

// Costs of every layer at each of `sizes`, [size][layer], those of `measured` taken by CostsAlone
// and the others by CostsByError. `swapped` makes the model at a size, all layers alike.
std::vector<std::vector<double>> CostsBySize(const Divergence& divergence, size_t sizes,
                                             const std::vector<size_t>& measured,
                                             const std::function<SizedSwap(size_t)>& swapped,
                                             Progress* progress);

}  // namespace t2r::convert
