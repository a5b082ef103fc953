#include "testing/ops_reference.h"

#include <algorithm>
#include <cmath>

namespace t2r::testing {

Result MatMulReference(const Mat& x, const Mat& w, const Mat* bias, const Mat* before) {
  Result r{Mat(x.rows, w.rows), Mat(x.rows, w.rows)};
  for (int64_t t = 0; t < x.rows; ++t) {
    for (int64_t n = 0; n < w.rows; ++n) {
      double sum = 0;
      double magnitude = 0;
      for (int64_t i = 0; i < x.cols; ++i) {
        sum += x.at(t, i) * w.at(n, i);
        magnitude += std::abs(x.at(t, i) * w.at(n, i));
      }
      if (bias != nullptr) sum += bias->v[n], magnitude += std::abs(bias->v[n]);
      // K products and sums, the bias, the residual: each at most u of all that was summed.
      double bound = static_cast<double>(x.cols + 2) * kU * magnitude;
      if (before != nullptr) {
        sum += before->at(t, n);
        bound += 2 * kU * (std::abs(before->at(t, n)) + magnitude);
      }
      r.out.at(t, n) = sum;
      r.bound.at(t, n) = bound * 1.01;
    }
  }
  return r;
}

Result RmsNormReference(const Mat& x, const Mat& weight, double eps) {
  Result r{Mat(x.rows, x.cols), Mat(x.rows, x.cols)};
  const auto n = static_cast<double>(x.cols);
  for (int64_t t = 0; t < x.rows; ++t) {
    double squares = 0;
    for (int64_t i = 0; i < x.cols; ++i) squares += x.at(t, i) * x.at(t, i);
    for (int64_t i = 0; i < x.cols; ++i) {
      const double y = x.at(t, i) / std::sqrt(squares / n + eps) * weight.v[i];
      r.out.at(t, i) = y;
      // The sum's n + 1 roundings count half under the root; six more operations follow.
      r.bound.at(t, i) = (n / 2 + 8) * kU * std::abs(y);
    }
  }
  return r;
}

Result LayerNormReference(const Mat& x, const Mat& weight, const Mat& bias, double eps) {
  Result r{Mat(x.rows, x.cols), Mat(x.rows, x.cols)};
  const auto n = static_cast<double>(x.cols);
  for (int64_t t = 0; t < x.rows; ++t) {
    double mean = 0;
    double magnitude = 0;
    for (int64_t i = 0; i < x.cols; ++i) {
      mean += x.at(t, i) / n;
      magnitude += std::abs(x.at(t, i)) / n;
    }
    double variance = 0;
    for (int64_t i = 0; i < x.cols; ++i) variance += std::pow(x.at(t, i) - mean, 2) / n;
    const double deviation = std::sqrt(variance + eps);
    const double mean_error = (n + 1) * kU * magnitude;
    for (int64_t i = 0; i < x.cols; ++i) {
      const double centred = x.at(t, i) - mean;
      const double y = centred / deviation * weight.v[i];
      r.out.at(t, i) = y + bias.v[i];
      // The mean's error shifts every centred value alike, so it enters the variance squared.
      r.bound.at(t, i) =
          std::abs(weight.v[i]) / deviation * (mean_error + kU * (std::abs(centred) + magnitude)) +
          ((n / 2 + 10) * kU + std::pow(mean_error / deviation, 2)) * std::abs(y) +
          kU * std::abs(y + bias.v[i]);
    }
  }
  return r;
}

Result SwiGluReference(const Mat& gate_up) {
  const int64_t f = gate_up.cols / 2;
  Result r{Mat(gate_up.rows, f), Mat(gate_up.rows, f)};
  for (int64_t t = 0; t < gate_up.rows; ++t) {
    for (int64_t i = 0; i < f; ++i) {
      const double gate = gate_up.at(t, i);
      const double y = gate / (1 + std::exp(-gate)) * gate_up.at(t, f + i);
      r.out.at(t, i) = y;
      // exp within 2 ulp, a sum, a division, a product; and where exp(−gate) nears float32's end
      // the result may be anything this small.
      r.bound.at(t, i) = 8 * kU * std::abs(y) + 1e-34 * std::abs(gate_up.at(t, f + i));
    }
  }
  return r;
}

Result GeluTanhReference(const Mat& x) {
  Result r{Mat(x.rows, x.cols), Mat(x.rows, x.cols)};
  for (size_t i = 0; i < x.v.size(); ++i) {
    const double u = x.v[i];
    const double inner = std::sqrt(2 / M_PI) * (u + 0.044715 * u * u * u);
    r.out.v[i] = u / 2 * (1 + std::tanh(inner));
    // tanh as such cancels against the 1 for negative arguments: an error of u · |x|.
    r.bound.v[i] = 8 * kU * std::abs(u);
  }
  return r;
}

Result RopeReference(const Mat& x, const std::vector<int64_t>& positions,
                     const std::vector<double>& inverse_frequencies, double factor, int heads) {
  Result r{x, Mat(x.rows, x.cols)};
  const auto n = static_cast<int64_t>(inverse_frequencies.size());
  for (int64_t t = 0; t < x.rows; ++t) {
    for (int h = 0; h < heads; ++h) {
      for (int64_t i = 0; i < n; ++i) {
        // The angle as the contract has it: a float64 product.
        const double angle = static_cast<double>(positions[t]) * inverse_frequencies[i];
        const double c = std::cos(angle) * factor;
        const double s = std::sin(angle) * factor;
        const int64_t low = h * 2 * n + i;
        const double a = x.at(t, low);
        const double b = x.at(t, low + n);
        r.out.at(t, low) = a * c - b * s;
        r.out.at(t, low + n) = b * c + a * s;
        r.bound.at(t, low) = 3.1 * kU * (std::abs(a * c) + std::abs(b * s));
        r.bound.at(t, low + n) = 3.1 * kU * (std::abs(b * c) + std::abs(a * s));
      }
    }
  }
  return r;
}

Result FullAttentionReference(const Mat& q, const Mat& k, const Mat& v, int heads, int groups,
                              double scale) {
  const int64_t d = q.cols / heads;
  Result r{Mat(q.rows, q.cols), Mat(q.rows, q.cols)};
  std::vector<double> weights(q.rows);
  for (int64_t t = 0; t < q.rows; ++t) {
    for (int h = 0; h < heads; ++h) {
      const int64_t g = h / (heads / groups);
      double high = -INFINITY;
      double score_error = 0;
      for (int64_t p = 0; p <= t; ++p) {
        double score = 0;
        double magnitude = 0;
        for (int64_t i = 0; i < d; ++i) {
          const double product = q.at(t, h * d + i) * k.at(p, g * d + i) * scale;
          score += product;
          magnitude += std::abs(product);
        }
        weights[p] = score;
        high = std::max(high, score);
        score_error = std::max(score_error, static_cast<double>(d + 3) * kU * magnitude);
      }
      double sum = 0;
      for (int64_t p = 0; p <= t; ++p) sum += weights[p] = std::exp(weights[p] - high);
      // A weight's relative error: its score's and the maximum's, exp's, and one rescaling a block;
      // then sums of t + 1 terms above and below.
      const double blocks = static_cast<double>(t / kKvPageSize + 1);
      const double relative =
          2 * (2 * score_error + (4 + 4 * blocks) * kU) + 2 * static_cast<double>(t + 3) * kU;
      for (int64_t i = 0; i < d; ++i) {
        double y = 0;
        double magnitude = 0;
        for (int64_t p = 0; p <= t; ++p) {
          y += weights[p] / sum * v.at(p, g * d + i);
          magnitude += weights[p] / sum * std::abs(v.at(p, g * d + i));
        }
        r.out.at(t, h * d + i) = y;
        r.bound.at(t, h * d + i) = relative * magnitude * 1.01;
      }
    }
  }
  return r;
}

}  // namespace t2r::testing
