#include "convert/init.h"

#include <torch/torch.h>

#include <charconv>
#include <cmath>
#include <sstream>
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

bool EndsResidualBranch(const std::string& name) {
  for (const char* end : {"o_proj.weight", "down_proj.weight", "c_proj.weight"}) {
    if (name.ends_with(end)) return true;
  }
  return false;
}

}  // namespace

void InitializeFromScratch(TrainingModel* model, uint64_t seed) {
  const torch::NoGradGuard no_grad;
  Random random(seed);
  const double residual = 1.0 / std::sqrt(2.0 * model->config().layers);
  for (const auto& spec : model->parameters().specs()) {
    if (spec.feature_map) continue;
    Tensor parameter = model->parameters().Get(spec.name);
    if (spec.shape.size() == 1) {
      parameter.fill_(spec.name.ends_with(".weight") ? 1.0 : 0.0);
    } else {
      const double deviation = 0.02 * (EndsResidualBranch(spec.name) ? residual : 1.0);
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
  const int64_t groups = config.kv_heads, d = config.head_dim,
                k = config.linear_attention->feature_size;
  for (int layer = 0; layer < config.layers; ++layer) {
    if (config.layer_types[static_cast<size_t>(layer)] != LayerType::kLinearAttention) continue;
    const std::string prefix = AttentionPrefix(config, layer) + "feature_map.";
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
    }
  }
}

ModelConfig SwappedConfig(const ModelConfig& parent, const SwapOptions& options) {
  if (parent.linear_layers() > 0) {
    throw ConvertError(
        "the model has linear layers already; leave out --feature-map to finetune it as it is");
  }
  LinearAttentionConfig linear;
  linear.feature_map = options.feature_map;
  linear.feature_size = options.feature_size;
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
  } else if (options.feature_size < 1) {
    throw ConvertError("--feature-size must be at least 1 for this feature map");
  } else if (halves && options.feature_size % 2 != 0) {
    throw ConvertError(
        "--feature-size must be even for rfa and hedgehog, which make features in "
        "two halves; got " +
        std::to_string(options.feature_size));
  }
  ModelConfig swapped = parent;
  swapped.layer_types.assign(static_cast<size_t>(parent.layers), LayerType::kLinearAttention);
  for (const int layer : options.keep_full) {
    if (layer < 0 || layer >= parent.layers) {
      throw ConvertError("--keep-full names layer " + std::to_string(layer) +
                         "; the model has layers 0 to " + std::to_string(parent.layers - 1));
    }
    swapped.layer_types[static_cast<size_t>(layer)] = LayerType::kFullAttention;
  }
  if (swapped.linear_layers() == 0) {
    throw ConvertError("--keep-full names every layer: nothing is left to convert");
  }
  swapped.linear_attention = linear;
  return swapped;
}

std::vector<int> ParseKeepFull(const std::string& text, int layers) {
  const auto number = [&](std::string_view part) {
    int value = 0;
    const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), value);
    if (error != std::errc() || end != part.data() + part.size()) {
      throw ConvertError("--keep-full '" + text + "': give layer numbers such as 0,3 or every:4");
    }
    return value;
  };
  std::vector<int> kept;
  if (text.empty()) return kept;
  constexpr std::string_view kEvery = "every:";
  if (text.starts_with(kEvery)) {
    const int step = number(std::string_view(text).substr(kEvery.size()));
    if (step < 1) throw ConvertError("--keep-full every:N needs N of at least 1");
    for (int layer = step - 1; layer < layers; layer += step) kept.push_back(layer);
    return kept;
  }
  std::istringstream parts(text);
  for (std::string part; std::getline(parts, part, ',');) kept.push_back(number(part));
  return kept;
}

}  // namespace t2r::convert
