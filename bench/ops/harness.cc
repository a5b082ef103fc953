#include "bench/ops/harness.h"

#include <chrono>
#include <cstdio>
#include <ctime>

#include "bench/peaks.h"

namespace t2r::bench {

Harness::Harness(const OpsOptions& options)
    : options_(options),
      backend_(MakeBackend({"cpu", options.threads, nullptr, true, options.rows})) {
  std::printf("%s\n", backend_->Describe().c_str());
  const Peaks peaks = MeasurePeaks(options_.threads);
  peak_flops_ = peaks.f32_gflop_per_s * 1e9;
  read_bytes_ = peaks.read_gb_per_s * 1e9;
  std::printf("measured peaks: %.1f GFLOP/s float32 multiply-add, %.1f GB/s read\n\n",
              peaks.f32_gflop_per_s, peaks.read_gb_per_s);
  std::printf("%-44s %10s %9s %9s %7s %7s\n", "op", "us", "GFLOP/s", "GB/s", "of FMA", "of read");
}

double Harness::Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double Harness::Time() const {
  if (!options_.cpu_time) return Now();
  timespec t{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

void Harness::Print(const std::string& what, double seconds, double flops, double bytes) const {
  std::printf("%-44s %10.2f %9.1f %9.2f %6.0f%% %6.0f%%\n", what.c_str(), seconds * 1e6,
              flops / seconds * 1e-9, bytes / seconds * 1e-9, 100 * flops / seconds / peak_flops_,
              100 * bytes / seconds / read_bytes_);
  std::fflush(stdout);
}

Tensor Harness::MakeTensor(int64_t rows, int64_t cols, DType dtype) {
  const int64_t floats =
      (rows * cols * static_cast<int64_t>(SizeOf(dtype)) + 3) / static_cast<int64_t>(sizeof(float));
  buffers_.push_back(backend_->Allocate(static_cast<size_t>(floats) * sizeof(float)));
  std::fill_n(buffers_.back().f32(), floats, 0.25F);
  return {buffers_.back().data(), dtype, rows, cols, cols};
}

}  // namespace t2r::bench
