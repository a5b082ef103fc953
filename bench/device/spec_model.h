// The tests' small random models on the device, without files.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "engine/executor/model_executor.h"
#include "engine/ops/cuda/cuda_backend.h"
#include "testing/reference_model.h"

namespace t2r::bench {

// Random weights that bfloat16 holds exactly.
testing::Tensors BFloat16Weights(const testing::ModelSpec& spec);

// The model with `slots` sessions of up to the spec's positions.
std::unique_ptr<ModelExecutor> SpecExecutor(const testing::ModelSpec& spec,
                                            const testing::Tensors& weights, DType dtype,
                                            int slots);

// log p(ids[i + 1] | ids[0..i]), fed in pieces of `piece` ids.
std::vector<double> Scores(Executor& executor, const std::vector<int32_t>& ids, int64_t piece);

// Decodes `steps` greedy tokens with one session, then with `sessions` that include the same one;
// how many of its tokens and log probabilities differ.
int DifferAmongNeighbours(Executor& executor, int sessions, int steps);

}  // namespace t2r::bench
