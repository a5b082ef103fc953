#include "convert/eval/keep_full.h"

#include <torch/torch.h>

#include <algorithm>
#include <charconv>
#include <numeric>
#include <sstream>
#include <string_view>

#include "convert/error.h"
#include "convert/train/loss.h"

namespace t2r::convert {
namespace {

std::vector<int> AllLayersBut(int kept, int layers) {
  std::vector<int> others;
  for (int layer = 0; layer < layers; ++layer) {
    if (layer != kept) others.push_back(layer);
  }
  return others;
}

}  // namespace

KeepFull ParseKeepFull(const std::string& text, int layers, const std::string& flag) {
  const auto number = [&](std::string_view part) {
    int value = 0;
    const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), value);
    if (error != std::errc() || end != part.data() + part.size()) {
      throw ConvertError(flag + " '" + text +
                         "': give layer numbers such as 0,3, or every:4, auto:2 or all");
    }
    return value;
  };
  const auto after = [&](std::string_view prefix, int limit) {
    const int value = number(std::string_view(text).substr(prefix.size()));
    if (value < 1 || value > limit) {
      throw ConvertError(flag + " " + std::string(prefix) + "N needs N from 1 to " +
                         std::to_string(limit));
    }
    return value;
  };
  KeepFull kept;
  if (text.empty()) return kept;
  if (text == "all") {
    kept.layers.resize(static_cast<size_t>(layers));
    std::iota(kept.layers.begin(), kept.layers.end(), 0);
  } else if (text.starts_with("every:")) {
    const int step = after("every:", layers);
    for (int layer = step - 1; layer < layers; layer += step) kept.layers.push_back(layer);
  } else if (text.starts_with("auto:")) {
    kept.automatic = after("auto:", layers);
  } else {
    std::istringstream parts(text);
    for (std::string part; std::getline(parts, part, ',');) kept.layers.push_back(number(part));
  }
  return kept;
}

std::vector<SwapCost> MeasureSwapCosts(const TrainingModel& parent, const SwapOptions& options,
                                       bool cross, const Corpus& valid, uint64_t seed) {
  const torch::NoGradGuard no_grad;
  const int layers = parent.config().layers;
  const std::vector<int> all = AllLayersBut(-1, layers);
  const double reference = Evaluate(parent, valid).nats_per_token();
  std::vector<SwapCost> costs;
  for (int layer = 0; layer < layers; ++layer) {
    SwapOptions one = options;
    one.keep_full = cross ? all : AllLayersBut(layer, layers);
    one.keep_full_cross.clear();
    if (parent.config().encoder_decoder.has_value()) {
      one.keep_full_cross = cross ? AllLayersBut(layer, layers) : all;
    }
    TrainingModel model(SwappedConfig(parent.config(), one), parent.parameters().device());
    for (const auto& spec : parent.parameters().specs()) {
      torch::Tensor value = model.parameters().Get(spec.name);
      value.copy_(parent.parameters().Get(spec.name));
    }
    InitializeFeatureMaps(&model, seed);
    costs.push_back({{layer, cross}, Evaluate(model, valid).nats_per_token() - reference});
  }
  return costs;
}

std::vector<int> CostliestLayers(std::vector<SwapCost> costs, int count) {
  std::stable_sort(costs.begin(), costs.end(),
                   [](const SwapCost& a, const SwapCost& b) { return a.nats > b.nats; });
  std::vector<int> layers;
  for (int i = 0; i < count; ++i) layers.push_back(costs[static_cast<size_t>(i)].site.layer);
  std::sort(layers.begin(), layers.end());
  return layers;
}

}  // namespace t2r::convert
