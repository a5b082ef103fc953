#include "engine/model/marian_parts.h"

#include <cmath>
#include <utility>

namespace t2r {
namespace {

std::vector<float> Sinusoids(int64_t positions, int64_t width) {
  const int64_t sines = (width + 1) / 2;
  std::vector<float> table(static_cast<size_t>(positions * width));
  for (int64_t i = 0; i < sines; ++i) {
    const double frequency =
        std::pow(10000.0, -2.0 * static_cast<double>(i) / static_cast<double>(width));
    for (int64_t p = 0; p < positions; ++p) {
      const double angle = static_cast<double>(p) * frequency;
      table[p * width + i] = static_cast<float>(std::sin(angle));
      if (sines + i < width) table[p * width + sines + i] = static_cast<float>(std::cos(angle));
    }
  }
  return table;
}

}  // namespace

MarianEmbedding LoadMarianEmbedding(WeightLoader& loader, const std::string& side,
                                    std::shared_ptr<const Matrix> tokens,
                                    const ModelConfig& config) {
  const int64_t hidden = config.hidden_size;
  const int64_t positions = config.max_position_embeddings;
  const std::string name = "model." + side + ".embed_positions.weight";
  MarianEmbedding embedding;
  embedding.tokens = std::move(tokens);
  if (config.encoder_decoder->scale_embedding) {
    embedding.scale = static_cast<float>(std::sqrt(static_cast<double>(hidden)));
  }
  if (config.encoder_decoder->learned_positions || loader.Has(name)) {
    embedding.positions = loader.LoadTable(loader.HostRows(name));
  } else {
    embedding.sinusoids = Sinusoids(positions, hidden);
    embedding.positions =
        loader.LoadTable({embedding.sinusoids.data(), DType::kFloat32, positions, hidden, false});
  }
  return embedding;
}

MarianFeedForward LoadMarianFeedForward(WeightLoader& loader, const std::string& layer) {
  return {LoadNorm(loader, layer + "final_layer_norm"), LoadProjection(loader, {layer + "fc1"}),
          LoadProjection(loader, {layer + "fc2"})};
}

MarianStream::MarianStream(Backend& backend, const ModelConfig& config,
                           const MarianWorkspace& workspace, int64_t rows)
    : backend_(backend),
      config_(config),
      workspace_(workspace),
      x_(workspace.x.Rows(rows)),
      normed_(workspace.normed.Rows(rows)),
      attn_out_(workspace.attn_out.Rows(rows)),
      output_(normed_.dtype == x_.dtype ? x_ : normed_) {}

void MarianStream::Embed(const Batch& batch, const MarianEmbedding& embedding) {
  backend_.Embed(batch, *embedding.tokens, embedding.positions.get(), embedding.scale, x_);
  if (config_.encoder_decoder->normalize_before || output_.data == x_.data) return;
  backend_.Embed(batch, *embedding.tokens, embedding.positions.get(), embedding.scale, output_);
}

Tensor MarianStream::Enter(const Norm& norm) {
  if (!config_.encoder_decoder->normalize_before) return output_;
  Normalize(backend_, x_, norm, config_.norm_eps, normed_);
  return normed_;
}

void MarianStream::Leave(const Norm& norm) {
  if (config_.encoder_decoder->normalize_before) return;
  if (output_.data != x_.data) Normalize(backend_, x_, norm, config_.norm_eps, output_);
  Normalize(backend_, x_, norm, config_.norm_eps, x_);
}

void MarianStream::AddAttention(const Projection& out, const Norm& norm) {
  AddProjected(backend_, attn_out_, out, x_);
  Leave(norm);
}

void MarianStream::FeedForward(const MarianFeedForward& half) {
  const Tensor inner = workspace_.inner.Packed(x_.rows, half.up.weight->rows());
  Project(backend_, Enter(half.norm), half.up, inner);
  backend_.Activate(config_.encoder_decoder->activation, inner);
  AddProjected(backend_, inner, half.down, x_);
  Leave(half.norm);
}

}  // namespace t2r
