// The CUDA module's entry points.
#include "engine/ops/cuda/cuda_backend.h"
#include "engine/ops/cuda/cuda_module.h"

#define T2R_EXPORT __attribute__((visibility("default")))

extern "C" T2R_EXPORT const char* t2r_cuda_interface() { return T2R_CUDA_INTERFACE; }

extern "C" T2R_EXPORT t2r::Backend* t2r_make_cuda_backend(bool batch_invariant) {
  return new t2r::cuda::CudaBackend(batch_invariant);
}
