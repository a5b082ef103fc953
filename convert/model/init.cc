#include "convert/model/init.h"

#include <torch/torch.h>

#include <cmath>
#include <string>

#include "convert/error.h"

namespace t2r::convert {
namespace {

using torch::Tensor;

// Draws on the CPU whatever the device: the same seed gives the same model.
class Random {
 public:
  explicit Random(uint64_t seed) : generator_(at::detail::createCPUGenerator(seed)) {}
  Tensor Normal(const std::vector<int64_t>& shape) {
    return torch::randn(shape, generator_, torch::kFloat32);
  }

 private:
  at::Generator generator_;
};

// [groups, rows, d]: in blocks of d, rows are orthogonal; row norms are those of normal vectors
// (chi with d degrees of freedom) or, where `unit`, one.
Tensor OrthogonalRows(int64_t groups, int64_t rows, int64_t d, bool unit, Random* random) {
  const int64_t blocks = (rows + d - 1) / d;
  const Tensor bases = std::get<0>(torch::linalg_qr(random->Normal({groups, blocks, d, d})));
  Tensor directions = bases.reshape({groups, blocks * d, d}).narrow(1, 0, rows);
  if (!unit) directions = directions * random->Normal({groups, rows, d}).norm(2, {-1}, true);
  return directions.contiguous();
}

}  // namespace

void InitializeLora(TrainingModel* model, uint64_t seed) {
  const torch::NoGradGuard no_grad;
  Random random(seed ^ 0x10a4U);
  for (const auto& spec : model->parameters().specs()) {
    if (!spec.lora || !spec.name.ends_with(".lora_a")) continue;
    Tensor factor = model->parameters().Get(spec.name);
    factor.copy_(random.Normal(spec.shape) / std::sqrt(static_cast<double>(spec.shape[1])));
  }
}

Tensor SinusoidalPositions(int64_t positions, int64_t width) {
  const Tensor frequencies = torch::pow(
      10000.0, torch::arange(0, width, 2, torch::kFloat64) / -static_cast<double>(width));
  const Tensor angles = torch::outer(torch::arange(positions, torch::kFloat64), frequencies);
  return torch::cat({angles.sin(), angles.cos().narrow(1, 0, width / 2)}, 1).to(torch::kFloat32);
}

Tensor ComputedValue(const ParameterSpec& spec) {
  return spec.role == TensorRole::kPositions ? SinusoidalPositions(spec.shape[0], spec.shape[1])
                                             : torch::zeros(spec.shape);
}

void InitializeFromScratch(TrainingModel* model, uint64_t seed) {
  const torch::NoGradGuard no_grad;
  Random random(seed);
  const double residual = 1.0 / std::sqrt(2.0 * model->config().layers);
  for (const auto& spec : model->parameters().specs()) {
    if (spec.feature_map || spec.lora) continue;
    Tensor parameter = model->parameters().Get(spec.name);
    if (spec.computed) {
      parameter.copy_(ComputedValue(spec));
    } else if (spec.shape.size() == 1) {
      parameter.fill_(spec.role == TensorRole::kNormWeight ? 1.0 : 0.0);
    } else {
      const double deviation = 0.02 * (spec.ends_residual ? residual : 1.0);
      parameter.copy_(random.Normal(spec.shape) * deviation);
    }
  }
  InitializeFeatureMaps(model, seed);
}

void InitializeFeatureMaps(TrainingModel* model, uint64_t seed) {
  const torch::NoGradGuard no_grad;
  const ModelConfig& config = model->config();
  if (!config.linear_attention.has_value()) return;
  Random random(seed ^ 0x5eedf3a7U);
  const int64_t groups = config.kv_heads, d = config.head_dim;
  for (const AttentionSite& site : AttentionSites(config)) {
    if (!IsLinear(config, site)) continue;
    const int64_t k = config.linear_attention->sizes(site.layer, site.cross).features;
    const std::string prefix = AttentionPrefix(config, site) + "feature_map.";
    const auto set = [&](const char* name, const Tensor& values) {
      Tensor parameter = model->parameters().Get(prefix + name);
      parameter.copy_(values);
    };
    switch (config.linear_attention->feature_map) {
      case FeatureMapKind::kT2r:
        set("weight", OrthogonalRows(groups, k, d, /*unit=*/true, &random));
        set("bias", torch::ones({groups, k}));
        break;
      case FeatureMapKind::kElu:
        break;
      case FeatureMapKind::kRfa:
        set("projection", OrthogonalRows(groups, k / 2, d, /*unit=*/false, &random));
        break;
      case FeatureMapKind::kHedgehog:
        set("weight", torch::eye(d)
                          .repeat({(k / 2 + d - 1) / d, 1})
                          .narrow(0, 0, k / 2)
                          .expand({groups, k / 2, d}));
        break;
      case FeatureMapKind::kCodebook: {
        // Centroids of the same random directions for keys and queries, all of one bias.
        const Tensor rows = OrthogonalRows(groups, k, d, /*unit=*/false, &random);
        set("key_weight", rows);
        set("key_bias", torch::zeros({groups, k}));
        set("query_weight", rows);
        set("query_bias", torch::zeros({config.heads, k}));
        break;
      }
      case FeatureMapKind::kNone:
        break;
    }
  }
}

bool HasSlidingWindow(const ModelConfig& config) {
  const auto& linear = config.linear_attention;
  return linear.has_value() && linear->feature_map == FeatureMapKind::kNone && linear->sinks == 0 &&
         linear->layers.empty();
}

ModelConfig SwappedConfig(const ModelConfig& parent, const SwapOptions& options) {
  if (HasSlidingWindow(parent)) {
    if (!options.keep_full.empty()) {
      throw ConvertError(
          "--keep-full: this model's layers have a sliding window; kept full they would see more "
          "than it was trained to");
    }
  } else if (parent.linear_layers() + parent.linear_cross_layers() > 0) {
    throw ConvertError(
        "the model has linear layers already; leave out --feature-map to finetune it as it is");
  }
  LinearAttentionConfig linear;
  linear.feature_map = options.feature_map;
  linear.feature_size = options.feature_size;
  linear.window = options.window;
  linear.sinks = options.sinks;
  linear.fold = options.fold;
  linear.rope_features = options.rope_features;
  linear.sink_position = options.sink_position;
  if (options.window < 0 || options.sinks < 0 || options.fold < 1) {
    throw ConvertError("--window and --sinks must be at least 0, --fold at least 1");
  }
  if (options.window == 0 && (options.sinks > 0 || options.fold > 1)) {
    throw ConvertError("--sinks and --fold need a --window");
  }
  const bool none = options.feature_map == FeatureMapKind::kNone;
  if (none && (options.window == 0 || parent.encoder_decoder.has_value())) {
    throw ConvertError(
        "--feature-map none is a window alone: it needs --window, and cannot stand "
        "in cross attention");
  }
  linear.query_scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(parent.head_dim)));
  if (options.feature_map != FeatureMapKind::kT2r) {
    linear.normalizer = Normalizer::kAdd;
    linear.eps = 1e-6F;
  }
  const bool halves = options.feature_map == FeatureMapKind::kRfa ||
                      options.feature_map == FeatureMapKind::kHedgehog;
  if (options.feature_map == FeatureMapKind::kElu) {
    if (options.feature_size != 0 && options.feature_size != parent.head_dim) {
      throw ConvertError("--feature-size must be head_dim, " + std::to_string(parent.head_dim) +
                         ", for elu (or be left out)");
    }
    linear.feature_size = parent.head_dim;
  } else if (none) {
    linear.feature_size = 0;
  } else if (options.feature_size < 1) {
    throw ConvertError("--feature-size must be at least 1 for this feature map");
  } else if (halves && options.feature_size % 2 != 0) {
    throw ConvertError(
        "--feature-size must be even for rfa and hedgehog, which make features in "
        "two halves; got " +
        std::to_string(options.feature_size));
  }
  ModelConfig swapped = parent;
  const auto swap = [&](const std::vector<int>& kept, const char* flag) {
    std::vector<LayerType> types(static_cast<size_t>(parent.layers), LayerType::kLinearAttention);
    for (const int layer : kept) {
      if (layer < 0 || layer >= parent.layers) {
        throw ConvertError(std::string(flag) + " names layer " + std::to_string(layer) +
                           "; the model has layers 0 to " + std::to_string(parent.layers - 1));
      }
      types[static_cast<size_t>(layer)] = LayerType::kFullAttention;
    }
    return types;
  };
  swapped.layer_types = swap(options.keep_full, "--keep-full");
  if (swapped.encoder_decoder.has_value()) {
    swapped.encoder_decoder->cross_layer_types = swap(options.keep_full_cross, "--keep-full-cross");
  } else if (!options.keep_full_cross.empty()) {
    throw ConvertError("--keep-full-cross is given, but the model has no cross attention");
  }
  if (swapped.linear_layers() + swapped.linear_cross_layers() == 0) {
    throw ConvertError("every layer is kept full: nothing is left to convert");
  }
  swapped.linear_attention = linear;
  return swapped;
}

}  // namespace t2r::convert
