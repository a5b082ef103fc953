// What a text puts through a model's matrices: for each, the second moments of its input.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "convert/data/corpus.h"
#include "engine/checkpoint/safetensors.h"
#include "engine/model/config.h"

namespace t2r::convert {

// Σ x xᵀ over the rows x that a matrix was multiplied with.
struct SecondMoments {
  int64_t cols = 0;         // K
  std::vector<float> sums;  // [K, K]
};

// Runs `corpus`, which is no pairs, through the float32 model of `config` and `files` on the CPU
// and calls `take` once for each projection that the engine multiplies with as the files have it,
// with its tensor's name; not for one that it makes of several tensors or puts into another order.
// The text is run as often as `memory_bytes` of moments at a time need. Throws ConvertError,
// ModelError or DeviceError.
void MeasureSecondMoments(
    const ModelConfig& config, const SafetensorsDirectory& files, const Corpus& corpus,
    int64_t memory_bytes,
    const std::function<void(const std::string& name, const SecondMoments& moments)>& take);

}  // namespace t2r::convert
