#include "engine/model/marian_encoder.h"

#include <cmath>
#include <utility>

namespace t2r {

MarianEncoder::MarianEncoder(const ModelConfig& config, WeightLoader& loader,
                             std::shared_ptr<const Matrix> tokens)
    : config_(config),
      embedding_(LoadMarianEmbedding(loader, "encoder", std::move(tokens), config)) {
  for (int i = 0; i < config.encoder_decoder->encoder_layers; ++i) {
    layers_.push_back(LoadLayer(loader, "model.encoder.layers." + std::to_string(i) + "."));
  }
  if (config.encoder_decoder->final_norm) {
    final_norm_ = LoadNorm(loader, "model.encoder.layer_norm");
  }
}

MarianEncoder::Layer MarianEncoder::LoadLayer(WeightLoader& loader, const std::string& name) {
  const std::string self = name + "self_attn.";
  return {LoadNorm(loader, name + "self_attn_layer_norm"),
          LoadProjection(loader, {self + "q_proj", self + "k_proj", self + "v_proj"}),
          LoadProjection(loader, {self + "out_proj"}), LoadMarianFeedForward(loader, name)};
}

int64_t MarianEncoder::columns() const { return 3 * int64_t{config_.hidden_size}; }

Tensor MarianEncoder::Run(Backend& backend, const Batch& sources, MarianStream& stream) const {
  const int64_t hidden = config_.hidden_size;
  const Tensor qkv = stream.Projected(columns());
  EncoderAttentionArgs attention;
  attention.heads = config_.encoder_decoder->encoder_heads;
  attention.head_dim = config_.hidden_size / attention.heads;
  attention.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(attention.head_dim)));
  attention.q = qkv.Columns(0, hidden);
  attention.k = qkv.Columns(hidden, hidden);
  attention.v = qkv.Columns(2 * hidden, hidden);
  attention.out = stream.attn_out();

  stream.Embed(sources, embedding_);
  for (const Layer& layer : layers_) {
    Project(backend, stream.Enter(layer.attention_norm), layer.qkv, qkv);
    backend.EncoderAttention(sources, attention);
    stream.AddAttention(layer.out, layer.attention_norm);
    stream.FeedForward(layer.feed_forward);
  }
  if (!config_.encoder_decoder->final_norm) return stream.output();
  Normalize(backend, stream.x(), final_norm_, config_.norm_eps, stream.normed());
  return stream.normed();
}

}  // namespace t2r
