// One softmax over the keys nearest to a query, the sequence's first keys ("sinks"), and features
// that stand for all keys between them, in a state of fixed size.
//
// Positions i count from 0; h is a query head of key/value head g = h / (heads / groups); q, k are
// as the projections gave them and q̂, k̂ rotated by their positions (equal where cos_sin is empty);
// w = window, C = fold, n = sinks, s = map.query_scale, M = map.features.
//
//   F(i)    = C · ⌊max(0, i − w + 1) / C⌋                  keys before F(i) are folded
//   near(i) = { j < n, j ≤ i } ∪ { F(i) ≤ j ≤ i }          at most w + C − 1 keys and the sinks
//   far(i)  = { n ≤ j < F(i) }
//   e_ij    = s q̂_i · k̂_j for j in near(i);  e*_i = max of them
//   S_i     = Σ_{far(i)} ρ_g^(F(i) − 1 − j) f(k_j) v_jᵀ [M, d],  z_i the same with v_j = 1 [M],
//             ρ_g = e^(log_decay[g]), 1 without one
//   y_i     = (Σ_near e^(e_ij) v_j + Σ_m φ_m(i) S_i[m]) / (Σ_near e^(e_ij) + Σ_m φ_m(i) z_i[m])
//
//   codebook   f(k) = softmax_m(A k + a), φ_m = exp(min(E (s q) + b, e*_i + 40)): M running
//              centroids of mass z[m] and mean value S[m] / z[m]
//   the maps of linear_attention.h   f = φ of the key, φ_m = e^(far_bias[h]) φ_m(s q)
//   none       M = 0: the window and the sinks alone
//
// With rope_features f and φ see q̂ and k̂, else q and k. Key j is folded, before row i's own key
// comes in, at the row i = F(i) + w − 1: C keys at once, so S and z are written once in C tokens.
//
// Without a window (window = 0; codebook only) the state is a recurrence, S ← ρ S + f(k) vᵀ and
// z ← ρ z + f(k), the row's own key included, and y_i = Σ_m p_m S[m] / z[m] with p the softmax of
// (E (s q) + b)_m + log z[m] over the centroids whose z is not 0. Cross attention is that in two
// steps: kAccumulate over the source, kRead by every token of the target.
#pragma once

#include <cstdint>

#include "engine/ops/linear_attention.h"
#include "engine/ops/tensor.h"

namespace t2r {

// φ_m stays below e^kFarClamp times the largest weight of the keys near by.
inline constexpr float kFarClamp = 40;

// Bytes in which one layer keeps the keys and values of `positions` positions: 2 · G · positions ·
// d elements. In int8 each key and each value of a group is d codes times a float32 scale, its
// largest magnitude over 127; their sum is rounded up to whole floats.
constexpr int64_t WindowBytes(int64_t positions, int64_t groups, int64_t head_dim,
                              DType window_dtype) {
  if (window_dtype != DType::kInt8) {
    return 2 * positions * groups * head_dim * static_cast<int64_t>(SizeOf(window_dtype));
  }
  return (2 * positions * groups * (head_dim + 4) + 3) / 4 * 4;
}

struct WindowedAttentionArgs {
  LinearAttentionMode mode = LinearAttentionMode::kCausal;  // others: without a window
  int heads = 0;                                            // query heads H, a multiple of groups
  int groups = 0;                                           // key/value heads G
  int head_dim = 0;                                         // d
  FeatureMap map;                                           // never folded
  int window = 0;                                           // w; 0: none (codebook only)
  int sinks = 0;                                            // n; 0 without a window
  int fold = 1;                                             // C ≥ 1; 1 without a window
  bool rope_features = true;
  Tensor q;    // [T, H·d], before rotary positions
  Tensor k;    // [T, G·d], likewise
  Tensor v;    // [T, G·d]
  Tensor out;  // [T, H·d]
  // Device pointers, not owned; null where the layer has no such thing.
  Tensor cos_sin;  // [T, d] of Backend::RopeTable; data null: no rotary positions
  const float* fold_cos_sin = nullptr;  // [C, d], row r: of the distance w + r (cosines, sines of
                                        // its angles), by which a folded key lies behind the row
                                        // that folds it, over the square of cos_sin's factor;
                                        // only with cos_sin and !rope_features
  const float* sink_cos_sin = nullptr;  // [d], cos_sin of position sink_position: for the queries
                                        // of rows behind it, for the sinks' logits only
  int64_t sink_position = 0;
  const float* far_bias = nullptr;   // λ [H]; the maps of linear_attention.h only
  const float* log_decay = nullptr;  // [G], ≤ 0
  // This layer's part of every slot, at + slot · slot_stride floats:
  float* state = nullptr;  // S [G, M, d], then z [G, M], float32
  // Keys k̂ and values of the sinks and of the last R = w + C − 1 positions as window_dtype, in an
  // order of the backend's own: WindowBytes(R + n, …). All zero when a session begins.
  void* window_state = nullptr;
  DType window_dtype = DType::kFloat32;  // or one that Backend::keeps_windows_as
  int64_t slot_stride = 0;               // in floats

  // R: positions whose keys are kept one by one, beside the sinks.
  int64_t ring() const { return window == 0 ? 0 : int64_t{window} + fold - 1; }
  // F(i), keys before which are folded once row i is; only with a window.
  int64_t folded_before(int64_t position) const {
    const int64_t beyond = position - window + 1;
    return beyond <= 0 ? 0 : beyond / fold * fold;
  }
};

}  // namespace t2r
