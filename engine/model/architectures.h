// The forward passes there are; MakeModel picks one.
#pragma once

#include <memory>

#include "engine/model/model.h"

namespace t2r {

std::unique_ptr<Model> MakeLlama(const ModelConfig& config, const WeightSource& weights,
                                 Backend& backend, const ModelOptions& options);
std::unique_ptr<Model> MakeGpt2(const ModelConfig& config, const WeightSource& weights,
                                Backend& backend, const ModelOptions& options);
std::unique_ptr<Model> MakeMarian(const ModelConfig& config, const WeightSource& weights,
                                  Backend& backend, const ModelOptions& options);

}  // namespace t2r
