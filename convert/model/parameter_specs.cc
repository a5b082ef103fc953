#include "convert/model/parameter_specs.h"

#include <utility>

namespace t2r::convert {

std::vector<AttentionSite> AttentionSites(const ModelConfig& config) {
  std::vector<AttentionSite> sites;
  for (int i = 0; i < config.layers; ++i) sites.push_back({i, false});
  if (config.encoder_decoder.has_value()) {
    for (int i = 0; i < config.layers; ++i) sites.push_back({i, true});
  }
  return sites;
}

bool IsLinear(const ModelConfig& config, const AttentionSite& site) {
  const auto& types =
      site.cross ? config.encoder_decoder.value().cross_layer_types : config.layer_types;
  return types[static_cast<size_t>(site.layer)] == LayerType::kLinearAttention;
}

std::string Describe(const AttentionSite& site) {
  return (site.cross ? "cross attention of layer " : "layer ") + std::to_string(site.layer);
}

std::string AttentionPrefix(const ModelConfig& config, const AttentionSite& site) {
  return t2r::AttentionPrefix(config, site.layer, site.cross);
}

std::vector<ParameterSpec> ParameterSpecs(const ModelConfig& config) {
  std::vector<ParameterSpec> specs;
  for (TensorSpec& tensor : TensorsOf(config)) {
    ParameterSpec spec{std::move(tensor)};
    spec.decay = spec.role == TensorRole::kProjection;
    spec.feature_map = spec.role == TensorRole::kFeatureMap;
    spec.computed = spec.frozen = spec.optional;
    specs.push_back(std::move(spec));
  }
  return specs;
}

bool IsLogDecay(const ParameterSpec& spec) { return spec.name.ends_with(".log_decay"); }

std::vector<ParameterSpec> Trainable(std::vector<ParameterSpec> specs,
                                     const TrainableOptions& options) {
  const size_t given = specs.size();
  for (size_t i = 0; i < given; ++i) {
    const bool encoder = specs[i].name.starts_with("model.encoder.");
    specs[i].frozen |= options.freeze_encoder && encoder;
    if (IsLogDecay(specs[i])) {
      specs[i].frozen = !options.decay || specs[i].name.find("encoder_attn") != std::string::npos;
    }
    if (!specs[i].feature_map && options.only != TrainOnly::kAll) {
      const bool attention = specs[i].name.find("attn.") != std::string::npos ||
                             specs[i].name.find(".attention.") != std::string::npos;
      specs[i].frozen |= options.only == TrainOnly::kNew || !attention;
    }
    if (options.lora_rank == 0) continue;
    if (specs[i].decay && !specs[i].frozen) {
      for (const bool second : {false, true}) {
        ParameterSpec factor;
        factor.name = specs[i].name + (second ? ".lora_b" : ".lora_a");
        factor.shape = second ? std::vector<int64_t>{specs[i].shape[0], options.lora_rank}
                              : std::vector<int64_t>{options.lora_rank, specs[i].shape[1]};
        factor.lora = true;
        specs.push_back(std::move(factor));
      }
    }
    specs[i].frozen |= !specs[i].feature_map;
  }
  return specs;
}

}  // namespace t2r::convert
