// Memory that a loop wants soon.
#pragma once

#include <hwy/base.h>

#include <cstdint>

namespace t2r {

// A range of memory, into the second level: a few lines with every step of a loop over what is
// there already. Memory is too far for the processor's own prefetching, which starts anew with each
// range.
class Ahead {
 public:
  // Bytes of a step, whole lines, with which `bytes` are fetched in about `steps` ≥ 1 steps.
  static HWY_INLINE int64_t StepFor(int64_t bytes, int64_t steps) {
    return (bytes + kLine * steps - 1) / (kLine * steps) * kLine;
  }

  Ahead() = default;
  HWY_INLINE Ahead(const void* begin, int64_t bytes, int64_t step)
      : at_(static_cast<const char*>(begin)), end_(at_ + bytes), step_(step) {}

  HWY_INLINE bool done() const { return at_ >= end_; }
  // The last step may go beyond the range, which a prefetch does not mind.
  HWY_INLINE void Step() {
    if (done()) return;
    for (int64_t i = 0; i < step_; i += kLine) __builtin_prefetch(at_ + i, 0, 2);
    at_ += step_;
  }

 private:
  static constexpr int64_t kLine = 64;
  const char* at_ = nullptr;
  const char* end_ = nullptr;
  int64_t step_ = 0;
};

}  // namespace t2r
