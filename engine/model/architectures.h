// The architectures there are: what the engine knows of each beside how config.json names and
// describes it (engine/checkpoint/config_families.h).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "engine/model/model.h"
#include "engine/model/tensors.h"

namespace t2r {

struct Architecture {
  const char* name;                                               // as GetModel tells it
  std::vector<TensorSpec> (*tensors)(const ModelConfig& config);  // TensorsOf
  std::string (*attention_prefix)(int layer, bool cross);         // AttentionPrefix
  std::unique_ptr<Model> (*make)(const ModelConfig& config, const WeightSource& weights,
                                 Backend& backend, const ModelOptions& options);  // MakeModel
};

// Each stands in the file of its forward pass; kLlamaArchitecture is declared in config.h.
extern const Architecture kGpt2Architecture;
extern const Architecture kGptNeoxArchitecture;
extern const Architecture kMarianArchitecture;

}  // namespace t2r
