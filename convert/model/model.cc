#include "convert/model/model.h"

#include <torch/torch.h>

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include "convert/error.h"
#include "convert/model/cross_attention.h"
#include "convert/model/windowed_attention.h"

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

TrainingModel::TrainingModel(ModelConfig config, torch::Device device,
                             const TrainableOptions& trainable)
    : TrainingModel(config, Parameters(Trainable(ParameterSpecs(config), trainable), device),
                    trainable.lora_rank == 0 ? 0 : trainable.lora_alpha / trainable.lora_rank) {}

std::unique_ptr<TrainingModel> TrainingModel::Replica(const TrainingModel& other) {
  std::unique_ptr<TrainingModel> replica(
      new TrainingModel(other.config_, Parameters::Replica(other.parameters_), other.lora_scale_));
  replica->products_ = other.products_;
  return replica;
}

TrainingModel::TrainingModel(ModelConfig config, Parameters parameters, double lora_scale)
    : config_(std::move(config)), parameters_(std::move(parameters)), lora_scale_(lora_scale) {
  if (config_.architecture == Architecture::kLlama) {
    inverse_frequencies_ = torch::tensor(RopeInverseFrequencies(config_), torch::kFloat64);
  }
}

Tensor TrainingModel::Hidden(const ModelInput& input) const {
  return HiddenWith(input, [&](const AttentionSite& site, const AttentionInput& in) {
    return IsLinear(config_, site) ? LinearSite(input, site, in) : SoftmaxSite(input, site, in);
  });
}

void TrainingModel::VisitAttention(
    const ModelInput& input,
    const std::function<void(const AttentionSite&, const AttentionInput&, const Tensor&)>& visit)
    const {
  const torch::NoGradGuard no_grad;
  HiddenWith(input, [&](const AttentionSite& site, const AttentionInput& in) {
    const Tensor out = SoftmaxSite(input, site, in);
    visit(site, in, out);
    return out;
  });
}

double TrainingModel::TransferLoss(const ModelInput& input, const Tensor& counted,
                                   const std::function<void(const Tensor&)>& each) const {
  const Tensor rows = counted.unsqueeze(-1);
  double sum = 0;
  VisitAttention(input,
                 [&](const AttentionSite& site, const AttentionInput& in, const Tensor& softmax) {
                   if (!IsLinear(config_, site)) return;
                   const torch::AutoGradMode with_grad(true);
                   const Tensor error = (LinearSite(input, site, in) - softmax) * rows;
                   const Tensor loss = error.square().sum() / (softmax * rows).square().sum();
                   sum += loss.item<double>();
                   if (each) each(loss);
                 });
  return sum;
}

Tensor TrainingModel::HiddenWith(const ModelInput& input,
                                 const AttentionFunction& attention) const {
  const auto limit = config_.position_limit();
  const int64_t length =
      std::max(input.ids.size(1), input.source.defined() ? input.source.size(1) : 0);
  if (limit.has_value() && length > *limit) {
    throw ConvertError("a window of " + std::to_string(length) + " tokens exceeds the " +
                       std::to_string(*limit) + " stored positions of this model");
  }
  switch (config_.architecture) {
    case Architecture::kLlama:
      return LlamaHidden(input.ids, attention);
    case Architecture::kGpt2:
      return Gpt2Hidden(input.ids, attention);
    case Architecture::kMarian:
      return MarianHidden(input, attention);
  }
  throw ConvertError("unknown architecture");
}

const Tensor& TrainingModel::OutputTable() const {
  if (!config_.tie_word_embeddings) return parameters_.Get("lm_head.weight");
  switch (config_.architecture) {
    case Architecture::kLlama:
      return parameters_.Get("model.embed_tokens.weight");
    case Architecture::kGpt2:
      return parameters_.Get("transformer.wte.weight");
    case Architecture::kMarian:
      return parameters_.Get(config_.encoder_decoder->share_embeddings
                                 ? "model.shared.weight"
                                 : "model.decoder.embed_tokens.weight");
  }
  throw ConvertError("unknown architecture");
}

Tensor TrainingModel::Logits(const Tensor& hidden) const {
  return LogitsBy(Narrow(OutputTable()), hidden);
}

Tensor TrainingModel::LogitsBy(const Tensor& narrow_table, const Tensor& hidden) const {
  const Tensor logits = torch::linear(Narrow(hidden), narrow_table).to(torch::kFloat32);
  return parameters_.Has("final_logits_bias") ? logits + parameters_.Get("final_logits_bias")
                                              : logits;
}

void TrainingModel::SetLayerTypes(const ModelConfig& types) {
  config_.layer_types = types.layer_types;
  if (config_.encoder_decoder.has_value()) {
    config_.encoder_decoder->cross_layer_types = types.encoder_decoder->cross_layer_types;
  }
}

Tensor TrainingModel::Value(const std::string& name) const {
  const Tensor& value = parameters_.Get(name);
  if (lora_scale_ == 0 || !parameters_.Has(name + ".lora_a")) return value;
  return torch::addmm(value, parameters_.Get(name + ".lora_b"), parameters_.Get(name + ".lora_a"),
                      1.0, lora_scale_);
}

