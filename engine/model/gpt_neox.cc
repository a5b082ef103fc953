// GPT-NeoX: LayerNorm before each half, rotary positions over a part of each head, q, k and v of a
// head side by side in one tensor, and both halves of a layer reading the same residual stream
// unless use_parallel_residual is false.
#include <numeric>
#include <string>
#include <vector>

#include "engine/model/architectures.h"
#include "engine/model/attention.h"
#include "engine/model/backend_model.h"
#include "engine/model/rope.h"

namespace t2r {
namespace {

std::string LayerPrefix(int layer) { return "gpt_neox.layers." + std::to_string(layer) + "."; }

std::string AttentionPrefix(int layer, bool /*cross*/) { return LayerPrefix(layer) + "attention."; }

std::vector<TensorSpec> Tensors(const ModelConfig& config) {
  TensorList list(config, "gpt_neox.");
  const int64_t hidden = config.hidden_size;
  const int64_t inner = config.intermediate_size;
  list.Table("gpt_neox.embed_in.weight", TensorRole::kEmbedding, config.vocab_size);
  for (int i = 0; i < config.layers; ++i) {
    const std::string layer = LayerPrefix(i);
    const std::string attention = AttentionPrefix(i, false);
    list.Norm(layer + "input_layernorm", hidden, true);
    list.Projection(attention + "query_key_value", 3 * hidden, hidden, config.qkv_bias);
    list.Projection(attention + "dense", hidden, hidden, config.attention_out_bias, true);
    list.FeatureMap(attention, i);
    list.Norm(layer + "post_attention_layernorm", hidden, true);
    list.Projection(layer + "mlp.dense_h_to_4h", inner, hidden, true);
    list.Projection(layer + "mlp.dense_4h_to_h", hidden, inner, true, true);
  }
  list.Norm("gpt_neox.final_layer_norm", hidden, true);
  if (!config.tie_word_embeddings) {
    list.Table("embed_out.weight", TensorRole::kHead, config.vocab_size);
  }
  return list.Take();
}

// The rows of query_key_value ([heads, 3, head_dim]) as [q | k | v], heads of q and k in HeadOrder.
std::vector<int64_t> QkvRows(const ModelConfig& config) {
  std::vector<int> plain(static_cast<size_t>(config.head_dim));
  std::iota(plain.begin(), plain.end(), 0);
  std::vector<int> order = HeadOrder(config);
  if (order.empty()) order = plain;
  std::vector<int64_t> rows;
  for (int64_t part = 0; part < 3; ++part) {
    for (int64_t head = 0; head < config.heads; ++head) {
      for (const int value : part < 2 ? order : plain) {
        rows.push_back((head * 3 + part) * config.head_dim + value);
      }
    }
  }
  return rows;
}

struct GptNeoxLayer {
  Attention attention;
  Norm attention_norm;
  Projection qkv;  // [q | k | v] output rows
  Projection out;
  Norm mlp_norm;
  Projection up;
  Projection down;
};

class GptNeox : public BackendModel {
 public:
  GptNeox(const ModelConfig& config, const WeightSource& weights, Backend& backend,
          const ModelOptions& options)
      : BackendModel(config, backend, options), frequencies_(HeadFrequencies(config)) {
    WeightLoader loader(config, weights, backend, options.weight_dtype);
    for (int i = 0; i < config.layers; ++i) layers_.push_back(LoadLayer(loader, i));
    LoadHead(loader, "gpt_neox.final_layer_norm");
    embedding_ = loader.LoadEmbedding("gpt_neox.embed_in.weight");
    weight_bytes_ = loader.bytes();
    Declare();
  }

 private:
  void Run(const Batch& batch, const StepShape& shape, const Caches& caches) override {
    const int64_t rows = shape.rows;
    const Tensor x = x_.Rows(rows);
    const Tensor normed = normed_.Rows(rows);
    const Tensor mlp_normed = mlp_normed_.Rows(rows);
    const Tensor qkv = qkv_.Rows(rows);
    const Tensor attn_out = attn_out_.Rows(rows);
    const Tensor inner = inner_.Rows(rows);
    const Tensor cos_sin = cos_sin_.Rows(rows);
    backend_.Embed(batch, *embedding_, nullptr, 1.0F, x);
    backend_.RopeTable(batch, frequencies_, RopeFactor(config_), cos_sin);
    for (const GptNeoxLayer& layer : layers_) {
      Normalize(backend_, x, layer.attention_norm, config_.norm_eps, normed);
      if (config_.parallel_residual) {
        Normalize(backend_, x, layer.mlp_norm, config_.norm_eps, mlp_normed);
      }
      Project(backend_, normed, layer.qkv, qkv);
      layer.attention.Run(backend_, batch, caches, cos_sin, qkv, attn_out);
      AddProjected(backend_, attn_out, layer.out, x);

      if (!config_.parallel_residual) {
        Normalize(backend_, x, layer.mlp_norm, config_.norm_eps, mlp_normed);
      }
      Project(backend_, mlp_normed, layer.up, inner);
      backend_.Activate(config_.activation, inner);
      AddProjected(backend_, inner, layer.down, x);
    }
    Logits(batch, shape, x);
  }

  GptNeoxLayer LoadLayer(WeightLoader& loader, int layer) {
    const std::string name = LayerPrefix(layer);
    const std::string attention = AttentionPrefix(layer, false);
    return {
        .attention = Attention::Load(loader, config_, layer, false,
                                     ReadFeatureMap(loader, config_, layer, false), false),
        .attention_norm = LoadNorm(loader, name + "input_layernorm"),
        .qkv = LoadReordered(loader, attention + "query_key_value", QkvRows(config_)),
        .out = LoadProjection(loader, {attention + "dense"}),
        .mlp_norm = LoadNorm(loader, name + "post_attention_layernorm"),
        .up = LoadProjection(loader, {name + "mlp.dense_h_to_4h"}),
        .down = LoadProjection(loader, {name + "mlp.dense_4h_to_h"}),
    };
  }

  void Declare() {
    const int64_t hidden = config_.hidden_size;
    workspace_.AddRows(&x_, hidden, DType::kFloat32);
    workspace_.AddRows(&normed_, hidden, dtype_);
    workspace_.AddRows(&mlp_normed_, hidden, dtype_);
    workspace_.AddRows(&qkv_, 3 * hidden, dtype_);
    workspace_.AddRows(&attn_out_, hidden, dtype_);
    workspace_.AddRows(&inner_, config_.intermediate_size, dtype_);
    workspace_.AddRows(&cos_sin_, config_.head_dim, DType::kFloat32);
  }

  std::vector<double> frequencies_;
  std::shared_ptr<const Matrix> embedding_;
  std::vector<GptNeoxLayer> layers_;

  Activation x_, normed_, mlp_normed_, qkv_, attn_out_, inner_, cos_sin_;
};

}  // namespace

const Architecture kGptNeoxArchitecture = {"gpt_neox", Tensors, AttentionPrefix,
                                           MakeFamily<GptNeox>};

}  // namespace t2r
