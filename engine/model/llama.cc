// Llama and its relatives: RMSNorm before each half, rotary positions, grouped queries, SwiGLU.
// Phi-3 keeps q, k and v in one tensor, and gate and up in another.
#include <algorithm>
#include <string>
#include <vector>

#include "engine/model/architectures.h"
#include "engine/model/attention.h"
#include "engine/model/backend_model.h"
#include "engine/model/rope.h"

namespace t2r {
namespace {

std::vector<TensorSpec> Tensors(const ModelConfig& config) {
  TensorList list(config, "model.");
  const int64_t hidden = config.hidden_size;
  const int64_t inner = config.intermediate_size;
  const int64_t queries = int64_t{config.heads} * config.head_dim;
  const int64_t keys = int64_t{config.kv_heads} * config.head_dim;
  list.Table("model.embed_tokens.weight", TensorRole::kEmbedding, config.vocab_size);
  for (int i = 0; i < config.layers; ++i) {
    const std::string layer = "model.layers." + std::to_string(i) + ".";
    const std::string self = layer + "self_attn.";
    const std::string mlp = layer + "mlp.";
    list.Norm(layer + "input_layernorm", hidden, false);
    if (config.fused_projections) {
      list.Projection(self + "qkv_proj", queries + 2 * keys, hidden, config.qkv_bias);
    } else {
      list.Projection(self + "q_proj", queries, hidden, config.qkv_bias);
      list.Projection(self + "k_proj", keys, hidden, config.qkv_bias);
      list.Projection(self + "v_proj", keys, hidden, config.qkv_bias);
    }
    list.Projection(self + "o_proj", hidden, queries, config.attention_out_bias, true);
    if (config.qk_norm) {
      list.Norm(self + "q_norm", config.head_dim, false);
      list.Norm(self + "k_norm", config.head_dim, false);
    }
    list.FeatureMap(self, i);
    list.Norm(layer + "post_attention_layernorm", hidden, false);
    if (config.fused_projections) {
      list.Projection(mlp + "gate_up_proj", 2 * inner, hidden, config.mlp_bias);
    } else {
      list.Projection(mlp + "gate_proj", inner, hidden, config.mlp_bias);
      list.Projection(mlp + "up_proj", inner, hidden, config.mlp_bias);
    }
    list.Projection(mlp + "down_proj", hidden, inner, config.mlp_bias, true);
  }
  list.Norm("model.norm", hidden, false);
  list.Head();
  return list.Take();
}

std::string AttentionPrefix(int layer, bool /*cross*/) {
  return "model.layers." + std::to_string(layer) + ".self_attn.";
}

// The rows of qkv_proj, with heads of q and k in HeadOrder.
std::vector<int64_t> QkvRows(const ModelConfig& config, const std::vector<int>& order) {
  const int turned = config.heads + config.kv_heads;  // heads
  std::vector<int64_t> rows;
  for (int64_t head = 0; head < turned + config.kv_heads; ++head) {
    for (int i = 0; i < config.head_dim; ++i) {
      rows.push_back(head * config.head_dim + (head < turned ? order[static_cast<size_t>(i)] : i));
    }
  }
  return rows;
}

struct LlamaLayer {
  Attention attention;
  Norm attention_norm;
  Projection qkv;  // [q | k | v] output rows
  Norm q_norm;     // of each head, where config.qk_norm
  Norm k_norm;
  Projection out;
  Norm mlp_norm;
  Projection gate_up;  // [gate | up] output rows
  Projection down;
};

class Llama : public BackendModel {
 public:
  Llama(const ModelConfig& config, const WeightSource& weights, Backend& backend,
        const ModelOptions& options)
      : BackendModel(config, backend, options), frequencies_(HeadFrequencies(config)) {
    WeightLoader loader(config, weights, backend, options.weight_dtype);
    for (int i = 0; i < config.layers; ++i) layers_.push_back(LoadLayer(loader, i));
    LoadHead(loader, "model.norm");
    embedding_ = loader.LoadEmbedding("model.embed_tokens.weight");
    weight_bytes_ = loader.bytes();
    Declare();
  }

