// Linear attention of one segment and group: the recurrence in token order.
//
// S is read and written once a token, row by row, so that decoding streams it from memory and a
// prompt keeps it in cache. An element's chain of operations is fixed by k and d: S by token order,
// y by feature order.
#include "engine/ops/cpu/kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/ops/cpu/linear_attention.cc"
#include <hwy/foreach_target.h>
// Highway must come after foreach_target.h.
#include <hwy/cache_control.h>

#include "engine/ops/cpu/features-inl.h"

HWY_BEFORE_NAMESPACE();
namespace t2r {
namespace HWY_NAMESPACE {
namespace {

// For R rows of S and H query heads: S += φk v (when kUpdate), then y_h += φq_h S.
// s [R, d]; phi_q and y of head h at h · phi_stride and h · y_stride.
template <int R, int H, bool kUpdate>
HWY_INLINE void Rows(const float* HWY_RESTRICT phi_k, const float* HWY_RESTRICT phi_q,
                     int64_t phi_stride, const float* HWY_RESTRICT v, int64_t n,
                     float* HWY_RESTRICT s, float* HWY_RESTRICT y, int64_t y_stride) {
  const DF d;
  ForVectors(n, [&](int64_t j, auto io) HWY_ATTR {
    VF value = hn::Zero(d);
    if constexpr (kUpdate) value = io.Load(v + j);
    VF sum[H + 1];  // H may be 0
#pragma GCC unroll 8
    for (int h = 0; h < H; ++h) sum[h] = hn::LoadU(d, y + h * y_stride + j);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      VF row = io.Load(s + r * n + j);
      if constexpr (kUpdate) {
        row = hn::MulAdd(hn::Set(d, phi_k[r]), value, row);
        io.Store(row, s + r * n + j);
      }
#pragma GCC unroll 8
      for (int h = 0; h < H; ++h) {
        sum[h] = hn::MulAdd(hn::Set(d, phi_q[h * phi_stride + r]), row, sum[h]);
      }
    }
#pragma GCC unroll 8
    for (int h = 0; h < H; ++h) hn::StoreU(sum[h], d, y + h * y_stride + j);
  });
}

// All k rows of S for H heads. next: as many rows of another S, to be fetched beside; or null.
template <int H, bool kUpdate>
void UpdateAndRead(const float* phi_k, const float* phi_q, int64_t phi_stride, const float* v,
                   int64_t k, int64_t n, float* s, float* y, int64_t y_stride, const float* next) {
  int64_t i = 0;
  for (; i + 4 <= k; i += 4) {
    if (next != nullptr) {
      for (int64_t j = 0; j < 4 * n; j += 16) __builtin_prefetch(next + i * n + j, 1, 2);
    }
    Rows<4, H, kUpdate>(phi_k + i, phi_q + i, phi_stride, v, n, s + i * n, y, y_stride);
  }
  for (; i < k; ++i) {
    Rows<1, H, kUpdate>(phi_k + i, phi_q + i, phi_stride, v, n, s + i * n, y, y_stride);
  }
}

template <bool kUpdate>
void UpdateAndReadHeads(int heads, const float* phi_k, const float* phi_q, int64_t phi_stride,
                        const float* v, int64_t k, int64_t n, float* s, float* y, int64_t y_stride,
                        const float* next) {
  switch (heads) {
    case 0:
      return UpdateAndRead<0, kUpdate>(phi_k, phi_q, phi_stride, v, k, n, s, y, y_stride, next);
    case 1:
      return UpdateAndRead<1, kUpdate>(phi_k, phi_q, phi_stride, v, k, n, s, y, y_stride, next);
    case 2:
      return UpdateAndRead<2, kUpdate>(phi_k, phi_q, phi_stride, v, k, n, s, y, y_stride, next);
    case 3:
      return UpdateAndRead<3, kUpdate>(phi_k, phi_q, phi_stride, v, k, n, s, y, y_stride, next);
    default:
      return UpdateAndRead<4, kUpdate>(phi_k, phi_q, phi_stride, v, k, n, s, y, y_stride, next);
  }
}

int64_t ScratchFloats(const LinearAttentionArgs& args) {
  const int64_t num_queries_per_kv = args.heads / args.groups;
  return (num_queries_per_kv + 1) * RoundUpToLanes(args.map.features) +
         num_queries_per_kv * RoundUpToLanes(args.head_dim) +
         FeatureScratchFloats(args.map, args.head_dim);
}

void Run(const LinearAttentionArgs& args, const Segment& segment, int group, const float* next,
         float* scratch) {
  const DF d;
  const int64_t k = args.map.features;
  const int64_t n = args.head_dim;
  const int64_t width = args.map.folded ? args.map.projected_features() : n;
  const int num_queries_per_kv = args.heads / args.groups;
  const int64_t phi_stride = RoundUpToLanes(k);
  const int64_t y_stride = RoundUpToLanes(n);
  float* phi_k = scratch;
  float* phi_q = phi_k + phi_stride;
  float* y = phi_q + num_queries_per_kv * phi_stride;
  float* feature_scratch = y + num_queries_per_kv * y_stride;

  const bool update = args.mode != LinearAttentionMode::kRead;
  const bool read = args.mode != LinearAttentionMode::kAccumulate;
  float* slot = args.state + segment.slot * args.slot_stride;
  float* s = args.State(segment.slot, group);
  float* z = slot + (args.groups * n + group) * k;

  const float keep = args.log_decay == nullptr ? 1.0F : std::exp(args.log_decay[group]);
  const auto decay = [&](float* x, int64_t count) {
    ForVectors(count, [&](int64_t i, auto io)
                          HWY_ATTR { io.Store(hn::Mul(io.Load(x + i), hn::Set(d, keep)), x + i); });
  };

  // A decoding session's state lies in memory: it comes while the session before it is computed, or
  // at least while the features are.
  for (int64_t i = 0; i < k * n; i += 16) hwy::Prefetch(s + i);
  for (int64_t t = segment.first_row; t < segment.first_row + segment.rows; ++t) {
    const int64_t first_head = static_cast<int64_t>(group) * num_queries_per_kv;
    if (update) {
      if (keep != 1) {
        decay(s, k * n);
        decay(z, k);
      }
      ComputeFeatures(args.map, n, group, false, args.k.f32_row(t) + group * width, phi_k,
                      feature_scratch);
      ForVectors(k, [&](int64_t i, auto io)
                        HWY_ATTR { io.Store(hn::Add(io.Load(z + i), io.Load(phi_k + i)), z + i); });
    }
    if (read) {
      for (int h = 0; h < num_queries_per_kv; ++h) {
        ComputeFeatures(args.map, n, group, true, args.q.f32_row(t) + (first_head + h) * width,
                        phi_q + h * phi_stride, feature_scratch);
      }
    }
    const float* v = update ? args.v.f32_row(t) + group * n : nullptr;
    const float* fetched = t == segment.first_row ? next : nullptr;
    if (!read) {
      UpdateAndReadHeads<true>(0, phi_k, phi_q, phi_stride, v, k, n, s, y, y_stride, fetched);
      continue;
    }
    for (int64_t i = 0; i < num_queries_per_kv * y_stride; i += kLanes)
      hn::StoreU(hn::Zero(d), d, y + i);
    for (int h = 0; h < num_queries_per_kv; h += 4) {
      const int heads = num_queries_per_kv - h < 4 ? num_queries_per_kv - h : 4;
      const float* some_phi = phi_q + h * phi_stride;
      float* some_y = y + h * y_stride;
      if (h == 0 && update) {
        UpdateAndReadHeads<true>(heads, phi_k, some_phi, phi_stride, v, k, n, s, some_y, y_stride,
                                 fetched);
      } else {
        UpdateAndReadHeads<false>(heads, phi_k, some_phi, phi_stride, v, k, n, s, some_y, y_stride,
                                  nullptr);
      }
    }
    for (int h = 0; h < num_queries_per_kv; ++h) {
      VF products = hn::Zero(d);
      ForVectors(k, [&](int64_t i, auto io) HWY_ATTR {
        products = hn::MulAdd(io.Load(phi_q + h * phi_stride + i), io.Load(z + i), products);
      });
      const float den = Sum(products);
      const VF divisor = hn::Set(
          d, args.normalizer == Normalizer::kClamp ? std::max(den, args.eps) : den + args.eps);
      float* out = args.out.f32_row(t) + (first_head + h) * n;
      ForVectors(n, [&](int64_t j, auto io) HWY_ATTR {
        io.Store(hn::Div(io.Load(y + h * y_stride + j), divisor), out + j);
      });
    }
  }
}

}  // namespace

const LinearAttentionKernels* LinearAttentionTable() {
  static const LinearAttentionKernels kTable = {ScratchFloats, Run};
  return &kTable;
}

}  // namespace HWY_NAMESPACE
}  // namespace t2r
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace t2r {
HWY_EXPORT(LinearAttentionTable);
const LinearAttentionKernels& ChooseLinearAttentionKernels() {
  return *HWY_DYNAMIC_DISPATCH(LinearAttentionTable)();
}
}  // namespace t2r
#endif
