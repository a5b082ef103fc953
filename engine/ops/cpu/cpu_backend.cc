#include "engine/ops/cpu/cpu_backend.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstring>
#include <string>
#include <thread>

#include "engine/ops/cpu/host_memory.h"
#include "engine/ops/cpu/memory.h"
#include "engine/ops/cpu/packed_matrix.h"
#include "engine/sampling/sampler.h"

namespace t2r {
namespace {

// What an element costs in a vector op that only moves it, and in one that takes an exponential.
constexpr double kElementNanoseconds = 0.25;
constexpr double kExpNanoseconds = 0.4;

const Bf16GemmKernels* FindBf16Gemm() {
  const Bf16GemmKernels* const found = ChooseBf16Gemm();
  if (found != nullptr) return found;
  throw DeviceError(DeviceErrorKind::kInvalidArgument,
                    "activations bfloat16 needs a processor with AVX512-BF16: take float32");
}

}  // namespace

CpuBackend::CpuBackend(int threads, RowRounding rows)
    : pool_(threads),
      gemm_(ChooseGemmKernels()),
      int_gemm_(ChooseIntGemm()),
      bf16_gemm_(rows == RowRounding::kBFloat16 ? FindBf16Gemm() : nullptr),
      int_planes_(rows == RowRounding::kInt8 ? 1 : 2),
      quantize_row_(ChooseQuantizeRow(int_planes_)),
      row_(ChooseRowKernels()),
      linear_attention_(ChooseLinearAttentionKernels()),
      windowed_attention_(ChooseWindowedAttentionKernels()),
      full_attention_(ChooseFullAttentionKernels()),
      scratch_(threads) {
  ReserveScratch(kGemmScratchFloats);
}

std::string CpuBackend::Describe() const {
  const std::string bf16 =
      bf16_gemm_ == nullptr ? "" : std::string(", bfloat16 products by ") + bf16_gemm_->name;
  return std::string("cpu, ") + gemm_.target + bf16 + ", int8 products by " + int_gemm_.name +
         (int_planes_ == 1 ? ", int8 rows, " : ", ") + std::to_string(pool_.threads()) +
         (pool_.threads() == 1 ? " thread" : " threads");
}

std::string CpuBackend::Numerics() const {
  return std::string("cpu ") + gemm_.target +
         (bf16_gemm_ == nullptr ? "" : std::string(", ") + bf16_gemm_->order) +
         (int_planes_ == 1 ? ", int8 rows" : "");
}

void CpuBackend::ReserveScratch(int64_t floats) {
  const auto bytes = static_cast<size_t>(floats) * sizeof(float);
  for (Buffer& buffer : scratch_) {
    if (buffer.bytes() < bytes) buffer = AllocateHost(bytes);
  }
}

MemoryInfo CpuBackend::Memory() const { return HostMemory(); }
Buffer CpuBackend::Allocate(size_t bytes) { return AllocateHost(bytes); }
void CpuBackend::CopyToDevice(void* device, const void* host, size_t bytes) {
  if (bytes > 0) std::memcpy(device, host, bytes);
}
void CpuBackend::CopyToHost(void* host, const void* device, size_t bytes) {
  if (bytes > 0) std::memcpy(host, device, bytes);
}
void CpuBackend::CopyOnDevice(void* to, const void* from, size_t bytes) {
  if (bytes > 0) std::memcpy(to, from, bytes);
}
void CpuBackend::Zero(void* device, size_t bytes) {
  if (bytes > 0) std::memset(device, 0, bytes);
}

std::unique_ptr<Matrix> CpuBackend::LoadMatrix(std::span<const HostMatrix> parts, DType dtype) {
  if (dtype == DType::kFloat8) {
    throw DeviceError(DeviceErrorKind::kInvalidArgument,
                      "fp8 weights run on GPUs alone: choose the backend cuda, or int8, int4, "
                      "bfloat16 or float32 weights");
  }
  int64_t rows = 0;
  for (const HostMatrix& part : parts) {
    assert(part.cols == parts[0].cols);
    rows += part.rows;
  }
  if (IsQuantized(dtype)) return std::make_unique<QuantizedMatrix>(parts, rows, dtype, pool_);
  if (dtype == DType::kBFloat16 && bf16_gemm_ != nullptr) {
    return std::make_unique<PackedMatrix>(parts, rows, dtype, PanelLayout::kPairs, kPairPanel,
                                          bf16_gemm_->input_multiple, pool_);
  }
  return std::make_unique<PackedMatrix>(parts, rows, dtype, PanelLayout::kFeatures,
                                        gemm_.panel_cols, 1, pool_);
}

Buffer CpuBackend::LoadVector(std::span<const float> values) {
  Buffer buffer = AllocateHost(values.size_bytes());
  CopyToDevice(buffer.data(), values.data(), values.size_bytes());
  return buffer;
}

std::unique_ptr<Matrix> CpuBackend::LoadTable(const HostMatrix& table) {
  assert(!table.transposed);
  return std::make_unique<HostTable>(table);
}

void CpuBackend::PrepareSteps(const StepLimits& limits) {
  const int64_t segments =
      limits.max_segments == 0 ? limits.max_rows : std::min(limits.max_segments, limits.max_rows);
  max_rows_ = limits.max_rows;
  // Every segment may end in a page of its own.
  max_encoder_pages_ = limits.max_rows / kKvPageSize + segments;
  first_block_.reserve(static_cast<size_t>(segments) + 1);
  encoder_batch_.segments.reserve(static_cast<size_t>(segments));
  encoder_batch_.pages.reserve(static_cast<size_t>(max_encoder_pages_));
  encoder_batch_.source_pages.reserve(static_cast<size_t>(max_encoder_pages_));
}

StepShape CpuBackend::RunStep(const void* /*model*/, const Batch& batch,
                              const std::function<void(const StepShape&)>& ops) {
  first_block_.clear();
  int64_t blocks = 0;
  for (const Segment& segment : batch.segments) {
    first_block_.push_back(blocks);
    blocks += (segment.rows + kAttentionRows - 1) / kAttentionRows;
  }
  first_block_.push_back(blocks);
  const StepShape shape = {batch.rows(), static_cast<int64_t>(batch.logit_rows.size())};
  ops(shape);
  return shape;
}

void CpuBackend::Embed(const Batch& batch, const Matrix& table, const Matrix* positions,
                       float scale, Tensor out) {
  const auto& tokens = static_cast<const LookupTable&>(table);
  const auto* learned = static_cast<const LookupTable*>(positions);
  assert(out.cols == table.cols() && out.rows == batch.rows());
  ForRows(batch.rows(), kElementNanoseconds * static_cast<double>(out.cols), [&](int64_t t) {
    float* row = out.f32_row(t);
    tokens.ReadRow(batch.tokens[t], row);
    if (scale != 1.0F) {
      for (int64_t i = 0; i < out.cols; ++i) row[i] *= scale;
    }
    if (learned != nullptr) learned->AddRow(batch.positions[t], row);
  });
}

void CpuBackend::RmsNorm(Tensor x, const float* weight, float eps, Tensor out) {
  ForRows(x.rows, kElementNanoseconds * static_cast<double>(x.cols),
          [&](int64_t t) { row_.rms_norm(x.f32_row(t), weight, eps, x.cols, out.f32_row(t)); });
}

void CpuBackend::RmsNormHeads(Tensor x, int heads, const float* weight, float eps) {
  const int64_t d = x.cols / heads;
  ForRows(x.rows, kElementNanoseconds * static_cast<double>(x.cols), [&](int64_t t) {
    float* const row = x.f32_row(t);
    for (int h = 0; h < heads; ++h) row_.rms_norm(row + h * d, weight, eps, d, row + h * d);
  });
}

void CpuBackend::LayerNorm(Tensor x, const float* weight, const float* bias, float eps,
                           Tensor out) {
  ForRows(x.rows, 2 * kElementNanoseconds * static_cast<double>(x.cols), [&](int64_t t) {
    row_.layer_norm(x.f32_row(t), weight, bias, eps, x.cols, out.f32_row(t));
  });
}

void CpuBackend::RopeTable(const Batch& batch, std::span<const double> inverse_frequencies,
                           double factor, Tensor cos_sin) {
  const auto n = static_cast<int64_t>(inverse_frequencies.size());
  ForRows(batch.rows(), 40.0 * static_cast<double>(n), [&](int64_t t) {
    float* y = cos_sin.f32_row(t);
    for (int64_t i = 0; i < n; ++i) {
      const double angle = static_cast<double>(batch.positions[t]) * inverse_frequencies[i];
      y[i] = static_cast<float>(std::cos(angle) * (inverse_frequencies[i] == 0 ? 1.0 : factor));
      y[n + i] = static_cast<float>(std::sin(angle) * factor);
    }
  });
}

void CpuBackend::Rope(Tensor cos_sin, int heads, int head_dim, Tensor x) {
  assert(cos_sin.cols % 2 == 0 && cos_sin.cols <= head_dim);
  ForRows(x.rows, kElementNanoseconds * heads * static_cast<double>(cos_sin.cols), [&](int64_t t) {
    row_.rope(cos_sin.f32_row(t), cos_sin.cols / 2, heads, head_dim, x.f32_row(t));
  });
}

void CpuBackend::SwiGlu(Tensor gate_up, Tensor out) {
  assert(gate_up.cols == 2 * out.cols);
  ForRows(out.rows, kExpNanoseconds * static_cast<double>(out.cols), [&](int64_t t) {
    row_.swiglu(gate_up.f32_row(t), gate_up.f32_row(t) + out.cols, out.cols, out.f32_row(t));
  });
}

void CpuBackend::Activate(ActivationKind kind, Tensor x) {
  const double element = kind == ActivationKind::kRelu ? kElementNanoseconds : kExpNanoseconds;
  ForRows(x.rows, element * static_cast<double>(x.cols),
          [&](int64_t t) { row_.activate(kind, x.f32_row(t), x.cols); });
}

void CpuBackend::GatherLogitRows(const Batch& batch, Tensor x, Tensor out) {
  for (size_t i = 0; i < batch.logit_rows.size(); ++i) {
    std::copy_n(x.f32_row(batch.logit_rows[i]), x.cols, out.f32_row(static_cast<int64_t>(i)));
  }
}

void CpuBackend::Sample(Tensor logits, std::span<const SampleRequest> requests) {
  samples_.resize(requests.size());
  pool_.Run(static_cast<int64_t>(requests.size()), [&](int64_t i, int) {
    const SampleRequest& request = requests[i];
    samples_[i] =
        SampleRow({logits.f32_row(request.row), static_cast<size_t>(logits.cols)}, request);
  });
}

void CpuBackend::FetchSamples(std::span<SampleResult> results) {
  assert(results.size() == samples_.size());
  std::move(samples_.begin(), samples_.end(), results.begin());
}

std::unique_ptr<Backend> MakeCpuBackend(int threads, RowRounding rows) {
  if (threads < 0 || threads > 1024) {
    throw DeviceError(DeviceErrorKind::kInvalidArgument,
                      "threads is " + std::to_string(threads) + ": give 0 (one a core) to 1024");
  }
  if (threads == 0) threads = static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
  return std::make_unique<CpuBackend>(threads, rows);
}

}  // namespace t2r
