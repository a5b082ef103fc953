// Stands in for cuBLASLt: the matrix product of engine/ops/cuda/gemm.h on the host, in stream
// order.
//
// An element is eight interleaved sums over k, added up in a fixed order, so its bits depend on its
// row of x and its row of w alone.
#include <cstring>

#include "engine/ops/cuda/cuda_compat.h"
#include "engine/ops/cuda/error.h"
#include "engine/ops/cuda/gemm.h"
#include "engine/ops/tensor.h"

namespace t2r::cuda {
namespace {

constexpr int kSums = 8;

float Element(const float* data, int64_t i) { return data[i]; }
float Element(const uint16_t* data, int64_t i) { return BFloat16ToFloat(data[i]); }
float Element(const Float8* data, int64_t i) { return ToFloat(data[i]); }

template <typename T>
float Dot(const T* x, const T* w, int64_t k) {
  float sums[kSums] = {};
  int64_t i = 0;
  for (; i + kSums <= k; i += kSums) {
    for (int j = 0; j < kSums; ++j) sums[j] += Element(x, i + j) * Element(w, i + j);
  }
  for (int j = 0; i < k; ++i, ++j) sums[j] += Element(x, i) * Element(w, i);
  return ((sums[0] + sums[4]) + (sums[1] + sums[5])) + ((sums[2] + sums[6]) + (sums[3] + sums[7]));
}

template <typename T>
void Multiply(const GemmArgs& args) {
  for (int64_t n = 0; n < args.n; ++n) {
    const T* w = static_cast<const T*>(args.w) + n * args.k;
    for (int64_t t = 0; t < args.rows; ++t) {
      float sum = Dot(static_cast<const T*>(args.x) + t * args.x_stride, w, args.k);
      const int64_t at = t * args.out_stride + n;
      if (args.bias != nullptr) sum += args.bias[n];
      if (args.out_dtype == DType::kFloat32) {
        float& out = static_cast<float*>(args.out)[at];
        out = args.accumulate ? out + sum : sum;
      } else {
        uint16_t& out = static_cast<uint16_t*>(args.out)[at];
        out = FloatToBFloat16(args.accumulate ? BFloat16ToFloat(out) + sum : sum);
      }
    }
  }
}

void MultiplyIntegers(const GemmArgs& args) {
  for (int64_t n = 0; n < args.n; ++n) {
    const auto* w = static_cast<const int8_t*>(args.w) + n * args.k;
    for (int64_t t = 0; t < args.rows; ++t) {
      const auto* x = static_cast<const int8_t*>(args.x) + t * args.x_stride;
      int32_t sum = 0;
      for (int64_t i = 0; i < args.k; ++i) sum += int32_t{x[i]} * int32_t{w[i]};
      static_cast<int32_t*>(args.out)[t * args.out_stride + n] = sum;
    }
  }
}

// What cuBLASLt's tensor-core products of bytes need.
void CheckBytes(const GemmArgs& args) {
  const auto bits = static_cast<uint64_t>(args.n | args.k | args.x_stride | args.out_stride) |
                    reinterpret_cast<uintptr_t>(args.x) | reinterpret_cast<uintptr_t>(args.w) |
                    reinterpret_cast<uintptr_t>(args.out);
  if (bits % kByteMultiple != 0 || args.accumulate || args.bias != nullptr) {
    throw DeviceError("a product of bytes that cuBLASLt does not have");
  }
}

}  // namespace

struct Gemm::State {
  cudaStream_t stream;
};

Gemm::Gemm(cudaStream_t stream, bool /*batch_invariant: always*/) : state_(new State{stream}) {}
Gemm::~Gemm() = default;

void Gemm::Run(const GemmArgs& args) {
  if (SizeOf(args.dtype) == 1) CheckBytes(args);
  Check(emulator::Enqueue(state_->stream,
                          [args] {
                            if (args.dtype == DType::kInt8) {
                              MultiplyIntegers(args);
                            } else if (args.dtype == DType::kFloat8) {
                              Multiply<Float8>(args);
                            } else if (args.dtype == DType::kFloat32) {
                              Multiply<float>(args);
                            } else {
                              Multiply<uint16_t>(args);
                            }
                          }),
        "gemm");
}

}  // namespace t2r::cuda
