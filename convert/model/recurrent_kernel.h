// Causal linear attention over features on the CPU, forward and backward, by the recurrence.
//
// For the short heads of small models the recurrence does fewer operations than the chunked form,
// and without its many small matrix products. Plain pointers; no LibTorch.
#pragma once

#include <cstdint>

namespace t2r::convert {

// Sizes of one call. Head (g, b) is a key/value head of a sequence.
struct RecurrentShape {
  int64_t groups = 0;    // G
  int64_t batch = 0;     // B
  int64_t share = 0;     // R query heads a group
  int64_t length = 0;    // T
  int64_t features = 0;  // k
  int64_t head_dim = 0;  // d
  bool clamp = true;     // den = max(w, eps), else w + eps, with w = φ(q)·z
  float eps = 0;
};

// phi_q [G, B, T, R, k], phi_k [G, B, T, k], v [B, T, G, d] to y [B, T, G, R, d] and the weights
// w [G, B, T, R].
void RecurrentForward(const RecurrentShape& shape, const float* phi_q, const float* phi_k,
                      const float* v, float* y, float* weight);

// Gradients of the three inputs, overwritten, from dy [B, T, G, R, d] and what forward returned.
// Where a clamped denominator is at eps it is a constant.
void RecurrentBackward(const RecurrentShape& shape, const float* phi_q, const float* phi_k,
                       const float* v, const float* y, const float* weight, const float* dy,
                       float* dphi_q, float* dphi_k, float* dv);

}  // namespace t2r::convert
