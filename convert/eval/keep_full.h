// Which layers of a converted model keep softmax attention.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "convert/data/corpus.h"
#include "convert/model/init.h"
#include "convert/model/model.h"

namespace t2r::convert {

// What --keep-full says.
struct KeepFull {
  std::vector<int> layers;  // by hand
  int automatic = 0;        // or so many, chosen by measurement
};

// "", "0,3", "every:4" (layers 3, 7, …: the last of each four), "all" or "auto:2". `flag` names the
// option in errors.
KeepFull ParseKeepFull(const std::string& text, int layers, const std::string& flag);

// What it costs to swap one attention alone.
struct SwapCost {
  AttentionSite site;
  double nats = 0;  // loss with only this attention swapped, without training, less the parent's
};

// Swaps every attention on its own (all causal ones, or all cross ones) and takes the loss on
// `valid`. The maps' first values are those of the conversion with this seed.
std::vector<SwapCost> MeasureSwapCosts(const TrainingModel& parent, const SwapOptions& options,
                                       bool cross, const Corpus& valid, uint64_t seed);

// The `count` layers whose swap costs the most, ascending.
std::vector<int> CostliestLayers(std::vector<SwapCost> costs, int count);

}  // namespace t2r::convert
