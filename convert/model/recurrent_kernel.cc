#include "convert/model/recurrent_kernel.h"

#include <algorithm>
#include <vector>

// The kernels are compiled for several instruction sets; the loader picks one.
#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define T2R_CLONES __attribute__((target_clones("arch=skylake-avx512", "arch=haswell", "default")))
#else
#define T2R_CLONES
#endif
#define T2R_INLINE __attribute__((always_inline)) inline

namespace t2r::convert {
namespace {

// `D` is head_dim where known at compile time, else 0.
template <int D>
T2R_INLINE int64_t Dim(const RecurrentShape& s) {
  return D > 0 ? D : s.head_dim;
}

// state [k, d] += φ ⊗ value, z += φ.
template <int D>
T2R_INLINE void Accumulate(int64_t k, int64_t runtime_d, const float* phi, const float* value,
                           float weight, float* state, float* z) {
  const int64_t d = D > 0 ? D : runtime_d;
  for (int64_t j = 0; j < k; ++j) {
    float* row = state + j * d;
    const float f = phi[j];
#pragma omp simd
    for (int64_t e = 0; e < d; ++e) row[e] += f * value[e];
  }
#pragma omp simd
  for (int64_t j = 0; j < k; ++j) z[j] += phi[j] * weight;
}

// out [d] = φᵀ state.
template <int D>
T2R_INLINE void Contract(int64_t k, int64_t runtime_d, const float* phi, const float* state,
                         float* out) {
  const int64_t d = D > 0 ? D : runtime_d;
  for (int64_t e = 0; e < d; ++e) out[e] = 0;
  for (int64_t j = 0; j < k; ++j) {
    const float* row = state + j * d;
    const float f = phi[j];
#pragma omp simd
    for (int64_t e = 0; e < d; ++e) out[e] += f * row[e];
  }
}

// out [k] = state · value + weight · z.
template <int D>
T2R_INLINE void Expand(int64_t k, int64_t runtime_d, const float* state, const float* z,
                       const float* value, float weight, float* out) {
  const int64_t d = D > 0 ? D : runtime_d;
  for (int64_t j = 0; j < k; ++j) {
    const float* row = state + j * d;
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t e = 0; e < d; ++e) sum += row[e] * value[e];
    out[j] = sum + weight * z[j];
  }
}

T2R_INLINE float Denominator(const RecurrentShape& s, float weight) {
  return s.clamp ? std::max(weight, s.eps) : weight + s.eps;
}

template <int D>
T2R_INLINE void Forward(const RecurrentShape& s, const float* phi_q, const float* phi_k,
                        const float* v, float* y, float* weight) {
  const int64_t d = Dim<D>(s), k = s.features;
  std::vector<float> memory(static_cast<size_t>(k * d + k));
  float* state = memory.data();
  float* z = state + k * d;
  for (int64_t g = 0; g < s.groups; ++g) {
    for (int64_t b = 0; b < s.batch; ++b) {
      std::fill(memory.begin(), memory.end(), 0.0F);
      for (int64_t t = 0; t < s.length; ++t) {
        const int64_t row = (g * s.batch + b) * s.length + t;
        const int64_t out_row = (b * s.length + t) * s.groups + g;
        Accumulate<D>(k, d, phi_k + row * k, v + out_row * d, 1.0F, state, z);
        for (int64_t r = 0; r < s.share; ++r) {
          const float* phi = phi_q + (row * s.share + r) * k;
          float* out = y + (out_row * s.share + r) * d;
          Contract<D>(k, d, phi, state, out);
          float w = 0;
#pragma omp simd reduction(+ : w)
          for (int64_t j = 0; j < k; ++j) w += phi[j] * z[j];
          weight[row * s.share + r] = w;
          const float inverse = 1.0F / Denominator(s, w);
#pragma omp simd
          for (int64_t e = 0; e < d; ++e) out[e] *= inverse;
        }
      }
    }
  }
}

// y = n / den with n = φ(q)ᵀS: dn = dy / den, and dw = −(dy·y) / den where den depends on w.
template <int D>
T2R_INLINE float Upstream(const RecurrentShape& s, int64_t runtime_d, const float* y,
                          const float* dy, float weight, float* dn) {
  const int64_t d = D > 0 ? D : runtime_d;
  const float inverse = 1.0F / Denominator(s, weight);
  float dot = 0;
#pragma omp simd reduction(+ : dot)
  for (int64_t e = 0; e < d; ++e) dot += dy[e] * y[e];
#pragma omp simd
  for (int64_t e = 0; e < d; ++e) dn[e] = dy[e] * inverse;
  return s.clamp && weight <= s.eps ? 0.0F : -dot * inverse;
}

template <int D>
T2R_INLINE void Backward(const RecurrentShape& s, const float* phi_q, const float* phi_k,
                         const float* v, const float* y, const float* weight, const float* dy,
                         float* dphi_q, float* dphi_k, float* dv) {
  const int64_t d = Dim<D>(s), k = s.features;
  std::vector<float> memory(static_cast<size_t>(k * d + k + d));
  float* state = memory.data();
  float* z = state + k * d;
  float* dn = z + k;
  for (int64_t g = 0; g < s.groups; ++g) {
    for (int64_t b = 0; b < s.batch; ++b) {
      // In token order, with S and z made again: the gradient of φ(q).
      std::fill(memory.begin(), memory.end(), 0.0F);
      for (int64_t t = 0; t < s.length; ++t) {
        const int64_t row = (g * s.batch + b) * s.length + t;
        const int64_t out_row = (b * s.length + t) * s.groups + g;
        Accumulate<D>(k, d, phi_k + row * k, v + out_row * d, 1.0F, state, z);
        for (int64_t r = 0; r < s.share; ++r) {
          const int64_t head = row * s.share + r, out_head = out_row * s.share + r;
          const float dw = Upstream<D>(s, d, y + out_head * d, dy + out_head * d, weight[head], dn);
          Expand<D>(k, d, state, z, dn, dw, dphi_q + head * k);
        }
      }
      // Backwards, with the gradients of S and z: those of φ(k) and v.
      std::fill(memory.begin(), memory.end(), 0.0F);
      for (int64_t t = s.length - 1; t >= 0; --t) {
        const int64_t row = (g * s.batch + b) * s.length + t;
        const int64_t out_row = (b * s.length + t) * s.groups + g;
        for (int64_t r = 0; r < s.share; ++r) {
          const int64_t head = row * s.share + r, out_head = out_row * s.share + r;
          const float dw = Upstream<D>(s, d, y + out_head * d, dy + out_head * d, weight[head], dn);
          Accumulate<D>(k, d, phi_q + head * k, dn, dw, state, z);
        }
        Expand<D>(k, d, state, z, v + out_row * d, 1.0F, dphi_k + row * k);
        Contract<D>(k, d, phi_k + row * k, state, dv + out_row * d);
      }
    }
  }
}

}  // namespace

