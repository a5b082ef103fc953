// Marian encoder-decoders (opus-mt and relatives): the decoder, and what an encoder's outputs leave
// for its cross attention.
#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "engine/model/architectures.h"
#include "engine/model/attention.h"
#include "engine/model/backend_model.h"
#include "engine/model/marian_encoder.h"
#include "engine/model/marian_parts.h"

namespace t2r {
namespace {

// What one side has: embeddings, layers (cross attention only in the decoder).
void AddSide(const ModelConfig& config, bool decoder, TensorList* list) {
  const EncoderDecoderConfig& both = *config.encoder_decoder;
  const int64_t hidden = config.hidden_size;
  const int64_t inner = decoder ? config.intermediate_size : both.encoder_intermediate_size;
  const std::string model = decoder ? "model.decoder." : "model.encoder.";
  if (!both.share_embeddings) {
    list->Table(model + "embed_tokens.weight",
                decoder ? TensorRole::kEmbedding : TensorRole::kSourceEmbedding,
                decoder ? config.vocab_size : both.source_vocab_size);
  }
  list->Table(model + "embed_positions.weight", TensorRole::kPositions,
              config.max_position_embeddings)
      .optional = !both.learned_positions;
  const auto attention = [&](const std::string& name) {
    for (const char* part : {"q_proj", "k_proj", "v_proj"}) {
      list->Projection(name + part, hidden, hidden, true);
    }
    list->Projection(name + "out_proj", hidden, hidden, true, true);
  };
  for (int i = 0; i < (decoder ? config.layers : both.encoder_layers); ++i) {
    const std::string layer = model + "layers." + std::to_string(i) + ".";
    attention(layer + "self_attn.");
    if (decoder) list->FeatureMap(layer + "self_attn.", i);
    list->Norm(layer + "self_attn_layer_norm", hidden, true);
    if (decoder) {
      attention(layer + "encoder_attn.");
      list->FeatureMap(layer + "encoder_attn.", i, true);
      list->Norm(layer + "encoder_attn_layer_norm", hidden, true);
    }
    list->Projection(layer + "fc1", inner, hidden, true);
    list->Projection(layer + "fc2", hidden, inner, true, true);
    list->Norm(layer + "final_layer_norm", hidden, true);
  }
  if (both.final_norm) list->Norm(model + "layer_norm", hidden, true);
}

std::vector<TensorSpec> Tensors(const ModelConfig& config) {
  TensorList list(config);
  if (config.encoder_decoder->share_embeddings) {
    // Checkpoints keep a shared table under one or more of three names.
    list.Table("model.shared.weight", TensorRole::kEmbedding, config.vocab_size).aliases = {
        "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight"};
  }
  AddSide(config, false, &list);
  AddSide(config, true, &list);
  list.Head();
  list.Add("final_logits_bias", TensorRole::kLogitBias, {1, config.vocab_size}).optional = true;
  return list.Take();
}

std::string AttentionPrefix(int layer, bool cross) {
  return "model.decoder.layers." + std::to_string(layer) +
         (cross ? ".encoder_attn." : ".self_attn.");
}

struct MarianLayer {
  Norm self_norm;
  Attention self;
  Projection self_qkv;  // [q | k | v] output rows; pre-activations for q and k where folded
  Projection self_out;
  Norm cross_norm;
  Attention cross;
  Projection cross_query;
  Projection cross_memory;  // [k | v] output rows, of the encoder's outputs
  Projection cross_out;
  MarianFeedForward feed_forward;
};

class Marian : public BackendModel {
 public:
  Marian(const ModelConfig& config, const WeightSource& weights, Backend& backend,
         const ModelOptions& options)
      : BackendModel(config, backend, options) {
    const EncoderDecoderConfig& both = *config_.encoder_decoder;
    if (both.normalize_before && !both.final_norm && dtype_ != DType::kFloat32) {
      throw ModelError(
          "normalize_before without add_final_layer_norm needs float32 activations: choose the "
          "dtype float32");
    }
    WeightLoader loader(config_, weights, backend, options.weight_dtype);
    const std::shared_ptr<const Matrix> tokens = loader.LoadEmbedding(
        both.share_embeddings ? "model.shared.weight" : "model.decoder.embed_tokens.weight");
    std::shared_ptr<const Matrix> source_tokens = tokens;
    if (!both.share_embeddings) {
      source_tokens = loader.LoadEmbedding("model.encoder.embed_tokens.weight");
    }
    encoder_ = std::make_unique<MarianEncoder>(config_, loader, std::move(source_tokens));
    embedding_ = LoadMarianEmbedding(loader, "decoder", tokens, config_);
    for (int i = 0; i < config_.layers; ++i) layers_.push_back(LoadLayer(loader, i));
    LoadHead(loader, both.final_norm ? "model.decoder.layer_norm" : "",
             loader.Has("final_logits_bias") ? "final_logits_bias" : "");
    weight_bytes_ = loader.bytes();
    Declare();
  }

