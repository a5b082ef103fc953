#include "convert/quantize/compensation.h"

#include <algorithm>
#include <cmath>

#include "convert/error.h"
#include "engine/ops/cpu/quantize_group.h"

namespace t2r::convert {
namespace {

// Rows of a matrix that are rounded side by side, input feature by input feature.
constexpr int64_t kRows = 16;

constexpr double kDamping = 0.01;

// Passes over a row in 4 bits once it is rounded; later ones change next to nothing.
constexpr int kPasses = 4;

// H [n, n], of which the upper half is read, to R, upper triangular, with H = R Rᵀ.
void FactorUpper(std::vector<double>* matrix, int64_t n) {
  std::vector<double>& h = *matrix;
  std::vector<double> column(static_cast<size_t>(n));
  for (int64_t j = n - 1; j >= 0; --j) {
    const double pivot = std::sqrt(h[j * n + j]);
    if (!(pivot > 0) || !std::isfinite(pivot)) {
      throw ConvertError("the text puts numbers through the model that are not finite");
    }
    h[j * n + j] = pivot;
    for (int64_t i = 0; i < j; ++i) column[i] = h[i * n + j] /= pivot;
    for (int64_t i = 0; i < j; ++i) {
      double* row = h.data() + i * n;
      const double factor = column[i];
      for (int64_t m = i; m < j; ++m) row[m] -= factor * column[m];
    }
  }
}

// R⁻¹ of an upper triangular R.
std::vector<double> InvertUpper(const std::vector<double>& r, int64_t n) {
  std::vector<double> inverse(r.size());
  for (int64_t i = n - 1; i >= 0; --i) {
    double* row = inverse.data() + i * n;
    for (int64_t m = i + 1; m < n; ++m) {
      const double factor = r[i * n + m];
      const double* other = inverse.data() + m * n;
      for (int64_t k = m; k < n; ++k) row[k] -= factor * other[k];
    }
    for (int64_t k = i + 1; k < n; ++k) row[k] /= r[i * n + i];
    row[i] = 1 / r[i * n + i];
  }
  return inverse;
}

// The code of a group's scale (and minimum) that is nearest to a weight.
uint8_t CodeOf(const QuantizedGroup& group, DType dtype, float weight) {
  const float scale = BFloat16ToFloat(group.scale);
  if (dtype == DType::kInt8) {
    const float code = scale > 0 ? std::nearbyint(weight / scale) : 0.0F;
    return static_cast<uint8_t>(static_cast<int>(std::clamp(code, -127.0F, 127.0F)) + kInt8Offset);
  }
  const float over = weight - BFloat16ToFloat(group.minimum);
  return static_cast<uint8_t>(
      std::clamp(scale > 0 ? std::nearbyint(over / scale) : 0.0F, 0.0F, 15.0F));
}

// A row in 4 bits, and what its squared error e = (ŵ − w)ᵀ H (ŵ − w) hangs on.
class RoundedRow {
 public:
  // h [n, n], w [n]: as e has them.
  RoundedRow(const float* h, std::span<const float> w, QuantizedGroup* groups)
      : h_(h), groups_(groups), values_(w.begin(), w.end()), gradient_(w.size()) {
    for (int64_t k = 0; k < size(); ++k) Set(k, ValueOf(k));
  }

  // The scale and the minimum of a group that leave the least error with its codes, if that is
  // less than now.
  void RefitGroup(int64_t index) {
    QuantizedGroup& group = groups_[index];
    const int64_t first = index * kQuantGroup;
    const int64_t count = std::min(kQuantGroup, size() - first);
    // e changes by 2 (s g_s + m g_m) + s² h_ss + 2 s m h_sm + m² h_mm.
    double g_s = 0, g_m = 0, h_ss = 0, h_sm = 0, h_mm = 0;
    for (int64_t i = 0; i < count; ++i) {
      const double code = group.codes[static_cast<size_t>(i)];
      double by_code = 0, by_one = 0;
      for (int64_t j = 0; j < count; ++j) {
        const double h = h_[(first + i) * size() + first + j];
        by_code += h * group.codes[static_cast<size_t>(j)];
        by_one += h;
      }
      g_s += code * gradient_[first + i];
      g_m += gradient_[first + i];
      h_ss += code * by_code;
      h_sm += code * by_one;
      h_mm += by_one;
    }
    const double determinant = h_ss * h_mm - h_sm * h_sm;
    if (!(determinant > 1e-9 * h_ss * h_mm)) return;
    const float scale = BFloat16ToFloat(group.scale);
    const float minimum = BFloat16ToFloat(group.minimum);
    QuantizedGroup fitted = group;
    fitted.scale =
        FloatToBFloat16(static_cast<float>(scale + (h_sm * g_m - h_mm * g_s) / determinant));
    const double s = BFloat16ToFloat(fitted.scale) - scale;
    // The minimum that goes with the scale as it was rounded.
    fitted.minimum = FloatToBFloat16(static_cast<float>(minimum - (g_m + s * h_sm) / h_mm));
    const double m = BFloat16ToFloat(fitted.minimum) - minimum;
    const double change = 2 * (s * g_s + m * g_m) + s * s * h_ss + 2 * s * m * h_sm + m * m * h_mm;
    if (!(change < 0) || !(BFloat16ToFloat(fitted.scale) > 0)) return;
    group = fitted;
    for (int64_t i = 0; i < count; ++i) Set(first + i, ValueOf(first + i));
  }