T2R_CLONES void RecurrentForward(const RecurrentShape& shape, const float* phi_q,
                                 const float* phi_k, const float* v, float* y, float* weight) {
  switch (shape.head_dim) {
    case 8:
      return Forward<8>(shape, phi_q, phi_k, v, y, weight);
    case 32:
      return Forward<32>(shape, phi_q, phi_k, v, y, weight);
    case 64:
      return Forward<64>(shape, phi_q, phi_k, v, y, weight);
    default:
      return Forward<0>(shape, phi_q, phi_k, v, y, weight);
  }
}

T2R_CLONES void RecurrentBackward(const RecurrentShape& shape, const float* phi_q,
                                  const float* phi_k, const float* v, const float* y,
                                  const float* weight, const float* dy, float* dphi_q,
                                  float* dphi_k, float* dv) {
  switch (shape.head_dim) {
    case 8:
      return Backward<8>(shape, phi_q, phi_k, v, y, weight, dy, dphi_q, dphi_k, dv);
    case 32:
      return Backward<32>(shape, phi_q, phi_k, v, y, weight, dy, dphi_q, dphi_k, dv);
    case 64:
      return Backward<64>(shape, phi_q, phi_k, v, y, weight, dy, dphi_q, dphi_k, dv);
    default:
      return Backward<0>(shape, phi_q, phi_k, v, y, weight, dy, dphi_q, dphi_k, dv);
  }
}

}  // namespace t2r::convert
