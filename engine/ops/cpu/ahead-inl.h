// How a product's loops address and fetch. No include guard: each .cc of an instruction set
// includes it inside the set's namespace, below the attributes that name the set to the compiler.
// T2R_UNROLL stands before loops over registers.

// kRows pointers a stride apart, in a third of as many registers: an address adds a stride once or
// twice by itself. Left to itself the compiler keeps one pointer a row, which the stack then holds.
template <int kRows>
class RowPointers {
 public:
  RowPointers(const void* first, int64_t stride) : stride_(stride) {
    for (int i = 0; i < kThirds; ++i) thirds_[i] = static_cast<const char*>(first) + 3 * i * stride;
  }
  HWY_INLINE const char* operator[](int row) const { return thirds_[row / 3] + row % 3 * stride_; }
  // Also hides the stride from the compiler, which would compute a loop's addresses before it.
  HWY_INLINE void Advance(int64_t bytes) {
    T2R_UNROLL
    for (int i = 0; i < kThirds; ++i) {
      thirds_[i] += bytes;
      asm("" : "+r"(thirds_[i]));
    }
    asm("" : "+r"(stride_));
  }

 private:
  static constexpr int kThirds = (kRows + 2) / 3;
  const char* thirds_[kThirds];
  int64_t stride_;
};

// The panels that come next, into the second level: a few lines with every step of the loops over
// the present ones, since memory is too far for the processor's own prefetching, which starts anew
// with each panel.
class Ahead {
 public:
  Ahead() = default;
  // `bytes` from `begin` on, in about `steps` steps, one at least. The last may go beyond them,
  // which a prefetch does not mind.
  Ahead(const void* begin, int64_t bytes, int64_t steps)
      : at_(static_cast<const char*>(begin)),
        end_(at_ + bytes),
        step_((bytes + kLine * steps - 1) / (kLine * steps) * kLine) {}

  HWY_INLINE void Step() {
    if (at_ >= end_) return;
    for (int64_t i = 0; i < step_; i += kLine) __builtin_prefetch(at_ + i, 0, 2);
    at_ += step_;
  }

 private:
  static constexpr int64_t kLine = 64;
  const char* at_ = nullptr;
  const char* end_ = nullptr;
  int64_t step_ = 0;
};

// What follows `count` panels of panel_bytes from `panel` on, as far as the thread likely goes.
HWY_INLINE Ahead AfterPanels(const ProductTask& task, const void* panels, int64_t panel_bytes,
                             int64_t panel, int64_t count, int64_t steps) {
  const int64_t next =
      panel + count < task.first_panel + task.panel_count ? panel + count : task.next_panel;
  const int64_t most = task.next_end - next;
  return Ahead(static_cast<const char*>(panels) + next * panel_bytes,
               (count < most ? count : most) * panel_bytes, steps);
}
