#include "convert/gguf/rope_scaling.h"

#include <cmath>
#include <nlohmann/json.hpp>
#include <numbers>
#include <vector>

#include "convert/error.h"
#include "convert/gguf/gguf_cursor.h"

namespace t2r::convert {
namespace {

using Json = nlohmann::ordered_json;

constexpr double kMaxFactor = 1e9;
// Llama 3's, in every model published so far.
constexpr double kLowFreqFactor = 1;
constexpr double kHighFreqFactor = 4;
// What Llama 3 divides a frequency by (HF's modeling_rope_utils has the same rule): 1 for
// wavelengths below original/high, `factor` above original/low, in between the harmonic mean with
// weights that are linear in original/wavelength.
double Llama3Factor(double frequency, double factor, double original) {
  const double turns = original * frequency / (2 * std::numbers::pi);
  if (turns > kHighFreqFactor) return 1;
  if (turns < kLowFreqFactor) return factor;
  const double smooth = (turns - kLowFreqFactor) / (kHighFreqFactor - kLowFreqFactor);
  return 1 / ((1 - smooth) / factor + smooth);
}

// Whether the rule gives the stored factors. They were computed in float32: a frequency is a power
// whose exponent's rounding ln θ multiplies, and a few roundings follow, so the turns are off by
// ε = (ln θ + 4)·2^-24, relatively. Between the two wavelengths d factor / factor is
// -factor·(1 - 1/F)·d turns / (high - low), where the factor is at most F and the turns at most
// `high`: no more than F·ε·high / (high - low).
bool Reproduces(const RopeSettings& rope, const std::vector<float>& factors, double original) {
  const double epsilon = (std::fabs(std::log(rope.theta)) + 4) * 0x1p-24;
  const double bound =
      factors.back() * epsilon * kHighFreqFactor / (kHighFreqFactor - kLowFreqFactor);
  for (size_t i = 0; i < factors.size(); ++i) {
    const double frequency =
        std::pow(rope.theta, -2.0 * static_cast<double>(i) / static_cast<double>(rope.head_dim));
    const double expected = Llama3Factor(frequency, factors.back(), original);
    if (!(std::fabs(factors[i] - expected) <= bound * expected)) return false;
  }
  return true;
}

Json FromFactors(const RopeSettings& rope, const GgufTensor& tensor) {
  const std::string name = "tensor rope_freqs.weight ";
  if (tensor.shape != std::vector<int64_t>{rope.head_dim / 2} ||
      std::string(tensor.type->name) != "F32") {
    throw ConvertError(name + "must be F32 with one factor for each of the " +
                       std::to_string(rope.head_dim / 2) + " frequencies");
  }
  std::vector<float> factors(static_cast<size_t>(rope.head_dim / 2));
  bool all_one = true;
  for (size_t i = 0; i < factors.size(); ++i) {
    tensor.type->dequantize(reinterpret_cast<const uint8_t*>(tensor.data.data()) + 4 * i,
                            &factors[i]);
    all_one = all_one && factors[i] == 1;
    if (!(factors[i] > 0 && factors[i] <= kMaxFactor)) {
      throw ConvertError(name + "holds a factor that is not positive and finite at " +
                         std::to_string(i));
    }
  }
  if (all_one) return nullptr;
  // 8192 is Llama 3's; the others are for models trained anew by the same rule.
  for (const int64_t original : {8192, 4096, 2048, 16384, 32768, 65536, 131072}) {
    if (!Reproduces(rope, factors, static_cast<double>(original))) continue;
    return {{"rope_type", "llama3"},
            {"factor", factors.back()},
            {"low_freq_factor", kLowFreqFactor},
            {"high_freq_factor", kHighFreqFactor},
            {"original_max_position_embeddings", original}};
  }
  throw ConvertError(name +
                     "holds factors that Llama 3's rule (low_freq_factor 1, "
                     "high_freq_factor 4) does not give; others are not supported");
}

}  // namespace

Json RopeScalingJson(const GgufMetadata& metadata, const std::string& prefix,
                     const RopeSettings& rope, const GgufTensor* factors) {
  const std::string scaling = prefix + "rope.scaling.";
  // Before there were types, a linear factor had a key of its own.
  const double old_linear = metadata.Number(prefix + "rope.scale_linear", 1e-6, kMaxFactor, 1.0);
  const std::string type = metadata.String(scaling + "type", old_linear != 1 ? "linear" : "none");
  for (const char* key : {"attn_factor", "yarn_attn_factor", "yarn_ext_factor"}) {
    const auto value = metadata.AnyNumber(scaling + key);
    if (value.has_value() && *value != 1) {
      throw ConvertError(scaling + key + " is " + Json(*value).dump() + "; only 1 is supported");
    }
  }
  if (metadata.AnyNumber(scaling + "yarn_log_multiplier").value_or(0) != 0) {
    throw ConvertError(scaling + "yarn_log_multiplier is set, which is not supported");
  }
  if (factors != nullptr && type != "none") {
    throw ConvertError(scaling + "type is " + Printable(type) +
                       " beside the tensor rope_freqs.weight; only one of the two is supported");
  }
  if (factors != nullptr) return FromFactors(rope, *factors);
  if (type == "none") return nullptr;
  const double factor = metadata.Number(scaling + "factor", 1e-6, kMaxFactor,
                                        old_linear != 1 ? std::optional(old_linear) : std::nullopt);
  if (type == "linear") {
    if (factor == 1) return nullptr;
    return {{"rope_type", "linear"}, {"factor", factor}};
  }
  if (type != "yarn") {
    throw ConvertError(scaling + "type is " + Printable(type) +
                       "; supported are none, linear and yarn");
  }
  return {{"rope_type", "yarn"},
          {"factor", factor},
          {"original_max_position_embeddings",
           metadata.Integer(scaling + "original_context_length", 1, int64_t{1} << 40)},
          {"beta_fast", metadata.Number(scaling + "yarn_beta_fast", 0, kMaxFactor, 32.0)},
          {"beta_slow", metadata.Number(scaling + "yarn_beta_slow", 0, kMaxFactor, 1.0)}};
}

}  // namespace t2r::convert
