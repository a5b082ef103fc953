#include "convert/model.h"

#include <torch/torch.h>

#include <string>
#include <utility>

#include "convert/error.h"

namespace t2r::convert {
namespace {

using torch::Tensor;

// Rotates the two halves of each head (the layout of HF's Llama); x [B, T, heads…, d].
Tensor Rope(const Tensor& x, const std::pair<Tensor, Tensor>& table) {
  const auto halves = x.chunk(2, -1);
  const auto& [cos, sin] = table;
  return torch::cat({halves[0] * cos - halves[1] * sin, halves[1] * cos + halves[0] * sin}, -1);
}

}  // namespace

TrainingModel::TrainingModel(ModelConfig config, torch::Device device)
    : TrainingModel(config, Parameters(ParameterSpecs(config), device)) {}

std::unique_ptr<TrainingModel> TrainingModel::Replica(const TrainingModel& other) {
  return std::unique_ptr<TrainingModel>(
      new TrainingModel(other.config_, Parameters::Replica(other.parameters_)));
}

TrainingModel::TrainingModel(ModelConfig config, Parameters parameters)
    : config_(std::move(config)), parameters_(std::move(parameters)) {
  if (config_.architecture == Architecture::kLlama) {
    inverse_frequencies_ = torch::tensor(RopeInverseFrequencies(config_), torch::kFloat64);
  }
}

Tensor TrainingModel::Hidden(const Tensor& ids) const {
  return HiddenWith(ids, [this](int layer, const Tensor& q, const Tensor& k, const Tensor& v) {
    return IsLinear(layer) ? LinearLayer(layer, q, k, v) : SoftmaxAttention(q, k, v);
  });
}

Tensor TrainingModel::TransferLoss(const Tensor& ids, const Tensor& counted) const {
  const Tensor rows = counted.unsqueeze(-1);
  Tensor loss = torch::zeros({}, counted.options());
  const torch::NoGradGuard no_grad;
  HiddenWith(ids, [&](int layer, const Tensor& q, const Tensor& k, const Tensor& v) {
    const Tensor softmax = SoftmaxAttention(q, k, v);
    if (IsLinear(layer)) {
      const torch::AutoGradMode with_grad(true);
      const Tensor error = (LinearLayer(layer, q, k, v) - softmax) * rows;
      loss = loss + error.square().sum() / (softmax * rows).square().sum();
    }
    return softmax;
  });
  return loss;
}

Tensor TrainingModel::HiddenWith(const Tensor& ids, const AttentionFunction& attention) const {
  const auto limit = config_.position_limit();
  if (limit.has_value() && ids.size(1) > *limit) {
    throw ConvertError("a window of " + std::to_string(ids.size(1)) + " tokens exceeds the " +
                       std::to_string(*limit) + " learned positions of this model");
  }
  return config_.architecture == Architecture::kLlama ? LlamaHidden(ids, attention)
                                                      : Gpt2Hidden(ids, attention);
}

Tensor TrainingModel::Logits(const Tensor& hidden) const {
  const bool llama = config_.architecture == Architecture::kLlama;
  const char* table = !config_.tie_word_embeddings ? "lm_head.weight"
                      : llama                      ? "model.embed_tokens.weight"
                                                   : "transformer.wte.weight";
  return torch::linear(hidden, parameters_.Get(table));
}

Tensor TrainingModel::Linear(const std::string& name, const Tensor& x) const {
  const std::string bias = name + ".bias";
  return torch::linear(x, parameters_.Get(name + ".weight"),
                       parameters_.Has(bias) ? parameters_.Get(bias) : Tensor());
}

Tensor TrainingModel::RmsNorm(const std::string& name, const Tensor& x) const {
  const Tensor inverse = (x.square().mean({-1}, /*keepdim=*/true) + config_.norm_eps).rsqrt();
  return x * inverse * parameters_.Get(name + ".weight");
}

Tensor TrainingModel::LayerNorm(const std::string& name, const Tensor& x) const {
  return torch::layer_norm(x, {config_.hidden_size}, parameters_.Get(name + ".weight"),
                           parameters_.Get(name + ".bias"), config_.norm_eps);
}

Tensor TrainingModel::Conv1d(const std::string& name, const Tensor& x) const {
  const Tensor& weight = parameters_.Get(name + ".weight");
  return torch::addmm(parameters_.Get(name + ".bias"), x.reshape({-1, weight.size(0)}), weight)
      .view({x.size(0), x.size(1), weight.size(1)});
}

std::pair<Tensor, Tensor> TrainingModel::RopeTable(int64_t length) const {
  const Tensor positions = torch::arange(length, torch::kFloat64);
  const Tensor angles =
      torch::outer(positions, inverse_frequencies_).view({length, 1, 1, config_.head_dim / 2});
  const auto to = [this](const Tensor& x) {
    return x.to(torch::kFloat32).to(parameters_.device());
  };
  return {to(angles.cos()), to(angles.sin())};
}

bool TrainingModel::IsLinear(int layer) const {
  return config_.layer_types[static_cast<size_t>(layer)] == LayerType::kLinearAttention;
}

Tensor TrainingModel::LinearLayer(int layer, const Tensor& q, const Tensor& k,
                                  const Tensor& v) const {
  const std::string prefix = AttentionPrefix(config_, layer) + "feature_map.";
  FeatureMapTensors map;
  for (const char* name : {"weight", "projection"}) {
    if (parameters_.Has(prefix + name)) map.weight = parameters_.Get(prefix + name);
  }
  if (parameters_.Has(prefix + "bias")) map.bias = parameters_.Get(prefix + "bias");
  return LinearAttention(*config_.linear_attention, map, q, k, v);
}

Tensor TrainingModel::LlamaHidden(const Tensor& ids, const AttentionFunction& attention) const {
  const int64_t batch = ids.size(0), length = ids.size(1);
  const int64_t groups = config_.kv_heads, share = config_.heads / config_.kv_heads,
                d = config_.head_dim;
  const auto rope = RopeTable(length);
  Tensor x = torch::embedding(parameters_.Get("model.embed_tokens.weight"), ids);
  for (int i = 0; i < config_.layers; ++i) {
    const std::string layer = "model.layers." + std::to_string(i) + ".";
    const std::string self = layer + "self_attn.", mlp = layer + "mlp.";
    const Tensor in = RmsNorm(layer + "input_layernorm", x);
    const Tensor q =
        Rope(Linear(self + "q_proj", in).view({batch, length, groups, share, d}), rope);
    const Tensor k =
        Rope(Linear(self + "k_proj", in).view({batch, length, groups, 1, d}), rope).squeeze(3);
    const Tensor v = Linear(self + "v_proj", in).view({batch, length, groups, d});
    x = x + Linear(self + "o_proj", attention(i, q, k, v));
    const Tensor mid = RmsNorm(layer + "post_attention_layernorm", x);
    const Tensor gated = torch::silu(Linear(mlp + "gate_proj", mid)) * Linear(mlp + "up_proj", mid);
    x = x + Linear(mlp + "down_proj", gated);
  }
  return RmsNorm("model.norm", x);
}

Tensor TrainingModel::Gpt2Hidden(const Tensor& ids, const AttentionFunction& attention) const {
  const int64_t batch = ids.size(0), length = ids.size(1);
  const int64_t heads = config_.heads, d = config_.head_dim;
  Tensor x = torch::embedding(parameters_.Get("transformer.wte.weight"), ids) +
             parameters_.Get("transformer.wpe.weight").narrow(0, 0, length);
  for (int i = 0; i < config_.layers; ++i) {
    const std::string layer = "transformer.h." + std::to_string(i) + ".";
    const auto qkv = Conv1d(layer + "attn.c_attn", LayerNorm(layer + "ln_1", x)).chunk(3, -1);
    const Tensor attended = attention(i, qkv[0].reshape({batch, length, heads, 1, d}),
                                      qkv[1].reshape({batch, length, heads, d}),
                                      qkv[2].reshape({batch, length, heads, d}));
    x = x + Conv1d(layer + "attn.c_proj", attended);
    const Tensor inner = Conv1d(layer + "mlp.c_fc", LayerNorm(layer + "ln_2", x));
    x = x + Conv1d(layer + "mlp.c_proj", torch::gelu(inner, "tanh"));
  }
  return LayerNorm("transformer.ln_f", x);
}

}  // namespace t2r::convert
