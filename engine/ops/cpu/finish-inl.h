// How a product's sums reach its output. No include guard: each .cc of an instruction set includes
// it inside the set's namespace, below the attributes that name the set to the compiler. Isa has
// Floats of 16 lanes with Add, LoadFloats and StoreFloats; T2R_UNROLL stands before loops over
// registers.

// sums + bias, then + what is at `out`, to `out`; bias null: without one.
template <class Isa, int kVectors>
HWY_INLINE void FinishWhole(const typename Isa::Floats (&sums)[kVectors], const float* bias,
                            bool accumulate, float* out) {
  T2R_UNROLL
  for (int i = 0; i < kVectors; ++i) {
    auto v = sums[i];
    if (bias != nullptr) v = Isa::Add(v, Isa::LoadFloats(bias + 16 * i));
    if (accumulate) v = Isa::Add(Isa::LoadFloats(out + 16 * i), v);
    Isa::StoreFloats(v, out + 16 * i);
  }
}

// The finished sums of one row's output features from `feature` on. The last panel may be partial:
// its bias, residual and result pass through whole vectors too.
template <class Isa, int kVectors>
HWY_INLINE void Finish(const ProductTask& task, int64_t row, int64_t feature,
                       const typename Isa::Floats (&sums)[kVectors]) {
  float* const out = task.out + row * task.out_stride + feature;
  const float* const bias = task.bias == nullptr ? nullptr : task.bias + feature;
  const int64_t count = task.n - feature;
  if (count >= 16 * kVectors) return FinishWhole<Isa>(sums, bias, task.accumulate, out);
  const auto bytes = static_cast<size_t>(count) * sizeof(float);
  alignas(64) float whole_bias[16 * kVectors] = {};
  alignas(64) float whole[16 * kVectors] = {};
  if (bias != nullptr) __builtin_memcpy(whole_bias, bias, bytes);
  if (task.accumulate) __builtin_memcpy(whole, out, bytes);
  FinishWhole<Isa>(sums, bias == nullptr ? nullptr : whole_bias, task.accumulate, whole);
  __builtin_memcpy(out, whole, bytes);
}

// The same of kRows rows × kPanels panels of kVectors vectors, `step` features apart.
template <class Isa, int kPanels, int kRows, int kVectors>
HWY_INLINE void FinishTile(const ProductTask& task, int64_t row, int64_t feature, int64_t step,
                           const typename Isa::Floats (&sums)[kPanels][kRows][kVectors]) {
  constexpr int64_t kFeatures = 16 * kVectors;
  if (task.n - feature >= (kPanels - 1) * step + kFeatures) {
    T2R_UNROLL
    for (int p = 0; p < kPanels; ++p) {
      T2R_UNROLL
      for (int r = 0; r < kRows; ++r) {
        const int64_t first = feature + p * step;
        FinishWhole<Isa>(sums[p][r], task.bias == nullptr ? nullptr : task.bias + first,
                         task.accumulate, task.out + (row + r) * task.out_stride + first);
      }
    }
    return;
  }
  // Parked before anything is called: sums that live across a call would have no register in the
  // loops before it either.
  alignas(64) float parked[kPanels][kRows][kFeatures];
  T2R_UNROLL
  for (int p = 0; p < kPanels; ++p) {
    T2R_UNROLL
    for (int r = 0; r < kRows; ++r) {
      T2R_UNROLL
      for (int v = 0; v < kVectors; ++v) Isa::StoreFloats(sums[p][r][v], parked[p][r] + 16 * v);
    }
  }
  for (int p = 0; p < kPanels; ++p) {
    for (int r = 0; r < kRows; ++r) {
      typename Isa::Floats row_sums[kVectors];
      for (int v = 0; v < kVectors; ++v) row_sums[v] = Isa::LoadFloats(parked[p][r] + 16 * v);
      Finish<Isa>(task, row + r, feature + p * step, row_sums);
    }
  }
}

// Fetches the outputs of kRows rows, kPanels panels of `features`, `step` features apart, for
// writing: before the sums, so that Finish need not wait for them.
template <int kPanels, int kRows>
HWY_INLINE void FetchOutputs(const ProductTask& task, int64_t row, int64_t feature, int64_t step,
                             int64_t features) {
  for (int p = 0; p < kPanels; ++p) {
    const float* out = task.out + row * task.out_stride + feature + p * step;
    for (int r = 0; r < kRows; ++r, out += task.out_stride) {
      for (int64_t i = 0; i < features; i += 16) __builtin_prefetch(out + i, 1, 3);
    }
  }
}
