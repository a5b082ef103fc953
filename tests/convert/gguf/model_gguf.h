// GGUF files of small random models, made from HF's tensors as llama.cpp's converter makes them.
#pragma once

#include <cmath>
#include <numbers>
#include <string>
#include <vector>

#include "testing/gguf_bytes.h"
#include "testing/reference_model.h"

namespace t2r::testing {

// The rows of `heads` heads, or the elements of a vector, in llama.cpp's order: first (0, d/2) of
// each head, then (1, d/2 + 1) and so on.
inline NamedTensor Interleaved(const NamedTensor& tensor, int heads) {
  const auto rows = static_cast<size_t>(tensor.shape[0]);
  const size_t columns = tensor.values.size() / rows;
  const size_t d = rows / static_cast<size_t>(heads);
  NamedTensor result{tensor.shape, {}};
  for (size_t head = 0; head < static_cast<size_t>(heads); ++head) {
    for (size_t pair = 0; pair < d / 2; ++pair) {
      for (const size_t row : {head * d + pair, head * d + d / 2 + pair}) {
        for (size_t c = 0; c < columns; ++c)
          result.values.push_back(tensor.values[row * columns + c]);
      }
    }
  }
  return result;
}

inline std::string GgufName(std::string name) {
  const auto replace = [&](const std::string& from, const std::string& to) {
    const size_t at = name.find(from);
    if (at != std::string::npos) name.replace(at, from.size(), to);
  };
  replace("model.layers.", "blk.");
  replace("model.embed_tokens", "token_embd");
  replace("model.norm", "output_norm");
  replace("lm_head", "output");
  replace("input_layernorm", "attn_norm");
  replace("post_attention_layernorm", "ffn_norm");
  replace("self_attn.o_proj", "attn_output");
  for (const char* x : {"q", "k", "v"})
    replace(std::string("self_attn.") + x + "_proj", std::string("attn_") + x);
  for (const char* x : {"q", "k"})
    replace(std::string("self_attn.") + x + "_norm", std::string("attn_") + x + "_norm");
  for (const char* x : {"gate", "up", "down"})
    replace(std::string("mlp.") + x + "_proj", std::string("ffn_") + x);
  return name;
}

// Without a vocabulary; in float32. `architecture` is general.architecture; q and k are interleaved
// for llama only.
inline GgufBytes GgufOf(const ModelSpec& spec, const Tensors& weights,
                        const std::string& architecture) {
  const auto number = [](int value) { return static_cast<uint32_t>(value); };
  const std::string prefix = architecture + ".";
  GgufBytes file;
  file.String("general.architecture", architecture)
      .Uint32(prefix + "block_count", number(spec.layers))
      .Uint32(prefix + "context_length", number(spec.positions))
      .Uint32(prefix + "embedding_length", number(spec.hidden))
      .Uint32(prefix + "feed_forward_length", number(spec.inner))
      .Uint32(prefix + "attention.head_count", number(spec.heads))
      .Uint32(prefix + "attention.head_count_kv", number(spec.groups))
      .Uint32(prefix + "attention.key_length", number(spec.head_dim))
      .Uint32(prefix + "attention.value_length", number(spec.head_dim))
      .Float32(prefix + "attention.layer_norm_rms_epsilon", static_cast<float>(spec.norm_eps))
      .Float32(prefix + "rope.freq_base", static_cast<float>(spec.theta))
      .Uint32(prefix + "rope.dimension_count", number(spec.head_dim));
  if (spec.linear_factor > 0) {
    file.String(prefix + "rope.scaling.type", "linear")
        .Float32(prefix + "rope.scaling.factor", static_cast<float>(spec.linear_factor));
  }
  for (const auto& [name, tensor] : weights) {
    const bool q = name.find("q_proj") != std::string::npos;
    const bool k = name.find("k_proj") != std::string::npos;
    NamedTensor stored = tensor;
    if (architecture == "llama" && (q || k)) {
      stored = Interleaved(tensor, q ? spec.heads : spec.groups);
    }
    file.FloatTensor(GgufName(name), stored.shape, stored.values);
  }
  return file;
}

// What Llama 3.1's converter stores as rope_freqs.weight, in float32 as it computes them.
inline std::vector<float> Llama3Factors(float theta, int head_dim, float factor, float original) {
  std::vector<float> factors;
  for (int i = 0; i < head_dim; i += 2) {
    const float frequency =
        1.0F / std::pow(theta, static_cast<float>(i) / static_cast<float>(head_dim));
    const float wavelength = 2 * std::numbers::pi_v<float> / frequency;
    if (wavelength < original / 4) {
      factors.push_back(1);
    } else if (wavelength > original) {
      factors.push_back(factor);
    } else {
      const float smooth = (original / wavelength - 1) / 3;
      factors.push_back(1 / ((1 - smooth) / factor + smooth));
    }
  }
  return factors;
}

}  // namespace t2r::testing
