// Causal linear attention with a feature map φ, over the sessions' recurrent states.
//
// For each key/value head g and token t, in token order:
//   S ← ρ_g S + φ(k_t) v_tᵀ   [k, d]        z ← ρ_g z + φ(k_t)   [k]
// and for each query head h of the group g = h / (heads / groups):
//   y = φ(s q)ᵀ S / den,  den = max(φ(s q)·z, eps) (clamp) or φ(s q)·z + eps (add)
// with s = query_scale and ρ_g = e^(log_decay[g]), 1 without a decay. Kasai et al. 2021 (arXiv
// 2103.13076), equations 3 to 6.
//
// Linear cross attention is the same sum over the encoder's outputs, taken once (kAccumulate) and
// read by every token of the target (kRead).
#pragma once

#include <cstdint>

#include "engine/ops/tensor.h"

namespace t2r {

// kCodebook and kNone belong to windowed_attention.h alone.
enum class FeatureMapKind : uint8_t { kT2r, kElu, kRfa, kHedgehog, kCodebook, kNone };
enum class Normalizer : uint8_t { kClamp, kAdd };

// As config.json and flags spell them (engine/ops/enum_names.h reads them).
constexpr const char* NameOf(FeatureMapKind kind) {
  switch (kind) {
    case FeatureMapKind::kT2r:
      return "t2r";
    case FeatureMapKind::kElu:
      return "elu";
    case FeatureMapKind::kRfa:
      return "rfa";
    case FeatureMapKind::kHedgehog:
      return "hedgehog";
    case FeatureMapKind::kCodebook:
      return "codebook";
    case FeatureMapKind::kNone:
      return "none";
  }
  return "";
}
constexpr const char* NameOf(Normalizer normalizer) {
  switch (normalizer) {
    case Normalizer::kClamp:
      return "clamp";
    case Normalizer::kAdd:
      return "add";
  }
  return "";
}

// φ of one layer. Device pointers, not owned; null where the map has no such tensor.
//   t2r       relu(W x + b)                        weight [G, k, d], bias [G, k]
//   elu       elu(x) + 1                           k = d
//   rfa       [sin(P x), cos(P x)] (k/2)^-½, x ← x / max(‖x‖, 1e-12)   weight = P [G, k/2, d]
//   hedgehog  softmax(W x) ⊕ softmax(−W x)          weight [G, k/2, d]
//   codebook  keys: weight = A [G, k, d], bias = a [G, k]; queries: query_weight = E [G, k, d],
//             query_bias = b [H, k]
//   none      k = 0
struct FeatureMap {
  FeatureMapKind kind = FeatureMapKind::kT2r;
  int features = 0;          // k
  float query_scale = 1.0F;  // multiplies q before the map; k is not scaled
  const float* weight = nullptr;
  const float* bias = nullptr;
  const float* query_weight = nullptr;
  const float* query_bias = nullptr;
  // The projection (and query_scale, and bias) is folded into the q/k projections: q and k then
  // hold projected_features() pre-activations a head instead of d values. Only t2r and hedgehog.
  bool folded = false;

  // Rows of the map's projection: k for t2r and codebook, k/2 for rfa and hedgehog, 0 for elu.
  int projected_features() const {
    switch (kind) {
      case FeatureMapKind::kT2r:
      case FeatureMapKind::kCodebook:
        return features;
      case FeatureMapKind::kElu:
      case FeatureMapKind::kNone:
        return 0;
      case FeatureMapKind::kRfa:
      case FeatureMapKind::kHedgehog:
        return features / 2;
    }
    return 0;
  }
};

enum class LinearAttentionMode : uint8_t {
  kCausal,      // row by row: the state takes k and v, then q reads it
  kAccumulate,  // the state takes k and v of all rows; q and out are not used
  kRead,        // q reads the state as it is; k and v are not used
};

struct LinearAttentionArgs {
  LinearAttentionMode mode = LinearAttentionMode::kCausal;
  int heads = 0;     // query heads H, a multiple of groups
  int groups = 0;    // key/value heads G
  int head_dim = 0;  // d
  FeatureMap map;
  Normalizer normalizer = Normalizer::kClamp;
  float eps = 1e-2F;
  const float* log_decay = nullptr;  // [G], ≤ 0, on the device; null: none
  Tensor q;                          // [T, H·d], or [T, H·projected_features] when folded
  Tensor k;                          // [T, G·d], or [T, G·projected_features] when folded
  Tensor v;                          // [T, G·d]
  Tensor out;                        // [T, H·d]
  // This layer's part of every slot: S [G, k, d] then z [G, k], float32, at
  // state + slot · slot_stride (in floats).
  float* state = nullptr;
  int64_t slot_stride = 0;

  // S of one slot and group.
  float* State(int64_t slot, int group) const {
    return state + slot * slot_stride + static_cast<int64_t>(group) * map.features * head_dim;
  }
};

}  // namespace t2r
