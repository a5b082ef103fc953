// Tiny models of every architecture for tests.
#pragma once

#include <torch/torch.h>

#include <algorithm>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "convert/data/corpus.h"
#include "convert/error.h"
#include "convert/model/init.h"
#include "convert/model/model.h"
#include "convert/model/model_dir.h"
#include "convert/status.h"
#include "engine/engine.h"

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

// Qwen3: norms of each head of q and k, an own head_dim, tied embeddings.
inline std::string SmallQwen3Json() {
  return R"({"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 24,
    "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 10, "hidden_act": "silu", "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0, "vocab_size": 37, "max_position_embeddings": 128,
    "tie_word_embeddings": true, "torch_dtype": "float32"})";
}

// Mistral: every layer sees the last 24 tokens.
inline std::string SmallMistralJson() {
  return R"({"architectures": ["MistralForCausalLM"], "model_type": "mistral", "hidden_size": 24,
    "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 6, "hidden_act": "silu", "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0, "vocab_size": 37, "max_position_embeddings": 128,
    "sliding_window": 24, "tie_word_embeddings": false, "torch_dtype": "float32"})";
}

inline std::string SmallGpt2Json() {
  return R"({"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_embd": 24,
    "n_inner": 48, "n_layer": 3, "n_head": 3, "n_positions": 80, "vocab_size": 37,
    "layer_norm_epsilon": 1e-5, "activation_function": "gelu_new", "tie_word_embeddings": true,
    "torch_dtype": "float32", "x_note": "kept"})";
}

// GPT-NeoX: half of each head turns, its pairs as yarn scales them.
inline std::string SmallGptNeoxJson() {
  return R"({"architectures": ["GPTNeoXForCausalLM"], "model_type": "gpt_neox", "hidden_size": 24,
    "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 3, "rotary_pct": 0.5,
    "rotary_emb_base": 10000, "hidden_act": "gelu", "layer_norm_eps": 1e-5,
    "use_parallel_residual": true, "rope_scaling": {"rope_type": "yarn", "factor": 4.0},
    "vocab_size": 37, "max_position_embeddings": 128, "tie_word_embeddings": false,
    "torch_dtype": "float32"})";
}

// The same with one half of a layer after the other and without biases of attention.
inline std::string SmallSequentialNeoxJson() {
  return R"({"architectures": ["GPTNeoXForCausalLM"], "model_type": "gpt_neox", "hidden_size": 24,
    "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 2, "rotary_pct": 1.0,
    "hidden_act": "gelu_new", "use_parallel_residual": false, "attention_bias": false,
    "vocab_size": 37, "max_position_embeddings": 128, "tie_word_embeddings": true,
    "torch_dtype": "float32"})";
}

// Phi-3: fused projections, three quarters of each head turn, as longrope scales them.
inline std::string SmallPhi3Json() {
  return R"({"architectures": ["Phi3ForCausalLM"], "model_type": "phi3", "hidden_size": 24,
    "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "hidden_act": "silu", "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0, "partial_rotary_factor": 0.75, "original_max_position_embeddings": 32,
    "rope_scaling": {"type": "longrope", "short_factor": [1.0, 1.1, 1.3],
    "long_factor": [1.2, 2.0, 3.5]}, "vocab_size": 37, "max_position_embeddings": 128,
    "tie_word_embeddings": false, "torch_dtype": "float32"})";
}

// Marian, as opus-mt: norms after, one table for both sides, sinusoidal positions.
inline std::string SmallOpusJson() {
  return R"({"architectures": ["MarianMTModel"], "model_type": "marian", "d_model": 24,
    "encoder_layers": 2, "decoder_layers": 3, "encoder_attention_heads": 3,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 40, "decoder_ffn_dim": 32,
    "activation_function": "swish", "scale_embedding": true, "static_position_embeddings": true,
    "max_position_embeddings": 64, "vocab_size": 37, "share_encoder_decoder_embeddings": true,
    "decoder_start_token_id": 36, "pad_token_id": 36, "eos_token_id": 0,
    "torch_dtype": "float32", "x_note": "kept"})";
}

