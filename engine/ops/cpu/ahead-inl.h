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

// What follows `count` panels of panel_bytes from `panel` on, as far as the thread likely goes.
HWY_INLINE Ahead AfterPanels(const ProductTask& task, const void* panels, int64_t panel_bytes,
                             int64_t panel, int64_t count, int64_t steps) {
  const int64_t next =
      panel + count < task.first_panel + task.panel_count ? panel + count : task.next_panel;
  const int64_t most = task.next_end - next;
  const int64_t bytes = (count < most ? count : most) * panel_bytes;
  return Ahead(static_cast<const char*>(panels) + next * panel_bytes, bytes,
               Ahead::StepFor(bytes, steps));
}

// tile(panel, count, ahead) for `panels` panels of a task from `panel` on, kAtOnce at a time and
// the rest one by one; count is a std::integral_constant. ahead: what is fetched beside; null where
// these are all rows of the task: then it is after(panel, count), but for few rows. They are done
// with a panel as soon as memory delivers it: fetching another beside would delay it.
template <int kAtOnce, bool kFewRows, typename After, typename Tile>
HWY_INLINE void ForPanels(const ProductTask& task, int64_t panel, int64_t panels, Ahead* ahead,
                          const After& after, const Tile& tile) {
  Ahead own;
  const auto take = [&](auto count) {
    if (ahead == nullptr && !kFewRows) own = after(panel, count);
    tile(panel, count, ahead == nullptr ? &own : ahead);
    panel += count * task.panel_step;
  };
  for (; panels >= kAtOnce; panels -= kAtOnce) take(std::integral_constant<int, kAtOnce>());
  for (; panels > 0; --panels) take(std::integral_constant<int, 1>());
}
