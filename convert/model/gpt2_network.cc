// GPT-2: LayerNorm before each half, learned positions, weights stored [inputs, outputs].
#include <torch/torch.h>

#include <string>

#include "convert/model/networks.h"

namespace t2r::convert {

using torch::Tensor;

Tensor Gpt2Hidden(const Layers& layers, const ModelInput& input,
                  const AttentionFunction& attention) {
  const ModelConfig& config = layers.config();
  const Tensor& ids = input.ids;
  const int64_t batch = ids.size(0), length = ids.size(1);
  const int64_t heads = config.heads, d = config.head_dim;
  Tensor x = input.entering.defined()
                 ? input.entering
                 : torch::embedding(layers.Get("transformer.wte.weight"), ids) +
                       layers.Get("transformer.wpe.weight").narrow(0, 0, length);
  for (int i = input.first_layer; i < input.end_layer.value_or(config.layers); ++i) {
    const std::string layer = "transformer.h." + std::to_string(i) + ".";
    const auto qkv =
        layers.Conv1d(layer + "attn.c_attn", layers.LayerNorm(layer + "ln_1", x)).chunk(3, -1);
    const Tensor q = qkv[0].reshape({batch, length, heads, 1, d});
    const Tensor k = qkv[1].reshape({batch, length, heads, d});
    const Tensor v = qkv[2].reshape({batch, length, heads, d});
    x = x + layers.Conv1d(layer + "attn.c_proj", attention({i, false}, {q, k, v, q, k, {}}));
    const Tensor inner = layers.Conv1d(layer + "mlp.c_fc", layers.LayerNorm(layer + "ln_2", x));
    x = x + layers.Conv1d(layer + "mlp.c_proj", torch::gelu(inner, "tanh"));
  }
  return input.end_layer.has_value() ? x : layers.LayerNorm("transformer.ln_f", x);
}

}  // namespace t2r::convert