  // For each weight of a group in turn the code that leaves the least error beside all others.
  void RoundGroupAgain(int64_t index) {
    QuantizedGroup& group = groups_[index];
    const int64_t first = index * kQuantGroup;
    const int64_t end = std::min(first + kQuantGroup, size());
    for (int64_t k = first; k < end; ++k) {
      const float best = values_[k] - gradient_[k] / h_[k * size() + k];
      uint8_t& code = group.codes[static_cast<size_t>(k - first)];
      const uint8_t nearest = CodeOf(group, DType::kInt4, best);
      if (nearest == code) continue;
      code = nearest;
      Set(k, ValueOf(k));
    }
  }

 private:
  int64_t size() const { return static_cast<int64_t>(values_.size()); }
  float ValueOf(int64_t k) const {
    return groups_[k / kQuantGroup].Value(DType::kInt4, k % kQuantGroup);
  }
  void Set(int64_t k, float value) {
    const float by = value - values_[k];
    if (by == 0) return;
    values_[k] = value;
    const float* column = h_ + k * size();
    for (int64_t j = 0; j < size(); ++j) gradient_[j] += by * column[j];
  }

  const float* h_;
  QuantizedGroup* groups_;
  std::vector<float> values_;    // ŵ, at first w
  std::vector<float> gradient_;  // H (ŵ − w)
};

}  // namespace

Compensation::Compensation(const SecondMoments& moments) : cols_(moments.cols) {
  const int64_t n = cols_;
  std::vector<double> h(moments.sums.begin(), moments.sums.end());
  double mean = 0;
  for (int64_t i = 0; i < n; ++i) mean += h[i * n + i] / static_cast<double>(n);
  const double added = mean > 0 ? kDamping * mean : 1;
  for (int64_t i = 0; i < n; ++i) h[i * n + i] += added;
  moments_.assign(h.begin(), h.end());
  // H = R Rᵀ, so H⁻¹ = (R⁻¹)ᵀ R⁻¹.
  FactorUpper(&h, n);
  const std::vector<double> inverse = InvertUpper(h, n);
  factor_.assign(inverse.begin(), inverse.end());
}

std::vector<QuantizedGroup> Compensation::Quantize(std::span<const float> weights, DType dtype,
                                                   ThreadPool* pool) const {
  const int64_t k_count = cols_;
  const int64_t rows = static_cast<int64_t>(weights.size()) / k_count;
  const int64_t groups = QuantGroups(k_count);
  std::vector<QuantizedGroup> out(static_cast<size_t>(rows * groups));
  pool->Run((rows + kRows - 1) / kRows, [&](int64_t block, int) {
    const int64_t first = block * kRows;
    const int64_t count = std::min(kRows, rows - first);
    std::vector<float> w(static_cast<size_t>(k_count * kRows));  // [K, kRows]
    for (int64_t r = 0; r < count; ++r) {
      for (int64_t k = 0; k < k_count; ++k) w[k * kRows + r] = weights[(first + r) * k_count + k];
    }
    for (int64_t k = 0; k < k_count; ++k) {
      const int64_t in_group = k % kQuantGroup;
      float errors[kRows] = {};
      const float* factor = factor_.data() + k * k_count;
      for (int64_t r = 0; r < count; ++r) {
        QuantizedGroup& group = out[(first + r) * groups + k / kQuantGroup];
        if (in_group == 0) {
          float values[kQuantGroup];
          const int64_t size = std::min(kQuantGroup, k_count - k);
          for (int64_t i = 0; i < size; ++i) values[i] = w[(k + i) * kRows + r];
          group = QuantizeGroup(values, size, dtype);
        }
        const float weight = w[k * kRows + r];
        group.codes[static_cast<size_t>(in_group)] = CodeOf(group, dtype, weight);
        errors[r] = (weight - group.Value(dtype, in_group)) / factor[k];
      }
      for (int64_t j = k + 1; j < k_count; ++j) {
        for (int64_t r = 0; r < kRows; ++r) w[j * kRows + r] -= errors[r] * factor[j];
      }
    }
    if (dtype != DType::kInt4) return;  // steps of 8 bits leave nothing to gain
    std::vector<RoundedRow> rounded;
    for (int64_t r = first; r < first + count; ++r) {
      rounded.emplace_back(moments_.data(), weights.subspan(r * k_count, k_count),
                           &out[r * groups]);
    }
    // Rows side by side: a group's part of H is read once for all of them.
    for (int64_t step = 0; step < kPasses * groups; ++step) {
      for (RoundedRow& row : rounded) {
        row.RefitGroup(step % groups);
        row.RoundGroupAgain(step % groups);
      }
    }
  });
  return out;
}

}  // namespace t2r::convert
