#include "convert/model/model.h"

#include <torch/torch.h>

#include <algorithm>
#include <string>
#include <utility>

#include "convert/error.h"
#include "convert/model/cross_attention.h"
#include "convert/model/windowed_attention.h"
#include "engine/model/rope.h"

namespace t2r::convert {

using torch::Tensor;

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
    : config_(std::move(config)),
      parameters_(std::move(parameters)),
      lora_scale_(lora_scale),
      network_(NetworkOf(*config_.architecture)),
      head_(HeadOf(TensorsOf(config_))) {
  if (config_.rotary_dim > 0) {
    inverse_frequencies_ = torch::tensor(RopeInverseFrequencies(config_), torch::kFloat64);
  }
}

Layers TrainingModel::layers() const {
  return {config_, parameters_, lora_scale_, products_, inverse_frequencies_};
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
  return network_(layers(), input, attention);
}

const Tensor& TrainingModel::OutputTable() const { return parameters_.Get(head_); }

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

Tensor TrainingModel::Value(const std::string& name) const { return layers().Value(name); }

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
  const Tensor decay = tensor("log_decay");
  if (decay.defined() && (decay.requires_grad() || decay.any().item<bool>())) {
    map.log_decay = decay;
  }
  if (site.cross) return LinearAttentionOver(linear, map, in.q, in.k, in.v, input.source_counted);
  if (!IsWindowed(linear, sizes)) return LinearAttention(linear, map, in.q, in.k, in.v);
  map.far_bias = tensor("far_bias");
  return WindowedAttention(linear, sizes, map, in);
}

}  // namespace t2r::convert
