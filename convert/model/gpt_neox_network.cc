// GPT-NeoX: LayerNorm before each half, rotary positions over a part of each head, q, k and v of a
// head side by side in one tensor, both halves of a layer reading the same residual stream or not.
#include <torch/torch.h>

#include <optional>
#include <string>
#include <utility>

#include "convert/model/networks.h"

namespace t2r::convert {

using torch::Tensor;

Tensor GptNeoxHidden(const Layers& layers, const ModelInput& input,
                     const AttentionFunction& attention) {
  const ModelConfig& config = layers.config();
  const Tensor& ids = input.ids;
  const int64_t batch = ids.size(0), length = ids.size(1);
  const int64_t heads = config.heads, d = config.head_dim;
  const auto rope = layers.RopeTable(length, length);
  std::optional<std::pair<Tensor, Tensor>> sink_rope;
  if (config.linear_attention.has_value() && config.linear_attention->sink_position.has_value()) {
    sink_rope = layers.RopeTable(length, *config.linear_attention->sink_position);
  }
  Tensor x = input.entering.defined()
                 ? input.entering
                 : torch::embedding(layers.Get("gpt_neox.embed_in.weight"), ids);
  for (int i = input.first_layer; i < input.end_layer.value_or(config.layers); ++i) {
    const std::string layer = "gpt_neox.layers." + std::to_string(i) + ".";
    const auto qkv = layers
                         .Linear(layer + "attention.query_key_value",
                                 layers.LayerNorm(layer + "input_layernorm", x))
                         .view({batch, length, heads, 1, 3 * d})
                         .chunk(3, -1);
    const Tensor &q = qkv[0], &k = qkv[1];
    const AttentionInput read{
        layers.Rope(q, rope), layers.Rope(k, rope).squeeze(3),
        qkv[2].squeeze(3),    q,
        k.squeeze(3),         sink_rope.has_value() ? layers.Rope(q, *sink_rope) : Tensor()};
    const Tensor mid = x + layers.Linear(layer + "attention.dense", attention({i, false}, read));
    const Tensor inner = layers.Linear(
        layer + "mlp.dense_h_to_4h",
        layers.LayerNorm(layer + "post_attention_layernorm", config.parallel_residual ? x : mid));
    x = mid + layers.Linear(layer + "mlp.dense_4h_to_h", Activate(config.activation, inner));
  }
  return input.end_layer.has_value() ? x : layers.LayerNorm("gpt_neox.final_layer_norm", x);
}

}  // namespace t2r::convert
