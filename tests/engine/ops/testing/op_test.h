// The fixture of every op's test: one backend a parameter, random inputs, tensors with padded rows.
#pragma once

#include <gtest/gtest.h>
#include <hwy/highway.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <ostream>
#include <random>
#include <string>
#include <vector>

#include "engine/ops/backend.h"
#include "engine/ops/cpu/bf16_gemm/kernels.h"
#include "engine/ops/cpu/int_gemm/kernels.h"
#include "testing/ops_reference.h"
#include "tests/engine/ops/testing/chosen_backend.h"

namespace t2r::testing {

struct BackendCase {
  std::string name;
  BackendOptions options;
  int64_t target = 0;  // the CPU's instruction set, a Highway target; 0: the best of this machine
  const IntGemmKernels* int_gemm = nullptr;  // its products with quantised weights; null: the best
  const Bf16GemmKernels* bf16_gemm = nullptr;  // where rows are bfloat16; null: the machine's
};

// The CUDA backend alone where T2R_CUDA_MODULE names its module (the emulated one, or a device's);
// else the CPU's, also with each lesser instruction set that it dispatches to.
inline std::vector<BackendCase> AllBackends() {
  if (ChosenBackend() == "cuda") return {{"Cuda", {"cuda"}}};
  std::vector<BackendCase> cases = {{"Cpu1Thread", {"cpu", 1}}, {"Cpu2Threads", {"cpu", 2}}};
  const std::vector<int64_t> targets = hwy::SupportedAndGeneratedTargets();
  for (size_t i = 1; i < targets.size(); ++i) {
    cases.push_back({std::string("Cpu") + hwy::TargetName(targets[i]), {"cpu", 1}, targets[i]});
  }
  return cases;
}

inline std::unique_ptr<Backend> MakeBackend(const BackendCase& backend) {
  hwy::SetSupportedTargetsForTest(backend.target);
  SetIntGemmForTest(backend.int_gemm);
  SetBf16GemmForTest(backend.bf16_gemm);
  std::unique_ptr<Backend> made = t2r::MakeBackend(backend.options);
  SetIntGemmForTest(nullptr);
  SetBf16GemmForTest(nullptr);
  hwy::SetSupportedTargetsForTest(0);
  return made;
}

inline void PrintTo(const BackendCase& backend, std::ostream* os) { *os << backend.name; }

inline std::string CaseName(const ::testing::TestParamInfo<BackendCase>& info) {
  return info.param.name;
}

// A tensor in device memory whose rows are followed by `padding` sentinels no op may touch. As
// bfloat16 its values are rounded.
class DeviceTensor {
 public:
  DeviceTensor(Backend& backend, const Mat& values, int64_t padding = 0,
               DType dtype = DType::kFloat32)
      : backend_(backend),
        dtype_(dtype),
        rows_(values.rows),
        cols_(values.cols),
        stride_(cols_ + padding),
        buffer_(backend.Allocate(static_cast<size_t>(rows_ * stride_) * SizeOf(dtype))) {
    std::vector<float> host(rows_ * stride_, kSentinel);
    for (int64_t r = 0; r < rows_; ++r) {
      for (int64_t c = 0; c < cols_; ++c) {
        host[r * stride_ + c] = static_cast<float>(values.at(r, c));
      }
    }
    if (dtype == DType::kFloat32) {
      backend.CopyToDevice(buffer_.data(), host.data(), buffer_.bytes());
      return;
    }
    std::vector<uint16_t> half;
    for (const float value : host) half.push_back(FloatToBFloat16(value));
    backend.CopyToDevice(buffer_.data(), half.data(), buffer_.bytes());
  }

  Tensor view() const { return {buffer_.data(), dtype_, rows_, cols_, stride_}; }

  // The values; fails the test if an op wrote between the rows.
  Mat Read() const {
    std::vector<float> host(rows_ * stride_);
    if (dtype_ == DType::kFloat32) {
      backend_.CopyToHost(host.data(), buffer_.data(), buffer_.bytes());
    } else {
      std::vector<uint16_t> half(host.size());
      backend_.CopyToHost(half.data(), buffer_.data(), buffer_.bytes());
      for (size_t i = 0; i < half.size(); ++i) host[i] = BFloat16ToFloat(half[i]);
    }
    Mat values(rows_, cols_);
    for (int64_t r = 0; r < rows_; ++r) {
      for (int64_t c = 0; c < cols_; ++c) values.at(r, c) = host[r * stride_ + c];
      for (int64_t c = cols_; c < stride_; ++c) {
        EXPECT_EQ(host[r * stride_ + c], kSentinel) << "padding written at row " << r;
      }
    }
    return values;
  }

 private:
  static constexpr float kSentinel = 12352;  // a bfloat16 too
  Backend& backend_;
  DType dtype_;
  int64_t rows_;
  int64_t cols_;
  int64_t stride_;
  Buffer buffer_;
};

class OpTest : public ::testing::TestWithParam<BackendCase> {
 protected:
  OpTest() : backend_(testing::MakeBackend(GetParam())) {}

  // Normal values, rounded to float32 so that reference and backend see the same numbers.
  Mat Random(int64_t rows, int64_t cols, double scale = 1.0) {
    Mat m(rows, cols);
    std::normal_distribution<double> normal(0.0, scale);
    for (double& v : m.v) v = static_cast<float>(normal(rng_));
    return m;
  }
  DeviceTensor Device(const Mat& m, int64_t padding = 0) {
    return DeviceTensor(*backend_, m, padding);
  }
  Buffer Vector(const Mat& m) { return backend_->LoadVector(m.Floats()); }

  std::unique_ptr<Backend> backend_;
  std::mt19937_64 rng_{20240229};
};

// Runs ops on a batch, as a step that is neither padded nor recorded.
inline void RunOps(Backend& backend, const Batch& batch, const std::function<void()>& ops) {
  backend.RunStep(nullptr, batch, [&](const StepShape& shape) {
    EXPECT_EQ(shape.rows, batch.rows());
    ops();
  });
}

// |out − ref| ≤ bound, element by element; reports the worst one.
inline void ExpectWithin(const Mat& out, const Mat& ref, const Mat& bound) {
  ASSERT_EQ(out.v.size(), ref.v.size());
  double worst = 0;
  size_t at = 0;
  for (size_t i = 0; i < out.v.size(); ++i) {
    const double excess = std::abs(out.v[i] - ref.v[i]) / (bound.v[i] + 1e-300);
    if (!(excess <= worst)) {  // also catches NaN
      worst = excess;
      at = i;
    }
  }
  EXPECT_LE(worst, 1.0) << "element " << at << " is " << out.v[at] << ", should be " << ref.v[at]
                        << " within " << bound.v[at];
}

// The same bits, so −0 differs from 0 and NaN equals itself.
inline bool SameBits(const float* a, const float* b, size_t n) {
  return std::memcmp(a, b, n * sizeof(float)) == 0;
}
inline void ExpectSameBits(const Mat& a, const Mat& b, const std::string& what) {
  const std::vector<float> x = a.Floats();
  const std::vector<float> y = b.Floats();
  ASSERT_EQ(x.size(), y.size()) << what;
  EXPECT_TRUE(SameBits(x.data(), y.data(), x.size())) << what;
}

}  // namespace t2r::testing
