// Quantising a matrix for the inputs that it meets: what rounding one weight changes in the
// product, the weights of its row that are still to be rounded take back as far as they can (GPTQ,
// Frantar et al. 2022, arXiv 2210.17323).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "convert/quantize/watched_model.h"
#include "engine/ops/cpu/thread_pool.h"
#include "engine/ops/quantize.h"

namespace t2r::convert {

class Compensation {
 public:
  // Of the inputs' second moments H, with a hundredth of their mean added to the diagonal: the
  // upper triangular U [K, K] with (H)⁻¹ = Uᵀ U. Throws ConvertError where they are not finite.
  explicit Compensation(const SecondMoments& moments);

  // weights [N, K] as groups [N, QuantGroups(K)]. A row is rounded from its first weight to its
  // last: w_k to its code's value, and (w_k − ŵ_k) U_kj / U_kk off every later w_j. A group's scale
  // (and minimum) are QuantizeGroup's of what its weights have become when it begins. In 4 bits a
  // row is then gone over again, group by group: the scale and the minimum that leave the least
  // error (ŵ − w)ᵀ H (ŵ − w) with the codes as they are, and each code anew beside all others; no
  // step raises the error.
  std::vector<QuantizedGroup> Quantize(std::span<const float> weights, DType dtype,
                                       ThreadPool* pool) const;

  std::span<const float> factor() const { return factor_; }

 private:
  int64_t cols_;
  std::vector<float> moments_;  // H, damped
  std::vector<float> factor_;   // U
};

}  // namespace t2r::convert