// And what others do: norms before and one at the end, own tables, learned positions, an own head.
inline std::string SmallPreNormJson() {
  return R"({"architectures": ["MarianMTModel"], "model_type": "marian", "d_model": 24,
    "encoder_layers": 2, "decoder_layers": 3, "encoder_attention_heads": 4,
    "decoder_attention_heads": 3, "encoder_ffn_dim": 40, "decoder_ffn_dim": 32,
    "activation_function": "gelu", "normalize_before": true, "add_final_layer_norm": true,
    "static_position_embeddings": false, "max_position_embeddings": 48, "vocab_size": 29,
    "decoder_vocab_size": 37, "share_encoder_decoder_embeddings": false,
    "tie_word_embeddings": false, "decoder_start_token_id": 1, "pad_token_id": 1,
    "eos_token_id": 2, "torch_dtype": "float32"})";
}

// Random weights large enough that attention matters, biases included.
inline void Randomize(TrainingModel* model, uint64_t seed) {
  InitializeFromScratch(model, seed);
  const torch::NoGradGuard no_grad;
  torch::manual_seed(static_cast<int64_t>(seed));
  for (const auto& spec : model->parameters().specs()) {
    torch::Tensor parameter = model->parameters().Get(spec.name);
    if (spec.feature_map || spec.lora) continue;
    if (spec.name == "final_logits_bias") {
      parameter.copy_(torch::randn(spec.shape) * 0.5);
    } else if (spec.computed) {
      continue;
    } else if (spec.shape.size() == 1) {
      parameter.add_(torch::randn_like(parameter) * 0.1);
    } else {
      parameter.mul_(12.0);
    }
  }
}

// Six documents of 12 to 32 ids.
inline Corpus SmallCorpus() {
  Corpus corpus;
  for (int64_t i = 0; i < 6; ++i) {
    std::vector<int32_t> ids;
    for (int64_t t = 0; t < 12 + 4 * i; ++t) {
      ids.push_back(static_cast<int32_t>((t * (i + 3) + i) % 37));
    }
    corpus.tokens += static_cast<int64_t>(ids.size());
    corpus.documents.push_back(ids);
  }
  return corpus;
}

// Six pairs of sources of 3 to 8 ids below 29 and targets of 5 to 10.
inline Corpus SmallPairs() {
  Corpus corpus;
  for (int32_t i = 0; i < 6; ++i) {
    auto& source = corpus.sources.emplace_back();
    auto& target = corpus.documents.emplace_back();
    for (int32_t t = 0; t < 3 + i; ++t) source.push_back((t * (i + 2) + 5 * i + 3) % 29);
    for (int32_t t = 0; t < 10 - i; ++t) target.push_back((t * (i + 3) + i + 1) % 37);
    corpus.tokens += static_cast<int64_t>(target.size());
  }
  return corpus;
}

// All of a corpus in one batch, in windows of 40.
inline BatchPlan PlanOf(const Corpus& corpus) {
  BatchPlan plan;
  plan.windows = CutWindows(corpus, 40);
  plan.length = 40;
  for (const Window& window : plan.windows) {
    plan.source_length = std::max(plan.source_length, window.source_length);
  }
  return plan;
}

// Writes a softmax model of this configuration.
inline void WriteSmallModel(const std::string& directory, const std::string& json, uint64_t seed) {
  TrainingModel model(Unwrap(ParseModelConfig(json, "")), torch::kCPU);
  Randomize(&model, seed);
  WriteModelDirectory(directory, json, model, "float32", "");
}

// What the engine makes of a model directory: log p(targets[i] | source, fed[0 … i]), float64.
inline torch::Tensor EngineScores(const std::string& directory, const std::vector<int32_t>& fed,
                                  const std::vector<int32_t>& targets,
                                  const std::vector<int32_t>& source = {}) {
  EngineOptions options;
  options.backend = "cpu";
  options.threads = 1;
  options.max_sessions = 1;
  options.max_step_tokens = 128;
  const auto engine = Unwrap(LoadEngine(directory, options));
  const SessionSize size{static_cast<int64_t>(fed.size()), static_cast<int64_t>(source.size())};
  ScheduledChunk chunk;
  chunk.slot = engine->executor->Open(size, SamplingParams());
  if (chunk.slot < 0) throw ConvertError("the engine has no room for the session");
  chunk.tokens = fed;
  chunk.targets = targets;
  chunk.source = source;
  std::vector<ChunkResult> results;
  engine->executor->Step(std::span(&chunk, 1), &results);
  engine->executor->Close(chunk.slot);
  return torch::tensor(results.at(0).scores).to(torch::kFloat64);
}

}  // namespace t2r::convert
