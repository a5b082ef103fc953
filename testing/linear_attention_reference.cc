// The float64 form of linear attention, with the magnitudes that bound a float32 form's error.
#include <algorithm>
#include <cmath>

#include "testing/ops_reference.h"

namespace t2r::testing {

double FeatureRoundings(const LinearLayer& layer) {
  // d products and sums, the query's scale, the vector's norm (d/2), the function itself.
  return (layer.map.folded ? 0.0 : 1.5 * layer.head_dim) + 0.5 * layer.map.features + 8;
}

Features FeaturesOf(const LinearLayer& layer, int group, bool query, const double* input,
                    const double* error) {
  const FeatureMap& map = layer.map;
  const int k = map.features;
  const int p = map.projected_features();
  const double scale = query && !map.folded ? map.query_scale : 1.0;
  Features f{std::vector<double>(k), std::vector<double>(k)};
  std::vector<double> x(input, input + layer.width());
  for (double& value : x) value *= scale;
  // An error of x counts as so many roundings of it.
  std::vector<double> wide(x.size());
  double squared_error = 0;
  for (size_t j = 0; j < x.size(); ++j) {
    const double off = error == nullptr ? 0 : std::abs(scale) * error[j];
    wide[j] = std::abs(x[j]) + off / (kU * FeatureRoundings(layer));
    squared_error += std::pow(wide[j] - std::abs(x[j]), 2);
  }
  if (map.kind == FeatureMapKind::kElu) {
    for (int i = 0; i < k; ++i) {
      f.value[i] = x[i] > 0 ? x[i] + 1 : std::exp(x[i]);
      f.magnitude[i] = f.value[i] * (1 + wide[i]);
    }
    return f;
  }
  if (map.kind == FeatureMapKind::kRfa) {
    double norm = 0;
    for (const double value : x) norm += value * value;
    norm = std::max(std::sqrt(norm), 1e-12);
    for (size_t j = 0; j < x.size(); ++j) {
      wide[j] = (wide[j] + std::abs(x[j]) * std::sqrt(squared_error) / norm) / norm;
      x[j] /= norm;
    }
  }
  std::vector<double> u(p);
  std::vector<double> m(p);  // of the pre-activation
  for (int i = 0; i < p; ++i) {
    if (map.folded) {
      u[i] = x[i];
      m[i] = std::abs(x[i]);
      continue;
    }
    for (int j = 0; j < layer.head_dim; ++j) {
      const double weight = layer.weight.at(static_cast<int64_t>(group) * p + i, j);
      u[i] += weight * x[j];
      m[i] += std::abs(weight) * wide[j];
    }
    if (map.kind == FeatureMapKind::kT2r) {
      u[i] += layer.bias.at(group, i);
      m[i] += std::abs(layer.bias.at(group, i));
    }
  }
  if (map.kind == FeatureMapKind::kT2r) {
    for (int i = 0; i < k; ++i) {
      f.value[i] = std::max(u[i], 0.0);
      f.magnitude[i] = m[i];
    }
  } else if (map.kind == FeatureMapKind::kRfa) {
    const double factor = std::sqrt(1.0 / p);
    for (int i = 0; i < p; ++i) {
      f.value[i] = std::sin(u[i]) * factor;
      f.value[p + i] = std::cos(u[i]) * factor;
      f.magnitude[i] = f.magnitude[p + i] = (1 + m[i]) * factor;
    }
  } else {
    const double widest = *std::max_element(m.begin(), m.end());
    for (const int sign : {1, -1}) {
      double* out = f.value.data() + (sign > 0 ? 0 : p);
      double high = -INFINITY;
      for (int i = 0; i < p; ++i) high = std::max(high, sign * u[i]);
      double sum = 0;
      for (int i = 0; i < p; ++i) sum += out[i] = std::exp(sign * u[i] - high);
      for (int i = 0; i < p; ++i) {
        out[i] /= sum;
        f.magnitude[(sign > 0 ? 0 : p) + i] = out[i] * (1 + 4 * widest);
      }
    }
  }
  return f;
}

Mat LinearState::Bound(const LinearLayer& layer) const {
  Mat bound = magnitude;
  for (double& b : bound.v) {
    b *= (FeatureRoundings(layer) + static_cast<double>(tokens) + 2) * kU * 1.01;
  }
  return bound;
}

Result LinearAttentionReference(const LinearLayer& layer, const Mat& q, const Mat& k, const Mat& v,
                                LinearState* state) {
  const int d = layer.head_dim;
  const int features = layer.map.features;
  const int64_t width = layer.width();
  const int num_queries_per_kv = layer.heads / layer.groups;
  const int64_t z_offset = static_cast<int64_t>(layer.groups) * features * d;
  Result r{Mat(q.rows, static_cast<int64_t>(layer.heads) * d),
           Mat(q.rows, static_cast<int64_t>(layer.heads) * d)};
  for (int64_t t = 0; t < q.rows; ++t) {
    ++state->tokens;
    for (int g = 0; g < layer.groups; ++g) {
      const int64_t s_at = static_cast<int64_t>(g) * features * d;
      const int64_t z_at = z_offset + static_cast<int64_t>(g) * features;
      const Features fk = FeaturesOf(layer, g, false, k.row(t) + g * width);
      for (int i = 0; i < features; ++i) {
        state->value.v[z_at + i] += fk.value[i];
        state->magnitude.v[z_at + i] += fk.magnitude[i];
        for (int j = 0; j < d; ++j) {
          const double value = v.at(t, static_cast<int64_t>(g) * d + j);
          state->value.v[s_at + i * d + j] += fk.value[i] * value;
          state->magnitude.v[s_at + i * d + j] += fk.magnitude[i] * std::abs(value);
        }
      }
      for (int h = g * num_queries_per_kv; h < (g + 1) * num_queries_per_kv; ++h) {
        const Features fq = FeaturesOf(layer, g, true, q.row(t) + h * width);
        double den = 0;
        double den_magnitude = 0;
        for (int i = 0; i < features; ++i) {
          den += fq.value[i] * state->value.v[z_at + i];
          den_magnitude += fq.magnitude[i] * state->magnitude.v[z_at + i];
        }
        den = layer.normalizer == Normalizer::kClamp ? std::max(den, layer.eps) : den + layer.eps;
        // φ(q), φ(k), n tokens, k terms, and the division.
        const double roundings =
            2 * FeatureRoundings(layer) + static_cast<double>(state->tokens + features) + 8;
        // First order, unless the denominator's own error nears it: then anything may come out.
        const double den_error =
            roundings * kU * (den_magnitude + std::abs(layer.eps)) / std::abs(den);
        const double slack = den_error < 0.5 ? 1.01 / (1 - den_error) : INFINITY;
        for (int j = 0; j < d; ++j) {
          double y = 0;
          double magnitude = 0;
          for (int i = 0; i < features; ++i) {
            y += fq.value[i] * state->value.v[s_at + i * d + j];
            magnitude += fq.magnitude[i] * state->magnitude.v[s_at + i * d + j];
          }
          y /= den;
          r.out.at(t, static_cast<int64_t>(h) * d + j) = y;
          r.bound.at(t, static_cast<int64_t>(h) * d + j) =
              slack * (roundings * kU * magnitude / std::abs(den) + std::abs(y) * den_error);
        }
      }
    }
  }
  return r;
}

}  // namespace t2r::testing
