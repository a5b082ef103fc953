// What this machine can do at most by vector instructions (AMX's tiles are not measured): the
// yardstick that benchmarks print beside their own figures.
#pragma once

#include <string>

namespace t2r::bench {

struct Peaks {
  int threads = 0;
  double read_gb_per_s = 0;     // 10⁹ bytes a second read from memory far beyond the caches
  double f32_gflop_per_s = 0;   // float32 fused multiply-adds, two operations each
  double bf16_gflop_per_s = 0;  // bfloat16 dot products with float32 sums; 0: the CPU has none
  double int8_gop_per_s = 0;    // dot products of bytes with 32-bit sums; 0: the CPU has none
  std::string isa;              // Highway's name of the vector instructions that were used
};

// Takes the best of several runs, about two seconds in all. threads: 0 = one a core.
Peaks MeasurePeaks(int threads);

}  // namespace t2r::bench
