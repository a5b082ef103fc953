// Llama and its relatives: RMSNorm before each half, rotary positions, grouped queries, SwiGLU.
#include <algorithm>
#include <string>
#include <vector>

#include "engine/model/architectures.h"
#include "engine/model/attention.h"
#include "engine/model/backend_model.h"
#include "engine/model/weight_loader.h"

namespace t2r {
namespace {

struct LlamaLayer {
  Attention attention;
  Buffer attention_norm;
  std::unique_ptr<Matrix> qkv;  // [q | k | v] output rows
  Buffer qkv_bias;
  std::unique_ptr<Matrix> out;
  Buffer out_bias;
  Buffer mlp_norm;
  std::unique_ptr<Matrix> gate_up;  // [gate | up] output rows
  Buffer gate_up_bias;
  std::unique_ptr<Matrix> down;
  Buffer down_bias;
};

// The biases of stacked matrices, one after another; empty when the model has none.
Buffer LoadBiases(WeightLoader& loader, bool present,
                  const std::vector<std::pair<std::string, int64_t>>& parts) {
  if (!present) return {};
  std::vector<float> values;
  for (const auto& [name, size] : parts) {
    const std::vector<float> part = loader.Floats(name, {size});
    values.insert(values.end(), part.begin(), part.end());
  }
  return loader.LoadVector(values);
}

class Llama : public BackendModel {
 public:
  Llama(const ModelConfig& config, const WeightSource& weights, Backend& backend,
        const ModelOptions& options)
      : BackendModel(config, backend), frequencies_(RopeInverseFrequencies(config)) {
    WeightLoader loader(weights, backend, options.weight_dtype);
    const int64_t hidden = config.hidden_size;
    const std::string prefix =
        !loader.Has("model.embed_tokens.weight") && loader.Has("embed_tokens.weight") ? ""
                                                                                      : "model.";
    const HostMatrix embedding =
        loader.Linear(prefix + "embed_tokens.weight", config.vocab_size, hidden);
    int linear = 0;
    int full = 0;
    for (int i = 0; i < config.layers; ++i) {
      const bool is_linear = config.layer_types[i] == LayerType::kLinearAttention;
      layers_.push_back(LoadLayer(loader, prefix + "layers." + std::to_string(i) + ".", i,
                                  is_linear, is_linear ? linear++ : full++));
    }
    final_norm_ = loader.LoadVector(prefix + "norm.weight", {hidden});
    const HostMatrix head = config.tie_word_embeddings
                                ? embedding
                                : loader.Linear("lm_head.weight", config.vocab_size, hidden);
    head_ = loader.Load({&head, 1});
    embedding_ = loader.LoadTable(embedding);
    weight_bytes_ = loader.bytes();
    Declare(backend.activation_dtype(options.weight_dtype));
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
    backend_.Embed(batch, *embedding_, nullptr, 1.0F, x);
    backend_.RopeTable(batch, frequencies_, 1.0, cos_sin);
    for (const LlamaLayer& layer : layers_) {
      backend_.RmsNorm(x, layer.attention_norm.f32(), config_.norm_eps, normed);
      backend_.MatMul(normed, *layer.qkv, layer.qkv_bias.f32(), MatMulMode::kStore, qkv);
      layer.attention.Run(backend_, batch, caches, cos_sin, qkv, attn_out);
      backend_.MatMul(attn_out, *layer.out, layer.out_bias.f32(), MatMulMode::kAccumulate, x);

      backend_.RmsNorm(x, layer.mlp_norm.f32(), config_.norm_eps, normed);
      backend_.MatMul(normed, *layer.gate_up, layer.gate_up_bias.f32(), MatMulMode::kStore,
                      gate_up);
      backend_.SwiGlu(gate_up, gated);
      backend_.MatMul(gated, *layer.down, layer.down_bias.f32(), MatMulMode::kAccumulate, x);
    }
    const int64_t logit_rows = shape.logit_rows;
    if (logit_rows == 0) return;
    const Tensor last = last_.Rows(logit_rows);
    const Tensor last_normed = last_normed_.Rows(logit_rows);
    backend_.GatherLogitRows(batch, x, last);
    backend_.RmsNorm(last, final_norm_.f32(), config_.norm_eps, last_normed);
    backend_.MatMul(last_normed, *head_, nullptr, MatMulMode::kStore, logits_.Rows(logit_rows));
  }

