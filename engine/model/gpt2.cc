// GPT-2: LayerNorm before each half, learned positions, weights stored [inputs, outputs].
#include <algorithm>
#include <string>
#include <vector>

#include "engine/model/architectures.h"
#include "engine/model/attention.h"
#include "engine/model/backend_model.h"
#include "engine/model/fold.h"

namespace t2r {
namespace {

std::vector<TensorSpec> Tensors(const ModelConfig& config) {
  TensorList list(config, "transformer.");
  const int64_t hidden = config.hidden_size;
  const int64_t inner = config.intermediate_size;
  list.Table("transformer.wte.weight", TensorRole::kEmbedding, config.vocab_size);
  list.Table("transformer.wpe.weight", TensorRole::kPositions, config.max_position_embeddings);
  for (int i = 0; i < config.layers; ++i) {
    const std::string layer = "transformer.h." + std::to_string(i) + ".";
    list.Norm(layer + "ln_1", hidden, true);
    list.Conv1d(layer + "attn.c_attn", hidden, 3 * hidden);
    list.Conv1d(layer + "attn.c_proj", hidden, hidden, true);
    list.FeatureMap(layer + "attn.", i);
    list.Norm(layer + "ln_2", hidden, true);
    list.Conv1d(layer + "mlp.c_fc", hidden, inner);
    list.Conv1d(layer + "mlp.c_proj", inner, hidden, true);
  }
  list.Norm("transformer.ln_f", hidden, true);
  list.Head();
  return list.Take();
}

std::string AttentionPrefix(int layer, bool /*cross*/) {
  return "transformer.h." + std::to_string(layer) + ".attn.";
}

struct Gpt2Layer {
  Attention attention;
  Norm attention_norm;
  Projection qkv;  // [q | k | v] output columns; pre-activations for q and k where folded
  Projection out;
  Norm mlp_norm;
  Projection up;
  Projection down;
};

class Gpt2 : public BackendModel {
 public:
  Gpt2(const ModelConfig& config, const WeightSource& weights, Backend& backend,
       const ModelOptions& options)
      : BackendModel(config, backend, options) {
    WeightLoader loader(config, weights, backend, options.weight_dtype);
    for (int i = 0; i < config.layers; ++i) layers_.push_back(LoadLayer(loader, i));
    LoadHead(loader, "transformer.ln_f");
    embedding_ = loader.LoadEmbedding("transformer.wte.weight");
    positions_ = loader.LoadTable(loader.HostRows("transformer.wpe.weight"));
    weight_bytes_ = loader.bytes();
    Declare();
  }

 private:
  void Run(const Batch& batch, const StepShape& shape, const Caches& caches) override {
    const int64_t rows = shape.rows;
    const Tensor x = x_.Rows(rows);
    const Tensor normed = normed_.Rows(rows);
    const Tensor attn_out = attn_out_.Rows(rows);
    const Tensor inner = inner_.Rows(rows);
    backend_.Embed(batch, *embedding_, positions_.get(), 1.0F, x);
    for (const Gpt2Layer& layer : layers_) {
      const Tensor qkv = qkv_.Packed(rows, layer.attention.columns());
      Normalize(backend_, x, layer.attention_norm, config_.norm_eps, normed);
      Project(backend_, normed, layer.qkv, qkv);
      layer.attention.Run(backend_, batch, caches, {}, qkv, attn_out);
      AddProjected(backend_, attn_out, layer.out, x);

      Normalize(backend_, x, layer.mlp_norm, config_.norm_eps, normed);
      Project(backend_, normed, layer.up, inner);
      backend_.Activate(ActivationKind::kGeluTanh, inner);
      AddProjected(backend_, inner, layer.down, x);
    }
    Logits(batch, shape, x);
  }

  Projection LoadFolded(WeightLoader& loader, const std::string& name,
                        const FeatureMapWeights& map) {
    const int64_t hidden = config_.hidden_size;
    const std::vector<float> stored = loader.Floats(name + ".weight");
    const std::vector<float> biases = loader.Floats(name + ".bias");
    std::vector<float> rows(stored.size());  // [q | k | v] of a row each
    for (int64_t i = 0; i < hidden; ++i) {
      for (int64_t j = 0; j < 3 * hidden; ++j) rows[j * hidden + i] = stored[i * 3 * hidden + j];
    }
    const auto weight = [&](int64_t part) {
      return std::span(rows).subspan(part * hidden * hidden, hidden * hidden);
    };
    const auto bias = [&](int64_t part) {
      return std::span(biases).subspan(part * hidden, hidden);
    };
    const float scale = config_.linear_attention->query_scale;
    ProjectionStack stack;
    stack.Add(FoldFeatureMap(weight(0), bias(0), map, scale, config_), hidden);
    stack.Add(FoldFeatureMap(weight(1), bias(1), map, 1.0F, config_), hidden);
    stack.Add({weight(2).data(), DType::kFloat32, hidden, hidden, false}, bias(2));
    return stack.Load(loader);
  }

  Gpt2Layer LoadLayer(WeightLoader& loader, int layer) {
    const std::string attention = AttentionPrefix(layer, false);
    const std::string name = "transformer.h." + std::to_string(layer) + ".";
    const FeatureMapWeights map = ReadFeatureMap(loader, config_, layer, false);
    const bool folded = ShouldFold(config_, layer, false);
    const std::string qkv = attention + "c_attn";
    return {
        .attention = Attention::Load(loader, config_, layer, false, map, folded),
        .attention_norm = LoadNorm(loader, name + "ln_1"),
        .qkv = folded ? LoadFolded(loader, qkv, map) : LoadProjection(loader, {qkv}),
        .out = LoadProjection(loader, {attention + "c_proj"}),
        .mlp_norm = LoadNorm(loader, name + "ln_2"),
        .up = LoadProjection(loader, {name + "mlp.c_fc"}),
        .down = LoadProjection(loader, {name + "mlp.c_proj"}),
    };
  }

  void Declare() {
    const int64_t hidden = config_.hidden_size;
    int64_t columns = 0;
    for (const Gpt2Layer& layer : layers_) columns = std::max(columns, layer.attention.columns());
    workspace_.AddRows(&x_, hidden, DType::kFloat32);
    workspace_.AddRows(&normed_, hidden, dtype_);
    workspace_.AddRows(&qkv_, columns, dtype_);
    workspace_.AddRows(&attn_out_, hidden, dtype_);
    workspace_.AddRows(&inner_, config_.intermediate_size, dtype_);
  }

  std::shared_ptr<const Matrix> embedding_;
  std::unique_ptr<Matrix> positions_;
  std::vector<Gpt2Layer> layers_;

  Activation x_, normed_, qkv_, attn_out_, inner_;
};

}  // namespace

const Architecture kGpt2Architecture = {"gpt2", Tensors, AttentionPrefix, MakeFamily<Gpt2>};

}  // namespace t2r
