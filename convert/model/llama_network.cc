// Llama and its relatives: RMSNorm before each half, rotary positions, grouped queries, SwiGLU.
// Phi-3 keeps q, k and v in one tensor, and gate and up in another.
#include <torch/torch.h>

#include <optional>
#include <string>
#include <utility>

#include "convert/model/networks.h"

namespace t2r::convert {

using torch::Tensor;

Tensor LlamaHidden(const Layers& layers, const ModelInput& input,
                   const AttentionFunction& attention) {
  const ModelConfig& config = layers.config();
  const Tensor& ids = input.ids;
  const int64_t batch = ids.size(0), length = ids.size(1);
  const int64_t groups = config.kv_heads, share = config.heads / config.kv_heads,
                d = config.head_dim;
  const auto rope = layers.RopeTable(length, length);
  std::optional<std::pair<Tensor, Tensor>> sink_rope;
  if (config.linear_attention.has_value() && config.linear_attention->sink_position.has_value()) {
    sink_rope = layers.RopeTable(length, *config.linear_attention->sink_position);
  }
  Tensor x = input.entering.defined()
                 ? input.entering
                 : torch::embedding(layers.Get("model.embed_tokens.weight"), ids);
  for (int i = input.first_layer; i < input.end_layer.value_or(config.layers); ++i) {
    const std::string layer = "model.layers." + std::to_string(i) + ".";
    const std::string self = layer + "self_attn.", mlp = layer + "mlp.";
    const Tensor in = layers.RmsNorm(layer + "input_layernorm", x);
    Tensor q, k, v;
    if (config.fused_projections) {
      const auto parts = layers.Linear(self + "qkv_proj", in)
                             .split_with_sizes({groups * share * d, groups * d, groups * d}, -1);
      q = parts[0];
      k = parts[1];
      v = parts[2];
    } else {
      q = layers.Linear(self + "q_proj", in);
      k = layers.Linear(self + "k_proj", in);
      v = layers.Linear(self + "v_proj", in);
    }
    q = q.reshape({batch, length, groups, share, d});
    k = k.reshape({batch, length, groups, 1, d});
    if (config.qk_norm) {
      q = layers.RmsNorm(self + "q_norm", q);
      k = layers.RmsNorm(self + "k_norm", k);
    }
    const AttentionInput read{layers.Rope(q, rope),
                              layers.Rope(k, rope).squeeze(3),
                              v.reshape({batch, length, groups, d}),
                              q,
                              k.squeeze(3),
                              sink_rope.has_value() ? layers.Rope(q, *sink_rope) : Tensor()};
    x = x + layers.Linear(self + "o_proj", attention({i, false}, read));
    const Tensor mid = layers.RmsNorm(layer + "post_attention_layernorm", x);
    Tensor gate, up;
    if (config.fused_projections) {
      const auto parts = layers.Linear(mlp + "gate_up_proj", mid).chunk(2, -1);
      gate = parts[0];
      up = parts[1];
    } else {
      gate = layers.Linear(mlp + "gate_proj", mid);
      up = layers.Linear(mlp + "up_proj", mid);
    }
    x = x + layers.Linear(mlp + "down_proj", torch::silu(gate) * up);
  }
  return input.end_layer.has_value() ? x : layers.RmsNorm("model.norm", x);
}

}  // namespace t2r::convert