 private:
  void Run(const Batch& batch, const StepShape& shape, const Caches& caches) override {
    const int64_t rows = shape.rows;
    const Tensor x = x_.Rows(rows);
    const Tensor normed = normed_.Rows(rows);
    const Tensor attn_out = attn_out_.Rows(rows);
    const Tensor gate_up = gate_up_.Rows(rows);
    const Tensor gated = gated_.Rows(rows);
    const Tensor cos_sin = cos_sin_.Rows(rows);
    const Tensor qkv = qkv_.Rows(rows);
    const int64_t queries = int64_t{config_.heads} * config_.head_dim;
    const int64_t keys = int64_t{config_.kv_heads} * config_.head_dim;
    backend_.Embed(batch, *embedding_, nullptr, 1.0F, x);
    backend_.RopeTable(batch, frequencies_, RopeFactor(config_), cos_sin);
    for (const LlamaLayer& layer : layers_) {
      Normalize(backend_, x, layer.attention_norm, config_.norm_eps, normed);
      Project(backend_, normed, layer.qkv, qkv);
      if (config_.qk_norm) {
        backend_.RmsNormHeads(qkv.Columns(0, queries), config_.heads, layer.q_norm.weight.f32(),
                              config_.norm_eps);
        backend_.RmsNormHeads(qkv.Columns(queries, keys), config_.kv_heads,
                              layer.k_norm.weight.f32(), config_.norm_eps);
      }
      layer.attention.Run(backend_, batch, caches, cos_sin, qkv, attn_out);
      AddProjected(backend_, attn_out, layer.out, x);

      Normalize(backend_, x, layer.mlp_norm, config_.norm_eps, normed);
      Project(backend_, normed, layer.gate_up, gate_up);
      backend_.SwiGlu(gate_up, gated);
      AddProjected(backend_, gated, layer.down, x);
    }
    Logits(batch, shape, x);
  }

  Projection LoadQkv(WeightLoader& loader, const std::string& self) const {
    const std::vector<int> order = HeadOrder(config_);
    if (!order.empty()) return LoadReordered(loader, self + "qkv_proj", QkvRows(config_, order));
    if (config_.fused_projections) return LoadProjection(loader, {self + "qkv_proj"});
    return LoadProjection(loader, {self + "q_proj", self + "k_proj", self + "v_proj"});
  }

  LlamaLayer LoadLayer(WeightLoader& loader, int layer) {
    const std::string self = AttentionPrefix(layer, false);
    const std::string name = "model.layers." + std::to_string(layer) + ".";
    const std::string mlp = name + "mlp.";
    LlamaLayer loaded{
        .attention = Attention::Load(loader, config_, layer, false,
                                     ReadFeatureMap(loader, config_, layer, false), false),
        .attention_norm = LoadNorm(loader, name + "input_layernorm"),
        .qkv = LoadQkv(loader, self),
        .q_norm = {},
        .k_norm = {},
        .out = LoadProjection(loader, {self + "o_proj"}),
        .mlp_norm = LoadNorm(loader, name + "post_attention_layernorm"),
        .gate_up = config_.fused_projections
                       ? LoadProjection(loader, {mlp + "gate_up_proj"})
                       : LoadProjection(loader, {mlp + "gate_proj", mlp + "up_proj"}),
        .down = LoadProjection(loader, {mlp + "down_proj"}),
    };
    if (config_.qk_norm) {
      loaded.q_norm = LoadNorm(loader, self + "q_norm");
      loaded.k_norm = LoadNorm(loader, self + "k_norm");
    }
    return loaded;
  }

  void Declare() {
    const int64_t hidden = config_.hidden_size;
    const int64_t inner = config_.intermediate_size;
    workspace_.AddRows(&x_, hidden, DType::kFloat32);
    workspace_.AddRows(&normed_, hidden, dtype_);
    workspace_.AddRows(&qkv_, layers_.front().attention.columns(), dtype_);
    workspace_.AddRows(&attn_out_, int64_t{config_.heads} * config_.head_dim, dtype_);
    workspace_.AddRows(&gate_up_, 2 * inner, dtype_);
    workspace_.AddRows(&gated_, inner, dtype_);
    workspace_.AddRows(&cos_sin_, config_.head_dim, DType::kFloat32);
  }

  std::vector<double> frequencies_;
  std::shared_ptr<const Matrix> embedding_;
  std::vector<LlamaLayer> layers_;

  Activation x_, normed_, qkv_, attn_out_, gate_up_, gated_, cos_sin_;
};

}  // namespace

const Architecture kLlamaArchitecture = {"llama", Tensors, AttentionPrefix, MakeFamily<Llama>};

}  // namespace t2r