  // index: the layer's place among the linear or full ones.
  LlamaLayer LoadLayer(WeightLoader& loader, const std::string& name, int number, bool linear,
                       int index) {
    const int64_t hidden = config_.hidden_size;
    const int64_t inner = config_.intermediate_size;
    const int64_t queries = int64_t{config_.heads} * config_.head_dim;
    const int64_t keys = int64_t{config_.kv_heads} * config_.head_dim;
    const std::string self = name + "self_attn.";
    const std::string mlp = name + "mlp.";
    LlamaLayer layer{
        .attention = linear
                         ? Attention::Linear(config_, number, false, index,
                                             ReadFeatureMap(loader, self, config_, number, false),
                                             false, loader)
                         : Attention::Full(config_, index),
        .attention_norm = loader.LoadVector(name + "input_layernorm.weight", {hidden}),
        .qkv = nullptr,
        .qkv_bias = LoadBiases(loader, config_.qkv_bias,
                               {{self + "q_proj.bias", queries},
                                {self + "k_proj.bias", keys},
                                {self + "v_proj.bias", keys}}),
        .out = nullptr,
        .out_bias =
            LoadBiases(loader, config_.attention_out_bias, {{self + "o_proj.bias", hidden}}),
        .mlp_norm = loader.LoadVector(name + "post_attention_layernorm.weight", {hidden}),
        .gate_up = nullptr,
        .gate_up_bias =
            LoadBiases(loader, config_.mlp_bias,
                       {{mlp + "gate_proj.bias", inner}, {mlp + "up_proj.bias", inner}}),
        .down = nullptr,
        .down_bias = LoadBiases(loader, config_.mlp_bias, {{mlp + "down_proj.bias", hidden}}),
    };
    const HostMatrix qkv[] = {loader.Linear(self + "q_proj.weight", queries, hidden),
                              loader.Linear(self + "k_proj.weight", keys, hidden),
                              loader.Linear(self + "v_proj.weight", keys, hidden)};
    layer.qkv = loader.Load(qkv);
    const HostMatrix out = loader.Linear(self + "o_proj.weight", hidden, queries);
    layer.out = loader.Load({&out, 1});
    const HostMatrix gate_up[] = {loader.Linear(mlp + "gate_proj.weight", inner, hidden),
                                  loader.Linear(mlp + "up_proj.weight", inner, hidden)};
    layer.gate_up = loader.Load(gate_up);
    const HostMatrix down = loader.Linear(mlp + "down_proj.weight", hidden, inner);
    layer.down = loader.Load({&down, 1});
    return layer;
  }

  void Declare(DType dtype) {
    const int64_t hidden = config_.hidden_size;
    const int64_t inner = config_.intermediate_size;
    workspace_.AddRows(&x_, hidden, DType::kFloat32);
    workspace_.AddRows(&normed_, hidden, dtype);
    workspace_.AddRows(&qkv_, layers_.front().attention.columns(), dtype);
    workspace_.AddRows(&attn_out_, int64_t{config_.heads} * config_.head_dim, dtype);
    workspace_.AddRows(&gate_up_, 2 * inner, dtype);
    workspace_.AddRows(&gated_, inner, dtype);
    workspace_.AddRows(&cos_sin_, config_.head_dim, DType::kFloat32);
    workspace_.AddLogitRows(&last_, hidden, DType::kFloat32);
    workspace_.AddLogitRows(&last_normed_, hidden, dtype);
  }

  std::vector<double> frequencies_;
  std::unique_ptr<Matrix> embedding_;
  std::vector<LlamaLayer> layers_;
  Buffer final_norm_;
  std::unique_ptr<Matrix> head_;

  Activation x_, normed_, qkv_, attn_out_, gate_up_, gated_, cos_sin_, last_, last_normed_;
};

}  // namespace

std::unique_ptr<Model> MakeLlama(const ModelConfig& config, const WeightSource& weights,
                                 Backend& backend, const ModelOptions& options) {
  return std::make_unique<Llama>(config, weights, backend, options);
}

}  // namespace t2r