  void Encode(const Batch& sources, const Caches& caches) override {
    backend_.RunStep(nullptr, sources, [&](const StepShape& shape) {
      MarianStream stream(backend_, config_, workspace_parts_, shape.rows);
      const Tensor encoded = encoder_->Run(backend_, sources, stream);
      for (const MarianLayer& layer : layers_) {
        const Tensor kv = stream.Projected(layer.cross.key_columns() + layer.cross.value_columns());
        Project(backend_, encoded, layer.cross_memory, kv);
        layer.cross.WriteCrossKv(backend_, sources, caches, kv);
      }
    });
  }

 private:
  void Run(const Batch& batch, const StepShape& shape, const Caches& caches) override {
    MarianStream stream(backend_, config_, workspace_parts_, shape.rows);
    stream.Embed(batch, embedding_);
    for (const MarianLayer& layer : layers_) {
      const Tensor qkv = stream.Projected(layer.self.columns());
      Project(backend_, stream.Enter(layer.self_norm), layer.self_qkv, qkv);
      layer.self.Run(backend_, batch, caches, {}, qkv, stream.attn_out());
      stream.AddAttention(layer.self_out, layer.self_norm);

      const Tensor q = stream.Projected(layer.cross.query_columns());
      Project(backend_, stream.Enter(layer.cross_norm), layer.cross_query, q);
      layer.cross.CrossAttend(backend_, batch, caches, q, stream.attn_out());
      stream.AddAttention(layer.cross_out, layer.cross_norm);

      stream.FeedForward(layer.feed_forward);
    }
    Logits(batch, shape, config_.encoder_decoder->final_norm ? stream.x() : stream.output());
  }

  MarianLayer LoadLayer(WeightLoader& loader, int layer) {
    const std::string name = "model.decoder.layers." + std::to_string(layer) + ".";
    const std::string self = AttentionPrefix(layer, false);
    const std::string cross = AttentionPrefix(layer, true);
    const FeatureMapWeights self_map = ReadFeatureMap(loader, config_, layer, false);
    const FeatureMapWeights cross_map = ReadFeatureMap(loader, config_, layer, true);
    const bool self_folded = ShouldFold(config_, layer, false);
    const bool cross_folded = ShouldFold(config_, layer, true);
    const float scale = config_.linear_attention ? config_.linear_attention->query_scale : 1.0F;
    // The projections to queries and keys, the map's own folded in where that saves work.
    const auto add = [&](const std::string& projection, bool of_cross, float factor,
                         ProjectionStack* stack) {
      if (!(of_cross ? cross_folded : self_folded)) return stack->Add(loader, projection);
      stack->Add(
          FoldFeatureMap(loader.Floats(projection + ".weight"), loader.Floats(projection + ".bias"),
                         of_cross ? cross_map : self_map, factor, config_),
          config_.hidden_size);
    };
    ProjectionStack self_qkv;
    add(self + "q_proj", false, scale, &self_qkv);
    add(self + "k_proj", false, 1.0F, &self_qkv);
    self_qkv.Add(loader, self + "v_proj");
    ProjectionStack query;
    add(cross + "q_proj", true, scale, &query);
    ProjectionStack memory;
    add(cross + "k_proj", true, 1.0F, &memory);
    memory.Add(loader, cross + "v_proj");
    return {
        .self_norm = LoadNorm(loader, name + "self_attn_layer_norm"),
        .self = Attention::Load(loader, config_, layer, false, self_map, self_folded),
        .self_qkv = self_qkv.Load(loader),
        .self_out = LoadProjection(loader, {self + "out_proj"}),
        .cross_norm = LoadNorm(loader, name + "encoder_attn_layer_norm"),
        .cross = Attention::Load(loader, config_, layer, true, cross_map, cross_folded),
        .cross_query = query.Load(loader),
        .cross_memory = memory.Load(loader),
        .cross_out = LoadProjection(loader, {cross + "out_proj"}),
        .feed_forward = LoadMarianFeedForward(loader, name),
    };
  }

  void Declare() {
    const int64_t hidden = config_.hidden_size;
    int64_t columns = encoder_->columns();
    for (const MarianLayer& layer : layers_) {
      columns = std::max({columns, layer.self.columns(), layer.cross.query_columns(),
                          layer.cross.key_columns() + layer.cross.value_columns()});
    }
    const int64_t inner =
        std::max(config_.intermediate_size, config_.encoder_decoder->encoder_intermediate_size);
    workspace_.AddRows(&workspace_parts_.x, hidden, DType::kFloat32);
    workspace_.AddRows(&workspace_parts_.normed, hidden, dtype_);
    workspace_.AddRows(&workspace_parts_.projected, columns, dtype_);
    workspace_.AddRows(&workspace_parts_.attn_out, hidden, dtype_);
    workspace_.AddRows(&workspace_parts_.inner, inner, dtype_);
  }

  std::unique_ptr<MarianEncoder> encoder_;
  MarianEmbedding embedding_;
  std::vector<MarianLayer> layers_;

  MarianWorkspace workspace_parts_;
};

}  // namespace

const Architecture kMarianArchitecture = {"marian", Tensors, AttentionPrefix, MakeFamily<Marian>};

}  // namespace t2r
