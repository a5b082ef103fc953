// Every op in plain float64, one loop a formula: what the backends are held to.
//
// Functions that return a Result also give `bound`: how far a float32 implementation may be away,
// from a first-order running error analysis (each rounding contributes u = 2^-24 times the
// magnitude of what is rounded; sums of n terms contribute n of them in any order).
#pragma once

#include <cstdint>
#include <vector>

#include "engine/ops/backend.h"

namespace t2r::testing {

// The unit roundoff of float32: |fl(a op b) − (a op b)| ≤ u |a op b|.
inline constexpr double kU = 0x1p-24;

// A row-major matrix of float64.
struct Mat {
  Mat() = default;
  Mat(int64_t r, int64_t c) : rows(r), cols(c), v(r * c, 0.0) {}

  double& at(int64_t r, int64_t c) { return v[r * cols + c]; }
  double at(int64_t r, int64_t c) const { return v[r * cols + c]; }
  const double* row(int64_t r) const { return v.data() + r * cols; }
  std::vector<float> Floats() const { return {v.begin(), v.end()}; }
  // Rows [first, first + count).
  Mat Rows(int64_t first, int64_t count) const {
    Mat m(count, cols);
    m.v.assign(v.begin() + first * cols, v.begin() + (first + count) * cols);
    return m;
  }

  int64_t rows = 0;
  int64_t cols = 0;
  std::vector<double> v;
};

struct Result {
  Mat out;
  Mat bound;
};

// x [T, K] · w [N, K]ᵀ + bias (+ before).
Result MatMulReference(const Mat& x, const Mat& w, const Mat* bias, const Mat* before);

Result RmsNormReference(const Mat& x, const Mat& weight, double eps);
Result LayerNormReference(const Mat& x, const Mat& weight, const Mat& bias, double eps);
Result SwiGluReference(const Mat& gate_up);
Result GeluTanhReference(const Mat& x);
// x [T, heads·d] rotated for the given positions.
Result RopeReference(const Mat& x, const std::vector<int64_t>& positions,
                     const std::vector<double>& inverse_frequencies, double factor, int heads);

// The parameters of one linear-attention layer, in host memory.
struct LinearLayer {
  int heads = 1;
  int groups = 1;
  int head_dim = 1;
  FeatureMap map;  // its pointers are unused: weight and bias are below
  Mat weight;      // [G · projected_features, d]
  Mat bias;        // [G, k], t2r only
  Normalizer normalizer = Normalizer::kClamp;
  double eps = 1e-2;

  int64_t width() const { return map.folded ? map.projected_features() : head_dim; }
  int64_t state_floats() const {
    return static_cast<int64_t>(groups) * map.features * (head_dim + 1);
  }
};

// φ of one vector, and for each feature a magnitude m: a float32 φ is within
// FeatureRoundings · kU · m.
struct Features {
  std::vector<double> value;
  std::vector<double> magnitude;
};
double FeatureRoundings(const LinearLayer& layer);
// x [width()]; error: how far a float32 form's x may be away, null: not at all.
Features FeaturesOf(const LinearLayer& layer, int group, bool query, const double* x,
                    const double* error = nullptr);

// One session's state and its error bound, laid out as the backend lays it out: S [G, k, d], z.
struct LinearState {
  explicit LinearState(const LinearLayer& layer)
      : value(1, layer.state_floats()), magnitude(1, layer.state_floats()) {}
  Mat value;
  Mat magnitude;  // Σ of the magnitudes added, which bounds the error of the sum
  int64_t tokens = 0;
  // Bound on |state − value| after `tokens` tokens.
  Mat Bound(const LinearLayer& layer) const;
};

// Feeds the rows of q, k, v through the layer, in order, and advances the state.
Result LinearAttentionReference(const LinearLayer& layer, const Mat& q, const Mat& k, const Mat& v,
                                LinearState* state);

// One sequence from position 0: row t attends to rows 0 … t.
Result FullAttentionReference(const Mat& q, const Mat& k, const Mat& v, int heads, int groups,
                              double scale);

}  // namespace t2r::testing
