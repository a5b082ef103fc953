// Marian's encoder-decoder: BART's layers with their norms before or after, as the config says.
#include <torch/torch.h>

#include <cmath>
#include <string>

#include "convert/error.h"
#include "convert/model/cross_attention.h"
#include "convert/model/model.h"

namespace t2r::convert {
namespace {

using torch::Tensor;

Tensor Activate(ActivationKind kind, const Tensor& x) {
  switch (kind) {
    case ActivationKind::kGeluTanh:
      return torch::gelu(x, "tanh");
    case ActivationKind::kGelu:
      return torch::gelu(x);
    case ActivationKind::kRelu:
      return torch::relu(x);
    case ActivationKind::kSilu:
      return torch::silu(x);
  }
  throw ConvertError("unknown activation");
}

}  // namespace

Tensor TrainingModel::MarianHidden(const ModelInput& input,
                                   const AttentionFunction& attention) const {
  const Tensor encoded = MarianEncoder(input);
  const int64_t batch = input.ids.size(0), length = input.ids.size(1), keys = encoded.size(1),
                heads = config_.heads, d = config_.head_dim;
  Tensor x = MarianEmbedding("decoder", input.ids);
  for (int i = 0; i < config_.layers; ++i) {
    const std::string layer = "model.decoder.layers." + std::to_string(i) + ".";
    const std::string self = layer + "self_attn.", cross = layer + "encoder_attn.";
    x = MarianResidual(layer + "self_attn_layer_norm", x, [&](const Tensor& h) {
      const Tensor q = Linear(self + "q_proj", h).view({batch, length, heads, 1, d});
      const Tensor k = Linear(self + "k_proj", h).view({batch, length, heads, d});
      const Tensor v = Linear(self + "v_proj", h).view({batch, length, heads, d});
      return Linear(self + "out_proj", attention({i, false}, {q, k, v, q, k, {}}));
    });
    x = MarianResidual(layer + "encoder_attn_layer_norm", x, [&](const Tensor& h) {
      const Tensor q = Linear(cross + "q_proj", h).view({batch, length, heads, 1, d});
      const Tensor k = Linear(cross + "k_proj", encoded).view({batch, keys, heads, d});
      const Tensor v = Linear(cross + "v_proj", encoded).view({batch, keys, heads, d});
      return Linear(cross + "out_proj", attention({i, true}, {q, k, v, q, k, {}}));
    });
    x = MarianFeedForward(layer, x);
  }
  return config_.encoder_decoder->final_norm ? LayerNorm("model.decoder.layer_norm", x) : x;
}

Tensor TrainingModel::MarianEncoder(const ModelInput& input) const {
  const auto& both = *config_.encoder_decoder;
  const int64_t batch = input.source.size(0), length = input.source.size(1),
                heads = both.encoder_heads, d = config_.hidden_size / heads;
  Tensor x = MarianEmbedding("encoder", input.source);
  for (int i = 0; i < both.encoder_layers; ++i) {
    const std::string layer = "model.encoder.layers." + std::to_string(i) + ".";
    const std::string self = layer + "self_attn.";
    x = MarianResidual(layer + "self_attn_layer_norm", x, [&](const Tensor& h) {
      return Linear(
          self + "out_proj",
          SoftmaxAttentionOver(Linear(self + "q_proj", h).view({batch, length, heads, 1, d}),
                               Linear(self + "k_proj", h).view({batch, length, heads, d}),
                               Linear(self + "v_proj", h).view({batch, length, heads, d}),
                               input.source_counted));
    });
    x = MarianFeedForward(layer, x);
  }
  return both.final_norm ? LayerNorm("model.encoder.layer_norm", x) : x;
}

Tensor TrainingModel::MarianEmbedding(const std::string& side, const Tensor& ids) const {
  const auto& both = *config_.encoder_decoder;
  const std::string prefix = "model." + side + ".";
  const Tensor rows =
      torch::embedding(parameters_.Get(both.share_embeddings ? "model.shared.weight"
                                                             : prefix + "embed_tokens.weight"),
                       ids);
  const double scale =
      both.scale_embedding ? std::sqrt(static_cast<double>(config_.hidden_size)) : 1;
  return rows * scale +
         parameters_.Get(prefix + "embed_positions.weight").narrow(0, 0, ids.size(1));
}

Tensor TrainingModel::MarianResidual(const std::string& norm, const Tensor& x,
                                     const std::function<Tensor(const Tensor&)>& part) const {
  return config_.encoder_decoder->normalize_before ? x + part(LayerNorm(norm, x))
                                                   : LayerNorm(norm, x + part(x));
}

Tensor TrainingModel::MarianFeedForward(const std::string& layer, const Tensor& x) const {
  return MarianResidual(layer + "final_layer_norm", x, [&](const Tensor& h) {
    return Linear(layer + "fc2",
                  Activate(config_.encoder_decoder->activation, Linear(layer + "fc1", h)));
  });
}

}  // namespace t2r::convert
