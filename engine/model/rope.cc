#include "engine/model/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace t2r {
namespace {

// Turns that a pair of this frequency makes over the original context.
double Turns(const RopeScaling& scaling, double frequency) {
  return scaling.original_max_position_embeddings * frequency / (2.0 * std::numbers::pi);
}

// Few turns are slowed by the factor, many are kept, and between the two bounds the frequencies are
// blended (Llama 3.1's rule).
double Llama3(const RopeScaling& scaling, double frequency) {
  const double turns = Turns(scaling, frequency);
  const double keep = std::clamp(
      (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor), 0.0,
      1.0);
  return (1.0 - keep) * frequency / scaling.factor + keep * frequency;
}

// The same idea over the pairs' numbers (Peng et al. 2023, arXiv 2309.00071): below the pair that
// makes beta_fast turns frequencies are kept, above the one that makes beta_slow they are slowed.
void Yarn(const ModelConfig& config, std::vector<double>* frequencies) {
  const RopeScaling& scaling = *config.rope_scaling;
  const double dim = config.rotary_dim;
  const auto pair_of = [&](double turns) {
    return dim * std::log(Turns(scaling, 1.0) / turns) / (2.0 * std::log(config.rope_theta));
  };
  double low = pair_of(scaling.beta_fast);
  double high = pair_of(scaling.beta_slow);
  if (scaling.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, dim - 1.0);
  if (low == high) high += 0.001;
  for (size_t i = 0; i < frequencies->size(); ++i) {
    const double slow = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    double& frequency = (*frequencies)[i];
    frequency = slow * frequency / scaling.factor + (1.0 - slow) * frequency;
  }
}

// What dynamic scaling makes of theta for texts of `length` tokens.
double Theta(const ModelConfig& config) {
  if (!config.rope_scaling.has_value() ||
      config.rope_scaling->kind != RopeScaling::Kind::kDynamic) {
    return config.rope_theta;
  }
  const RopeScaling& scaling = *config.rope_scaling;
  const double dim = config.rotary_dim;
  const double stretch = scaling.length / scaling.original_max_position_embeddings;
  return config.rope_theta *
         std::pow(scaling.factor * stretch - (scaling.factor - 1.0), dim / (dim - 2.0));
}

}  // namespace

std::vector<double> RopeInverseFrequencies(const ModelConfig& config) {
  const double theta = Theta(config);
  std::vector<double> frequencies(static_cast<size_t>(config.rotary_dim / 2));
  for (size_t i = 0; i < frequencies.size(); ++i) {
    frequencies[i] = std::pow(theta, -2.0 * static_cast<double>(i) / config.rotary_dim);
  }
  if (!config.rope_scaling.has_value()) return frequencies;
  const RopeScaling& scaling = *config.rope_scaling;
  switch (scaling.kind) {
    case RopeScaling::Kind::kLinear:
      for (double& frequency : frequencies) frequency /= scaling.factor;
      break;
    case RopeScaling::Kind::kLlama3:
      for (double& frequency : frequencies) frequency = Llama3(scaling, frequency);
      break;
    case RopeScaling::Kind::kYarn:
      Yarn(config, &frequencies);
      break;
    case RopeScaling::Kind::kDynamic:
      break;
    case RopeScaling::Kind::kLongRope:
      for (size_t i = 0; i < frequencies.size(); ++i) frequencies[i] /= scaling.factors.at(i);
      break;
  }
  return frequencies;
}

double RopeFactor(const ModelConfig& config) {
  return config.rope_scaling.has_value() ? config.rope_scaling->attention_factor : 1.0;
}

std::vector<int> HeadOrder(const ModelConfig& config) {
  if (config.rotary_dim == 0 || config.rotary_dim == config.head_dim) return {};
  const int turned = config.rotary_dim / 2;
  const int half = config.head_dim / 2;
  std::vector<int> order(static_cast<size_t>(config.head_dim));
  int next = config.rotary_dim;  // of those that do not turn
  for (int i = 0; i < config.head_dim; ++i) {
    const int pair = i % half;
    order[static_cast<size_t>(i)] = pair >= turned ? next++ : i < half ? pair : turned + pair;
  }
  return order;
}

std::vector<double> HeadFrequencies(const ModelConfig& config) {
  std::vector<double> frequencies = RopeInverseFrequencies(config);
  frequencies.resize(static_cast<size_t>(config.head_dim / 2), 0.0);
  return frequencies;
}

}  // namespace t2r