Tensor TrainingModel::Linear(const std::string& name, const Tensor& x) const {
  const std::string bias = name + ".bias";
  const Tensor weight = Value(name + ".weight");
  if (products_ != torch::kFloat32) {
    const Tensor out = torch::linear(Narrow(x), Narrow(weight)).to(torch::kFloat32);
    return parameters_.Has(bias) ? out + parameters_.Get(bias) : out;
  }
  return torch::linear(x, weight, parameters_.Has(bias) ? parameters_.Get(bias) : Tensor());
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
  const Tensor weight = Value(name + ".weight");
  return torch::addmm(parameters_.Get(name + ".bias"), x.reshape({-1, weight.size(0)}), weight)
      .view({x.size(0), x.size(1), weight.size(1)});
}

std::pair<Tensor, Tensor> TrainingModel::RopeTable(int64_t length, int64_t last) const {
  const Tensor positions = torch::arange(length, torch::kFloat64).clamp_max(last);
  const Tensor angles =
      torch::outer(positions, inverse_frequencies_).view({length, 1, 1, config_.head_dim / 2});
  const auto to = [this](const Tensor& x) {
    return x.to(torch::kFloat32).to(parameters_.device());
  };
  return {to(angles.cos()), to(angles.sin())};
}

Tensor TrainingModel::SoftmaxSite(const ModelInput& input, const AttentionSite& site,
                                  const AttentionInput& in) const {
  return site.cross ? SoftmaxAttentionOver(in.q, in.k, in.v, input.source_counted)
                    : SoftmaxAttention(in.q, in.k, in.v);
}

Tensor TrainingModel::LinearSite(const ModelInput& input, const AttentionSite& site,
                                 const AttentionInput& in) const {
  const std::string prefix = AttentionPrefix(config_, site) + "feature_map.";
  const auto tensor = [&](const char* name) {
    return parameters_.Has(prefix + name) ? parameters_.Get(prefix + name) : Tensor();
  };
  LinearAttentionConfig linear = *config_.linear_attention;
  const LinearSizes sizes = linear.sizes(site.layer, site.cross);
  linear.feature_size = sizes.features;
  FeatureMapTensors map;
  if (linear.feature_map == FeatureMapKind::kCodebook) {
    map = {tensor("key_weight"),
           tensor("key_bias"),
           tensor("query_weight"),
           tensor("query_bias"),
           {},
           {}};
  } else {
    map.weight = tensor(linear.feature_map == FeatureMapKind::kRfa ? "projection" : "weight");
    map.bias = tensor("bias");
  }
  if (site.cross) return LinearAttentionOver(linear, map, in.q, in.k, in.v, input.source_counted);
  if (!IsWindowed(linear, sizes)) return LinearAttention(linear, map, in.q, in.k, in.v);
  map.far_bias = tensor("far_bias");
  const Tensor decay = tensor("log_decay");
  if (decay.defined() && (decay.requires_grad() || decay.any().item<bool>())) {
    map.log_decay = decay;
  }
  return WindowedAttention(linear, sizes, map, in);
}

Tensor TrainingModel::LlamaHidden(const Tensor& ids, const AttentionFunction& attention) const {
  const int64_t batch = ids.size(0), length = ids.size(1);
  const int64_t groups = config_.kv_heads, share = config_.heads / config_.kv_heads,
                d = config_.head_dim;
  const auto rope = RopeTable(length, length);
  std::optional<std::pair<Tensor, Tensor>> sink_rope;
  if (config_.linear_attention.has_value() && config_.linear_attention->sink_position.has_value()) {
    sink_rope = RopeTable(length, *config_.linear_attention->sink_position);
  }
  Tensor x = torch::embedding(parameters_.Get("model.embed_tokens.weight"), ids);
  for (int i = 0; i < config_.layers; ++i) {
    const std::string layer = "model.layers." + std::to_string(i) + ".";
    const std::string self = layer + "self_attn.", mlp = layer + "mlp.";
    const Tensor in = RmsNorm(layer + "input_layernorm", x);
    const Tensor q = Linear(self + "q_proj", in).view({batch, length, groups, share, d});
    const Tensor k = Linear(self + "k_proj", in).view({batch, length, groups, 1, d});
    const AttentionInput read{Rope(q, rope),
                              Rope(k, rope).squeeze(3),
                              Linear(self + "v_proj", in).view({batch, length, groups, d}),
                              q,
                              k.squeeze(3),
                              sink_rope.has_value() ? Rope(q, *sink_rope) : Tensor()};
    x = x + Linear(self + "o_proj", attention({i, false}, read));
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
    const Tensor q = qkv[0].reshape({batch, length, heads, 1, d});
    const Tensor k = qkv[1].reshape({batch, length, heads, d});
    const Tensor v = qkv[2].reshape({batch, length, heads, d});
    x = x + Conv1d(layer + "attn.c_proj", attention({i, false}, {q, k, v, q, k, {}}));
    const Tensor inner = Conv1d(layer + "mlp.c_fc", LayerNorm(layer + "ln_2", x));
    x = x + Conv1d(layer + "mlp.c_proj", torch::gelu(inner, "tanh"));
  }
  return LayerNorm("transformer.ln_f", x);
}

}  // namespace t2r::convert
