// The tensors of a model (TensorsOf) as training sees them, and the places where it attends.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/model/config.h"
#include "engine/model/tensors.h"

namespace t2r::convert {

struct ParameterSpec : TensorSpec {
  bool decay = false;        // a matrix of a layer: weight decay and LoRA apply
  bool feature_map = false;  // belongs to a feature map: absent in the softmax parent
  // Given a value where the file has none, and not trained unless asked for: sinusoidal positions,
  // logit bias (0), log_decay (0).
  bool computed = false;
  bool lora = false;    // a factor of a LoRA update: never in a file
  bool frozen = false;  // has no gradient
};

// One attention of the decoder: causal self-attention of a layer, or its cross attention.
struct AttentionSite {
  int layer = 0;
  bool cross = false;
};

// Every attention that can be linear: the causal ones of layers 0, 1, …, then the cross ones.
std::vector<AttentionSite> AttentionSites(const ModelConfig& config);
bool IsLinear(const ModelConfig& config, const AttentionSite& site);
// "layer 3" or "cross attention of layer 3".
std::string Describe(const AttentionSite& site);
// Prefix of the site's tensors.
std::string AttentionPrefix(const ModelConfig& config, const AttentionSite& site);

// Those of TensorsOf, in its order.
std::vector<ParameterSpec> ParameterSpecs(const ModelConfig& config);

// Whether it is log_decay: never above 0, and 0 where the file has none.
bool IsLogDecay(const ParameterSpec& spec);

enum class TrainOnly : uint8_t { kAll, kAttention, kNew };  // kNew: feature maps

// What of a model learns.
struct TrainableOptions {
  TrainOnly only = TrainOnly::kAll;
  bool decay = false;  // log_decay too
  // Rank of the updates that LoRA adds to every matrix of the layers (Hu et al. 2021): weight +
  // (lora_alpha / rank) · B A. Then only they and feature maps learn. 0: everything learns.
  int lora_rank = 0;
  double lora_alpha = 16;
  bool freeze_encoder = false;
};

// Adds the LoRA factors and marks what is frozen.
std::vector<ParameterSpec> Trainable(std::vector<ParameterSpec> specs,
                                     const TrainableOptions& options);

}  // namespace t2r::convert
