// Tiny models of both architectures for tests.
#pragma once

#include <torch/torch.h>

#include <memory>
#include <string>

#include "convert/init.h"
#include "convert/model.h"
#include "convert/model_dir.h"
#include "convert/status.h"
#include "engine/model/load.h"

namespace t2r::convert {

// Llama: grouped heads, biases on q, k and v as Qwen2 has them, scaled RoPE, an untied head.
inline std::string SmallLlamaJson() {
  return R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 24,
    "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 6, "hidden_act": "silu", "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0, "rope_scaling": {"rope_type": "llama3", "factor": 8.0,
    "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64},
    "vocab_size": 37, "max_position_embeddings": 128, "attention_bias": true, "mlp_bias": false,
    "tie_word_embeddings": false, "torch_dtype": "float32", "x_note": "kept"})";
}

inline std::string SmallGpt2Json() {
  return R"({"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_embd": 24,
    "n_inner": 48, "n_layer": 3, "n_head": 3, "n_positions": 80, "vocab_size": 37,
    "layer_norm_epsilon": 1e-5, "activation_function": "gelu_new", "tie_word_embeddings": true,
    "torch_dtype": "float32", "x_note": "kept"})";
}

// Random weights large enough that attention matters, biases included.
inline void Randomize(TrainingModel* model, uint64_t seed) {
  InitializeFromScratch(model, seed);
  const torch::NoGradGuard no_grad;
  torch::manual_seed(static_cast<int64_t>(seed));
  for (const auto& spec : model->parameters().specs()) {
    torch::Tensor parameter = model->parameters().Get(spec.name);
    if (spec.feature_map) continue;
    if (spec.shape.size() == 1) {
      parameter.add_(torch::randn_like(parameter) * 0.1);
    } else {
      parameter.mul_(12.0);
    }
  }
}

// Writes a softmax model of this configuration.
inline void WriteSmallModel(const std::string& directory, const std::string& json, uint64_t seed) {
  TrainingModel model(Unwrap(ParseModelConfig(json, "")), torch::kCPU);
  Randomize(&model, seed);
  WriteModelDirectory(directory, json, model, "float32", "");
}

}  // namespace t2r::convert
