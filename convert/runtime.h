// Process-wide settings that LibTorch needs to be fast on a CPU.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <string>

namespace t2r::convert {

// Starts the program anew, unless OMP_WAIT_POLICY is set, so that threads that wait for work sleep:
// OpenMP's and OpenBLAS's spin otherwise, on the cores that the others compute on, and both read
// from the environment, as they are loaded, whether to. Of a window of 2,048 tokens on two cores
// this makes a transfer twice as fast. Does nothing where the system refuses. `argv`: main's.
void RestartWithSleepingWaits(char** argv);

// Call before any work. Keeps freed memory in the process (glibc otherwise returns every large
// tensor to the kernel and pages it in again), and holds LibTorch's operators and BLAS to one
// thread. Returns a warning, or nothing: the reference BLAS is many times slower than OpenBLAS.
std::string PrepareRuntime();

// While it lives, LibTorch's operators on this thread use `threads` threads, and so does BLAS, of
// which the process has one setting: only one thread makes these.
class OperatorThreads {
 public:
  explicit OperatorThreads(int threads);
  ~OperatorThreads();
  OperatorThreads(const OperatorThreads&) = delete;
  OperatorThreads& operator=(const OperatorThreads&) = delete;

 private:
  const int before_;
};

// bfloat16 where a model of this width gains by it on `device`, a GPU or a processor that
// multiplies it itself; else float32.
torch::Dtype FastProducts(int64_t width, torch::Device device);

}  // namespace t2r::convert
