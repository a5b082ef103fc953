// GPT-2: LayerNorm before each half, learned positions, weights stored [inputs, outputs].
#include <algorithm>
#include <string>
#include <vector>

#include "engine/model/architectures.h"
#include "engine/model/attention.h"
#include "engine/model/backend_model.h"
#include "engine/model/fold.h"
#include "engine/model/projection.h"
#include "engine/model/weight_loader.h"

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
      : BackendModel(config, backend) {
    WeightLoader loader(config, weights, backend, options.weight_dtype);
    int linear = 0;
    int full = 0;
    for (int i = 0; i < config.layers; ++i) {
      const bool is_linear = config.layer_types[i] == LayerType::kLinearAttention;
      layers_.push_back(LoadLayer(loader, i, is_linear, is_linear ? linear++ : full++));
    }
    final_norm_ = LoadNorm(loader, "transformer.ln_f");
    head_ = loader.LoadHead();
    embedding_ = loader.LoadEmbedding("transformer.wte.weight");
    positions_ = loader.LoadTable(loader.HostRows("transformer.wpe.weight"));
    weight_bytes_ = loader.bytes();
    Declare(backend.activation_dtype(options.weight_dtype));
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
      Normalize(x, layer.attention_norm, normed);
      backend_.MatMul(normed, *layer.qkv.weight, layer.qkv.bias.f32(), MatMulMode::kStore, qkv);
      layer.attention.Run(backend_, batch, caches, {}, qkv, attn_out);
      backend_.MatMul(attn_out, *layer.out.weight, layer.out.bias.f32(), MatMulMode::kAccumulate,
                      x);

      Normalize(x, layer.mlp_norm, normed);
      backend_.MatMul(normed, *layer.up.weight, layer.up.bias.f32(), MatMulMode::kStore, inner);
      backend_.Activate(ActivationKind::kGeluTanh, inner);
      backend_.MatMul(inner, *layer.down.weight, layer.down.bias.f32(), MatMulMode::kAccumulate, x);
    }
    const int64_t logit_rows = shape.logit_rows;
    if (logit_rows == 0) return;
    const Tensor last = last_.Rows(logit_rows);
    const Tensor last_normed = last_normed_.Rows(logit_rows);
    backend_.GatherLogitRows(batch, x, last);
    Normalize(last, final_norm_, last_normed);
    backend_.MatMul(last_normed, *head_, nullptr, MatMulMode::kStore, logits_.Rows(logit_rows));
  }

  void Normalize(Tensor x, const Norm& norm, Tensor out) {
    backend_.LayerNorm(x, norm.weight.f32(), norm.bias.f32(), config_.norm_eps, out);
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

  // index: the layer's place among the linear or full ones.
  Gpt2Layer LoadLayer(WeightLoader& loader, int layer, bool linear, int index) {
    const std::string attention = AttentionPrefix(layer, false);
    const std::string name = "transformer.h." + std::to_string(layer) + ".";
    FeatureMapWeights map;
    if (linear) map = ReadFeatureMap(loader, config_, layer, false);
    const bool folded = linear && ShouldFold(config_, layer, false);
    const std::string qkv = attention + "c_attn";
    return {
        .attention = linear ? Attention::Linear(config_, layer, false, index, map, folded, loader)
                            : Attention::Full(config_, index),
        .attention_norm = LoadNorm(loader, name + "ln_1"),
        .qkv = folded ? LoadFolded(loader, qkv, map) : LoadProjection(loader, {qkv}),
        .out = LoadProjection(loader, {attention + "c_proj"}),
        .mlp_norm = LoadNorm(loader, name + "ln_2"),
        .up = LoadProjection(loader, {name + "mlp.c_fc"}),
        .down = LoadProjection(loader, {name + "mlp.c_proj"}),
    };
  }

  void Declare(DType dtype) {
    const int64_t hidden = config_.hidden_size;
    int64_t columns = 0;
    for (const Gpt2Layer& layer : layers_) columns = std::max(columns, layer.attention.columns());
    workspace_.AddRows(&x_, hidden, DType::kFloat32);
    workspace_.AddRows(&normed_, hidden, dtype);
    workspace_.AddRows(&qkv_, columns, dtype);
    workspace_.AddRows(&attn_out_, hidden, dtype);
    workspace_.AddRows(&inner_, config_.intermediate_size, dtype);
    workspace_.AddLogitRows(&last_, hidden, DType::kFloat32);
    workspace_.AddLogitRows(&last_normed_, hidden, dtype);
  }

  std::shared_ptr<const Matrix> embedding_;
  std::unique_ptr<Matrix> positions_;
  std::vector<Gpt2Layer> layers_;
  Norm final_norm_;
  std::shared_ptr<const Matrix> head_;

  Activation x_, normed_, qkv_, attn_out_, inner_, last_, last_normed_;
};

std::unique_ptr<Model> Make(const ModelConfig& config, const WeightSource& weights,
                            Backend& backend, const ModelOptions& options) {
  return std::make_unique<Gpt2>(config, weights, backend, options);
}

}  // namespace

const Architecture kGpt2Architecture = {"gpt2", Tensors, AttentionPrefix, Make};

}  // namespace t2r
