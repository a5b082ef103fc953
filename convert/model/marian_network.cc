// Marian's encoder-decoder: BART's layers with their norms before or after, as the config says.
#include <torch/torch.h>

#include <cmath>
#include <string>

#include "convert/model/cross_attention.h"
#include "convert/model/networks.h"

namespace t2r::convert {
namespace {

using torch::Tensor;

// x + part(norm(x)), or norm(x + part(x)) where norms come after.
Tensor Residual(const Layers& layers, const std::string& norm, const Tensor& x,
                const std::function<Tensor(const Tensor&)>& part) {
  return layers.config().encoder_decoder->normalize_before ? x + part(layers.LayerNorm(norm, x))
                                                           : layers.LayerNorm(norm, x + part(x));
}

Tensor FeedForward(const Layers& layers, const std::string& layer, const Tensor& x) {
  return Residual(layers, layer + "final_layer_norm", x, [&](const Tensor& h) {
    return layers.Linear(layer + "fc2", Activate(layers.config().encoder_decoder->activation,
                                                 layers.Linear(layer + "fc1", h)));
  });
}

Tensor Embedding(const Layers& layers, const std::string& side, const Tensor& ids) {
  const auto& both = *layers.config().encoder_decoder;
  const std::string prefix = "model." + side + ".";
  const Tensor rows = torch::embedding(
      layers.Get(both.share_embeddings ? "model.shared.weight" : prefix + "embed_tokens.weight"),
      ids);
  const double scale =
      both.scale_embedding ? std::sqrt(static_cast<double>(layers.config().hidden_size)) : 1;
  return rows * scale + layers.Get(prefix + "embed_positions.weight").narrow(0, 0, ids.size(1));
}

Tensor Encoder(const Layers& layers, const ModelInput& input) {
  const auto& both = *layers.config().encoder_decoder;
  const int64_t batch = input.source.size(0), length = input.source.size(1),
                heads = both.encoder_heads, d = layers.config().hidden_size / heads;
  Tensor x = Embedding(layers, "encoder", input.source);
  for (int i = 0; i < both.encoder_layers; ++i) {
    const std::string layer = "model.encoder.layers." + std::to_string(i) + ".";
    const std::string self = layer + "self_attn.";
    x = Residual(layers, layer + "self_attn_layer_norm", x, [&](const Tensor& h) {
      return layers.Linear(
          self + "out_proj",
          SoftmaxAttentionOver(layers.Linear(self + "q_proj", h).view({batch, length, heads, 1, d}),
                               layers.Linear(self + "k_proj", h).view({batch, length, heads, d}),
                               layers.Linear(self + "v_proj", h).view({batch, length, heads, d}),
                               input.source_counted));
    });
    x = FeedForward(layers, layer, x);
  }
  return both.final_norm ? layers.LayerNorm("model.encoder.layer_norm", x) : x;
}

}  // namespace

Tensor MarianHidden(const Layers& layers, const ModelInput& input,
                    const AttentionFunction& attention) {
  const Tensor encoded = Encoder(layers, input);
  const int64_t batch = input.ids.size(0), length = input.ids.size(1), keys = encoded.size(1),
                heads = layers.config().heads, d = layers.config().head_dim;
  Tensor x = Embedding(layers, "decoder", input.ids);
  for (int i = 0; i < layers.config().layers; ++i) {
    const std::string layer = "model.decoder.layers." + std::to_string(i) + ".";
    const std::string self = layer + "self_attn.", cross = layer + "encoder_attn.";
    x = Residual(layers, layer + "self_attn_layer_norm", x, [&](const Tensor& h) {
      const Tensor q = layers.Linear(self + "q_proj", h).view({batch, length, heads, 1, d});
      const Tensor k = layers.Linear(self + "k_proj", h).view({batch, length, heads, d});
      const Tensor v = layers.Linear(self + "v_proj", h).view({batch, length, heads, d});
      return layers.Linear(self + "out_proj", attention({i, false}, {q, k, v, q, k, {}}));
    });
    x = Residual(layers, layer + "encoder_attn_layer_norm", x, [&](const Tensor& h) {
      const Tensor q = layers.Linear(cross + "q_proj", h).view({batch, length, heads, 1, d});
      const Tensor k = layers.Linear(cross + "k_proj", encoded).view({batch, keys, heads, d});
      const Tensor v = layers.Linear(cross + "v_proj", encoded).view({batch, keys, heads, d});
      return layers.Linear(cross + "out_proj", attention({i, true}, {q, k, v, q, k, {}}));
    });
    x = FeedForward(layers, layer, x);
  }
  return layers.config().encoder_decoder->final_norm
             ? layers.LayerNorm("model.decoder.layer_norm", x)
             : x;
}

}  // namespace t2r::convert
