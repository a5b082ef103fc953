// What the parts of t2r-bench-ops share: options, the clock, the table's lines and the tensors.
#pragma once

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "engine/ops/backend.h"

namespace t2r::bench {

struct OpsOptions {
  int threads = 0;
  double seconds = 0.3;
  bool cpu_time = false;
  RowRounding rows = RowRounding::kNone;
  std::string only;  // products, attention or rows; empty: all
};

class Harness {
 public:
  // Prints the backend, this machine's peaks and the table's head.
  explicit Harness(const OpsOptions& options);

  const OpsOptions& options() const { return options_; }
  Backend& backend() { return *backend_; }

  // The shortest of the runs of fn(run number), in seconds.
  template <typename Fn>
  double Best(const Fn& fn) const {
    double best = 1e30;
    const double end = Now() + options_.seconds;
    for (int run = 0; run < 3 || Now() < end; ++run) {
      const double start = Time();
      fn(run);
      best = std::min(best, Time() - start);
    }
    return best;
  }

  void Print(const std::string& what, double seconds, double flops, double bytes) const;

  void Step(const Batch& batch, const std::function<void()>& ops) {
    backend_->RunStep(nullptr, batch, [&](const StepShape&) { ops(); });
  }

  // They last until Clear.
  Tensor MakeTensor(int64_t rows, int64_t cols, DType dtype = DType::kFloat32);
  void Clear() { buffers_.clear(); }

 private:
  static double Now();
  double Time() const;  // the clock that --cpu-time chooses

  OpsOptions options_;
  std::unique_ptr<Backend> backend_;
  std::vector<Buffer> buffers_;
  double peak_flops_ = 0;
  double read_bytes_ = 0;
};

}  // namespace t2r::bench
