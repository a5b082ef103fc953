// Llama and its relatives: RMSNorm before each half, rotary positions, grouped queries, SwiGLU.
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
  Tensor x = torch::embedding(layers.Get("model.embed_tokens.weight"), ids);
  for (int i = 0; i < config.layers; ++i) {
    const std::string layer = "model.layers." + std::to_string(i) + ".";
    const std::string self = layer + "self_attn.", mlp = layer + "mlp.";
    const Tensor in = layers.RmsNorm(layer + "input_layernorm", x);
    Tensor q = layers.Linear(self + "q_proj", in).view({batch, length, groups, share, d});
    Tensor k = layers.Linear(self + "k_proj", in).view({batch, length, groups, 1, d});
    if (config.qk_norm) {
      q = layers.RmsNorm(self + "q_norm", q);
      k = layers.RmsNorm(self + "k_norm", k);
    }
    const AttentionInput read{layers.Rope(q, rope),
                              layers.Rope(k, rope).squeeze(3),
                              layers.Linear(self + "v_proj", in).view({batch, length, groups, d}),
                              q,
                              k.squeeze(3),
                              sink_rope.has_value() ? layers.Rope(q, *sink_rope) : Tensor()};
    x = x + layers.Linear(self + "o_proj", attention({i, false}, read));
    const Tensor mid = layers.RmsNorm(layer + "post_attention_layernorm", x);
    const Tensor gated =
        torch::silu(layers.Linear(mlp + "gate_proj", mid)) * layers.Linear(mlp + "up_proj", mid);
    x = x + layers.Linear(mlp + "down_proj", gated);
  }
  return layers.RmsNorm("model.norm", x);
}

}  // namespace t2r::convert
