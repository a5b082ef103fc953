#include "convert/calibrate/sizes.h"

#include <charconv>
#include <string_view>
#include <utility>

#include "convert/error.h"
#include "engine/ops/windowed_attention.h"

namespace t2r::convert {

int64_t StateBytes(const ModelConfig& config, const LinearSizes& sizes, DType window_dtype) {
  const int64_t d = config.head_dim;
  const int64_t kept = sizes.window == 0 ? 0 : int64_t{sizes.window} + sizes.fold - 1 + sizes.sinks;
  return WindowBytes(kept, config.kv_heads, d, window_dtype) +
         4 * config.kv_heads * sizes.features * (d + 1);
}

int64_t StateBytes(const ModelConfig& config, DType window_dtype) {
  if (!config.linear_attention.has_value()) return 0;
  int64_t bytes = 0;
  for (int i = 0; i < config.layers; ++i) {
    if (config.layer_types[static_cast<size_t>(i)] == LayerType::kLinearAttention) {
      bytes += StateBytes(config, config.linear_attention->sizes(i), window_dtype);
    }
    if (config.encoder_decoder.has_value() &&
        config.encoder_decoder->cross_layer_types[static_cast<size_t>(i)] ==
            LayerType::kLinearAttention) {
      bytes += StateBytes(config, config.linear_attention->sizes(i, /*cross=*/true), window_dtype);
    }
  }
  return bytes;
}

int64_t CacheBytes(const ModelConfig& config, int64_t tokens) {
  return 4 * 2 * int64_t{config.kv_heads} * config.head_dim * tokens;
}

std::vector<size_t> SpendBytes(const ModelConfig& config, const std::vector<LinearSizes>& rungs,
                               const std::vector<std::vector<double>>& nats, int64_t budget,
                               DType window_dtype) {
  const size_t layers = nats.at(0).size();
  std::vector<size_t> at(layers, 0);
  const auto linear = [&](size_t layer) {
    return config.layer_types[layer] == LayerType::kLinearAttention;
  };
  std::vector<int64_t> bytes_of;
  for (const LinearSizes& rung : rungs) {
    bytes_of.push_back(StateBytes(config, rung, window_dtype));
  }
  int64_t spent = 0;
  for (size_t layer = 0; layer < layers; ++layer) {
    if (linear(layer)) spent += bytes_of[0];
  }
  if (spent > budget) {
    throw ConvertError("--window auto:" + std::to_string(budget) + " is less than the smallest " +
                       std::to_string(spent) + " bytes");
  }
  while (true) {
    double best = 0;
    size_t best_layer = 0, best_rung = 0;
    for (size_t layer = 0; layer < layers; ++layer) {
      if (!linear(layer)) continue;
      for (size_t rung = at[layer] + 1; rung < rungs.size(); ++rung) {
        const int64_t more = bytes_of[rung] - bytes_of[at[layer]];
        const double rate =
            (nats[at[layer]][layer] - nats[rung][layer]) / static_cast<double>(more);
        if (spent + more > budget || rate <= best) continue;
        best = rate;
        best_layer = layer;
        best_rung = rung;
      }
    }
    if (best == 0) break;
    spent += bytes_of[best_rung] - bytes_of[at[best_layer]];
    at[best_layer] = best_rung;
  }
  return at;
}

WindowFlag ParseWindow(const std::string& text) {
  constexpr std::string_view kAuto = "auto:", kLike = "like:";
  if (text.starts_with(kLike) && text.size() > kLike.size()) {
    return {0, {}, text.substr(kLike.size())};
  }
  const bool automatic = text.starts_with(kAuto);
  const int64_t most = automatic ? int64_t{1} << 40 : 1 << 20;
  std::vector<int64_t> values;
  std::string_view rest = std::string_view(text).substr(automatic ? kAuto.size() : 0);
  while (true) {
    const std::string_view digits = rest.substr(0, rest.find(','));
    int64_t value = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    if (error != std::errc() || end != digits.data() + digits.size() || value < 1 || value > most ||
        (!automatic && digits.size() < rest.size())) {
      throw ConvertError("--window '" + text + "': give a number of keys such as 64 (at most " +
                         std::to_string(1 << 20) +
                         "), auto:BYTES, auto:BYTES,BYTES,... or like:DIR");
    }
    values.push_back(value);
    if (digits.size() == rest.size()) break;
    rest.remove_prefix(digits.size() + 1);
  }
  WindowFlag flag;
  if (automatic) {
    flag.budgets = std::move(values);
  } else {
    flag.window = static_cast<int>(values[0]);
  }
  return flag;
}

}  // namespace t2r::convert
