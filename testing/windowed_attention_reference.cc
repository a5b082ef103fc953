#include "testing/windowed_attention_reference.h"

#include <algorithm>
#include <cmath>

namespace t2r::testing {
namespace {

// |bf16(x) − x| ≤ 2⁻⁹ |x|.
constexpr double kStoredU = 0x1p-9;
// What float32 loses where a number underflows.
constexpr double kTiny = 1e-37;

// Σ_j weight[j] x[j] of a row of a projection, and how far a float32 form may be away.
struct Product {
  double value = 0;
  double error = 0;
};
Product Dot(const double* weight, const double* x, const double* error, int64_t n) {
  Product product;
  for (int64_t j = 0; j < n; ++j) {
    product.value += weight[j] * x[j];
    product.error +=
        std::abs(weight[j]) * (error[j] + static_cast<double>(n + 2) * kU * std::abs(x[j]));
  }
  return product;
}

}  // namespace

WindowedReference::WindowedReference(const WindowedLayer& layer, int64_t start)
    : layer_(layer), start_(start) {
  const std::vector<double> zeros(static_cast<size_t>(layer.linear.groups) * layer.linear.head_dim);
  nothing_ = MakeKey(zeros.data(), zeros.data(), 0);
}

int64_t WindowedReference::FoldedBefore(int64_t i) const {
  if (layer_.window == 0) return i + 1;
  return layer_.fold * (std::max<int64_t>(0, i - layer_.window + 1) / layer_.fold);
}

int64_t WindowedReference::FirstFar() const {
  if (layer_.window == 0) return start_;
  return std::max<int64_t>(layer_.sinks, start_ == 0 ? 0 : FoldedBefore(start_ - 1));
}

const WindowedReference::Key& WindowedReference::KeyAt(int64_t j) const {
  return j < start_ ? nothing_ : keys_[static_cast<size_t>(j - start_)];
}

// Each of the two products and their sum round once, the table's entries once: 3 u of their sizes.
WindowedReference::Query WindowedReference::Rotate(const double* x, const double* error,
                                                   int64_t position) const {
  const int64_t d = layer_.linear.head_dim;
  Query r{{x, x + d}, {error, error + d}};
  const auto n = static_cast<int64_t>(layer_.inverse_frequencies.size());
  for (int64_t i = 0; i < n; ++i) {
    const double angle = static_cast<double>(position) * layer_.inverse_frequencies[i];
    const double c = std::cos(angle);
    const double s = std::sin(angle);
    r.value[i] = x[i] * c - x[i + n] * s;
    r.value[i + n] = x[i + n] * c + x[i] * s;
    r.error[i] = std::abs(c) * error[i] + std::abs(s) * error[i + n] +
                 3.1 * kU * (std::abs(x[i] * c) + std::abs(x[i + n] * s));
    r.error[i + n] = std::abs(c) * error[i + n] + std::abs(s) * error[i] +
                     3.1 * kU * (std::abs(x[i + n] * c) + std::abs(x[i] * s));
  }
  return r;
}

std::vector<double> WindowedReference::StoredError(const double* x) const {
  const int64_t d = layer_.linear.head_dim;
  std::vector<double> error(static_cast<size_t>(d));
  if (layer_.window == 0) return error;
  double largest = 0;
  for (int64_t j = 0; j < d; ++j) largest = std::max(largest, std::abs(x[j]));
  for (int64_t j = 0; j < d; ++j) {
    if (layer_.window_dtype == DType::kBFloat16) {
      error[j] = kStoredU * std::abs(x[j]);
    } else if (layer_.window_dtype == DType::kInt8) {
      // Half a code of largest / 127 each. x / scale, at most 127, is off by 3 u of it before it is
      // rounded; the scale and the product with it round once each.
      error[j] = largest / 127 * (0.5 + 127 * 3 * kU) + 2 * kU * std::abs(x[j]);
    }
  }
  return error;
}

WindowedReference::Key WindowedReference::MakeKey(const double* k, const double* v,
                                                  int64_t position) const {
  const LinearLayer& linear = layer_.linear;
  const int64_t d = linear.head_dim;
  const int64_t m = linear.map.features;
  const std::vector<double> exact(static_cast<size_t>(d));
  Key key;
  for (int g = 0; g < linear.groups; ++g) {
    const Query rotated = Rotate(k + g * d, exact.data(), position);
    std::vector<double> x = rotated.value;
    std::vector<double> error(static_cast<size_t>(d));
    const std::vector<double> key_stored = StoredError(rotated.value.data());
    const std::vector<double> value_stored = StoredError(v + g * d);
    for (int64_t j = 0; j < d; ++j) {
      error[j] = rotated.error[j] + key_stored[j];
      key.rotated.push_back(rotated.value[j]);
      key.rotated_error.push_back(error[j]);
      key.value.push_back(v[g * d + j]);
      key.value_error.push_back(value_stored[j]);
    }
    if (!layer_.rope_features && !layer_.inverse_frequencies.empty()) {
      // Turned back from k̂: cosines and sines are off by up to 4 u, as sums of two products of
      // two rounded ones, and 2 u come of the two products here and their sum. Without a window
      // nothing is turned.
      const int64_t n = d / 2;
      const std::vector<double> turned = error;
      for (int64_t j = 0; j < d; ++j) {
        const int64_t other = j < n ? j + n : j - n;
        x[j] = k[g * d + j];
        error[j] = layer_.window == 0
                       ? 0
                       : turned[j] + turned[other] +
                             6 * kU * (std::abs(rotated.value[j]) + std::abs(rotated.value[other]));
      }
    }
    if (linear.map.kind == FeatureMapKind::kNone) continue;
    if (linear.map.kind != FeatureMapKind::kCodebook) {
      const Features features = FeaturesOf(linear, g, false, x.data(), error.data());
      for (int64_t i = 0; i < m; ++i) {
        key.features.push_back(features.value[i]);
        key.feature_error.push_back(FeatureRoundings(linear) * kU * features.magnitude[i]);
      }
      continue;
    }
    std::vector<Product> logits;
    double high = -INFINITY;
    for (int64_t i = 0; i < m; ++i) {
      Product logit = Dot(linear.weight.row(g * m + i), x.data(), error.data(), d);
      logit.value += linear.bias.at(g, i);
      logit.error += static_cast<double>(d + 2) * kU * std::abs(linear.bias.at(g, i));
      high = std::max(high, logit.value);
      logits.push_back(logit);
    }
    double sum = 0;
    double sum_error = 0;  // relative
    for (const Product& logit : logits) {
      sum += std::exp(logit.value - high);
      sum_error += std::exp(logit.value - high) * logit.error;
    }
    sum_error /= sum;
    for (const Product& logit : logits) {
      const double feature = std::exp(logit.value - high) / sum;
      key.features.push_back(feature);
      key.feature_error.push_back(
          feature * (logit.error + sum_error +
                     kU * (std::min(high - logit.value, 90.0) + static_cast<double>(m) + 10)) +
          kTiny);
    }
  }
  return key;
}

void WindowedReference::Append(const Mat& k, const Mat& v) {
  for (int64_t t = 0; t < k.rows; ++t) keys_.push_back(MakeKey(k.row(t), v.row(t), position()));
}

void WindowedReference::Sums(int group, int64_t i, Mat* sums, Mat* errors) const {
  const LinearLayer& linear = layer_.linear;
  const int64_t d = linear.head_dim;
  const int64_t m = linear.map.features;
  *sums = Mat(m, d + 1);
  *errors = Mat(m, d + 1);
  const double log_decay = layer_.log_decay.v.empty() ? 0.0 : layer_.log_decay.v[group];
  const int64_t end = FoldedBefore(i);
  const int64_t fold = layer_.window == 0 ? 1 : layer_.fold;
  const int64_t first = FirstFar();
  for (int64_t j = first; j < end; ++j) {
    const Key& key = KeyAt(j);
    const auto age = static_cast<double>(end - 1 - j);
    const double weight = std::exp(age * log_decay);
    // A power of the decay rounds like its exponent and as a number; S and z take one for every
    // later fold, and an addition for every key and fold.
    const double folds = std::floor(age / static_cast<double>(fold)) + 1;
    const double roundings =
        (log_decay == 0 ? 0.0 : folds * (static_cast<double>(fold) * std::abs(log_decay) + 8)) +
        static_cast<double>(end - first) + folds + 4;
    for (int64_t f = 0; f < m; ++f) {
      const double feature = weight * key.features[group * m + f];
      const double error = weight * key.feature_error[group * m + f] + roundings * kU * feature;
      for (int64_t c = 0; c <= d; ++c) {
        const double value = c < d ? key.value[group * d + c] : 1.0;
        sums->at(f, c) += feature * value;
        errors->at(f, c) += std::abs(error * value) + kTiny;
        if (c < d) errors->at(f, c) += std::abs(feature) * key.value_error[group * d + c];
      }
    }
  }
}

Result WindowedReference::State() const {
  const LinearLayer& linear = layer_.linear;
  const int64_t d = linear.head_dim;
  const int64_t m = linear.map.features;
  Result r{Mat(1, linear.state_floats()), Mat(1, linear.state_floats())};
  for (int g = 0; g < linear.groups; ++g) {
    Mat sums;
    Mat errors;
    Sums(g, position() - 1, &sums, &errors);
    for (int64_t f = 0; f < m; ++f) {
      for (int64_t c = 0; c <= d; ++c) {
        const int64_t at = c < d ? (g * m + f) * d + c : linear.groups * m * d + g * m + f;
        r.out.v[at] = sums.at(f, c);
        r.bound.v[at] = 1.02 * errors.at(f, c);
      }
    }
  }
  return r;
}

void WindowedReference::Row(const double* q, int64_t i, double* out, double* bound) const {
  const LinearLayer& linear = layer_.linear;
  const int64_t d = linear.head_dim;
  const int64_t m = linear.map.features;
  const int ratio = linear.heads / linear.groups;
  const double scale = linear.map.query_scale;
  const std::vector<double> exact(static_cast<size_t>(d));
  for (int h = 0; h < linear.heads; ++h) {
    const int g = h / ratio;
    const Query turned = Rotate(q + h * d, exact.data(), i);
    Query to_sinks = turned;
    if (layer_.sink_position >= 0) {
      to_sinks = Rotate(q + h * d, exact.data(), std::min(i, layer_.sink_position));
    }
    // Terms of numerator and denominator: weights relative to e^high, and values.
    struct Term {
      double exponent = 0;                 // of the weight
      double error = 0;                    // of the exponent
      double factor = 1;                   // on the weight
      double factor_error = 0;             // absolute
      std::vector<double> values, errors;  // [d], then the denominator's
    };
    std::vector<Term> terms;
    double high = -INFINITY;
    double high_error = 0;
    const auto take = [&](int64_t j, const Query& query) {
      const Key& key = KeyAt(j);
      Term term;
      for (int64_t c = 0; c < d; ++c) {
        const double a = query.value[c];
        const double b = key.rotated[g * d + c];
        term.exponent += scale * a * b;
        term.error += std::abs(scale) *
                      (query.error[c] * std::abs(b) + std::abs(a) * key.rotated_error[g * d + c] +
                       static_cast<double>(d + 3) * kU * std::abs(a * b));
        term.values.push_back(key.value[g * d + c]);
        term.errors.push_back(key.value_error[g * d + c]);
      }
      term.values.push_back(1);
      term.errors.push_back(0);
      high = std::max(high, term.exponent);
      high_error = std::max(high_error, term.error);
      terms.push_back(std::move(term));
    };
    if (layer_.window > 0) {
      for (int64_t j = 0; j < std::min<int64_t>(layer_.sinks, i + 1); ++j) take(j, to_sinks);
      for (int64_t j = std::max<int64_t>(layer_.sinks, FoldedBefore(i)); j <= i; ++j) {
        take(j, turned);
      }
    }
    Mat sums;
    Mat errors;
    Sums(g, i, &sums, &errors);
    const bool rotated = layer_.rope_features;
    const std::vector<double> x =
        rotated ? turned.value : std::vector<double>(q + h * d, q + h * d + d);
    const std::vector<double> x_error = rotated ? turned.error : exact;
    Features features;
    if (m > 0 && linear.map.kind != FeatureMapKind::kCodebook) {
      features = FeaturesOf(linear, g, true, x.data(), x_error.data());
    }
    for (int64_t f = 0; f < m; ++f) {
      Term term;
      if (linear.map.kind == FeatureMapKind::kCodebook) {
        const Product logit = Dot(layer_.query_weight.row(g * m + f), x.data(), x_error.data(), d);
        const double b = layer_.query_bias.at(h, f);
        term.exponent = scale * logit.value + b;
        term.error = std::abs(scale) * logit.error * (1 + 2 * kU) +
                     static_cast<double>(d + 3) * kU * std::abs(b) +
                     3 * kU * (std::abs(term.exponent) + std::abs(scale * logit.value));
        if (layer_.window > 0) {
          term.error += 2 * kU * (std::abs(high) + std::abs(term.exponent));
          if (term.exponent + term.error + high_error > high + 40) term.error += high_error;
          term.exponent = std::min(term.exponent, high + 40);
        } else {
          if (sums.at(f, d) == 0) continue;
          term.error += 4 * kU * (std::abs(term.exponent) + std::abs(std::log(sums.at(f, d))));
        }
      } else {
        term.exponent = layer_.far_bias.v[h];
        term.error = 4 * kU * std::abs(term.exponent - high);
        term.factor = features.value[f];
        term.factor_error = FeatureRoundings(linear) * kU * features.magnitude[f];
      }
      for (int64_t c = 0; c <= d; ++c) {
        term.values.push_back(sums.at(f, c));
        term.errors.push_back(errors.at(f, c));
      }
      terms.push_back(std::move(term));
    }
    if (layer_.window == 0) {
      for (const Term& term : terms) high = std::max(high, term.exponent);
    }
    std::vector<double> total(static_cast<size_t>(d) + 1);
    std::vector<double> total_error(static_cast<size_t>(d) + 1);
    for (const Term& term : terms) {
      const double exponential = std::exp(term.exponent - high);
      // The exponent's error, the difference's rounding, the exponential's; a sum of all terms.
      const double relative =
          std::expm1(term.error) + kU * (std::min(std::abs(term.exponent - high), 90.0) + 16 +
                                         static_cast<double>(terms.size()));
      const double weight = exponential * term.factor;
      const double weight_error = std::abs(weight) * relative + exponential * term.factor_error;
      for (int64_t c = 0; c <= d; ++c) {
        total[c] += weight * term.values[c];
        total_error[c] +=
            weight_error * std::abs(term.values[c]) + std::abs(weight) * term.errors[c] + kTiny;
      }
    }
    const double den = total[d];
    const double den_error = total_error[d] / std::abs(den);
    // First order, unless the denominator's own error nears it: then anything may come out.
    const double slack = den_error < 0.5 ? 1.02 / (1 - den_error) : INFINITY;
    for (int64_t c = 0; c < d; ++c) {
      const double y = total[c] / den;
      out[h * d + c] = y;
      bound[h * d + c] =
          slack * (total_error[c] / std::abs(den) + std::abs(y) * (den_error + 2 * kU));
    }
  }
}

Result WindowedReference::Run(const Mat& q, const Mat& k, const Mat& v) {
  Result r{Mat(q.rows, q.cols), Mat(q.rows, q.cols)};
  for (int64_t t = 0; t < q.rows; ++t) {
    Append(k.Rows(t, 1), v.Rows(t, 1));
    Row(q.row(t), position() - 1, &r.out.at(t, 0), &r.bound.at(t, 0));
  }
  return r;
}

Result WindowedReference::Read(const Mat& q) const {
  Result r{Mat(q.rows, q.cols), Mat(q.rows, q.cols)};
  for (int64_t t = 0; t < q.rows; ++t) {
    Row(q.row(t), position() - 1, &r.out.at(t, 0), &r.bound.at(t, 0));
  }
  return r;
}

}  // namespace t2r::testing
