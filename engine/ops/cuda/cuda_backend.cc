// The CUDA backend's memory, weights and steps.
#include "engine/ops/cuda/cuda_backend.h"

#include <algorithm>
#include <cassert>

namespace t2r::cuda {

OwnedStream::OwnedStream() {
  Check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
}

OwnedStream::~OwnedStream() { static_cast<void>(cudaStreamDestroy(stream_)); }

CudaBackend::CudaBackend(bool batch_invariant)
    : device_(OpenDevice()),
      batch_invariant_(batch_invariant),
      gemm_(stream_.get(), batch_invariant),
      graphs_(stream_.get()),
      uploader_(stream_.get()),
      sampler_(stream_.get()) {}

// Members free what queued work may still read: it ends first.
CudaBackend::~CudaBackend() { static_cast<void>(cudaStreamSynchronize(stream_.get())); }

std::string CudaBackend::Describe() const {
  return "cuda, " + device_.name + ", sm_" + std::to_string(device_.major) +
         std::to_string(device_.minor) + ", " + std::to_string(device_.multiprocessors) +
         " multiprocessors";
}

std::string CudaBackend::Numerics() const {
  return "cuda sm_" + std::to_string(device_.major) + std::to_string(device_.minor) +
         (batch_invariant_ ? "" : " batch-variant");
}

MemoryInfo CudaBackend::Memory() const {
  size_t free = 0;
  size_t total = 0;
  Check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  return {static_cast<int64_t>(total), static_cast<int64_t>(free)};
}

Buffer CudaBackend::Own(void* data, size_t bytes) {
  return {data, bytes, [this](void* memory) {
            graphs_.Clear();
            FreeDevice(memory);
          }};
}

Buffer CudaBackend::Allocate(size_t bytes) {
  if (bytes == 0) return {};
  Buffer buffer = Own(AllocateDevice(bytes), bytes);
  Zero(buffer.data(), bytes);
  return buffer;
}

void CudaBackend::CopyToDevice(void* device, const void* host, size_t bytes) {
  if (bytes == 0) return;
  Check(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, stream_.get()),
        "copy to the device");
  Check(cudaStreamSynchronize(stream_.get()), "copy to the device");
}

void CudaBackend::CopyToHost(void* host, const void* device, size_t bytes) {
  if (bytes == 0) return;
  Check(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, stream_.get()),
        "copy from the device");
  Check(cudaStreamSynchronize(stream_.get()), "copy from the device");
}

void CudaBackend::CopyOnDevice(void* to, const void* from, size_t bytes) {
  if (bytes == 0) return;
  Check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream_.get()),
        "copy on the device");
}

void CudaBackend::Zero(void* device, size_t bytes) {
  if (bytes == 0) return;
  Check(cudaMemsetAsync(device, 0, bytes, stream_.get()), "clearing of memory");
}

MatrixLoader& CudaBackend::Loader() {
  if (loader_ == nullptr) loader_ = std::make_unique<MatrixLoader>(stream_.get());
  return *loader_;
}

std::unique_ptr<Matrix> CudaBackend::LoadMatrix(std::span<const HostMatrix> parts, DType dtype) {
  if (dtype == DType::kInt4) {
    throw DeviceError(
        DeviceErrorKind::kInvalidArgument,
        "int4 weights run on the CPU alone: choose the backend cpu, or int8, fp8, bfloat16 "
        "or float32 weights");
  }
  if (dtype == DType::kFloat8 && 10 * device_.major + device_.minor < kFloat8Architecture) {
    throw DeviceError(DeviceErrorKind::kInvalidArgument,
                      "fp8 weights need a GPU of sm_" + std::to_string(kFloat8Architecture) +
                          " or newer, this is an sm_" + std::to_string(device_.major) +
                          std::to_string(device_.minor) + ": choose int8 or bfloat16 weights");
  }
  if (dtype == DType::kInt8 && parts[0].cols > kMaxInt8Terms) {
    throw DeviceError(DeviceErrorKind::kInvalidArgument,
                      "a matrix of " + std::to_string(parts[0].cols) +
                          " input features in int8; sums of 32 bits hold " +
                          std::to_string(kMaxInt8Terms) + ": choose bfloat16 weights");
  }
  return Loader().Load(parts, dtype);
}

Buffer CudaBackend::LoadVector(std::span<const float> values) {
  if (values.empty()) return {};
  Buffer buffer = Own(AllocateDevice(values.size_bytes()), values.size_bytes());
  CopyToDevice(buffer.data(), values.data(), values.size_bytes());
  return buffer;
}

std::unique_ptr<Matrix> CudaBackend::LoadTable(const HostMatrix& table) {
  return Loader().LoadTable(table);
}

void CudaBackend::PrepareSteps(const StepLimits& limits) {
  loader_ = nullptr;
  limits_.max_rows = std::max(limits_.max_rows, limits.max_rows);
  limits_.max_logit_rows = std::max(limits_.max_logit_rows, limits.max_logit_rows);
  limits_.max_pages = std::max(limits_.max_pages, limits.max_pages);
  limits_.max_adjustments = std::max(limits_.max_adjustments, limits.max_adjustments);
  if (uploader_.Reserve(UploadBytes(limits_))) graphs_.Clear();
  // The vocabulary is known when the first logits come.
  sampler_.Reserve({limits_.max_logit_rows, limits_.max_adjustments});
}

void* CudaBackend::Reserve(size_t bytes) {
  if (bytes > scratch_.bytes()) {
    Check(cudaStreamSynchronize(stream_.get()), "cudaStreamSynchronize");
    graphs_.Clear();
    scratch_ = {};
    scratch_ = DeviceArray<std::byte>(bytes);
  }
  return scratch_.data();
}

StepShape CudaBackend::RunStep(const void* model, const Batch& batch,
                               const std::function<void(const StepShape&)>& ops) {
  StepShape shape = {batch.rows(), static_cast<int64_t>(batch.logit_rows.size())};
  const bool recorded = model != nullptr && IsDecode(batch);
  if (recorded) {
    shape.rows = PaddedRows(shape.rows, limits_.max_rows);
    if (shape.logit_rows > 0)
      shape.logit_rows = PaddedRows(shape.logit_rows, limits_.max_logit_rows);
  }
  // Within the limits there is room already.
  if (uploader_.Reserve(BatchUploader::BytesOf(batch, shape))) graphs_.Clear();
  batch_ = uploader_.Upload(batch, shape);
  if (recorded) {
    graphs_.Run(model, shape, [&] { ops(shape); });
  } else {
    ops(shape);
  }
  return shape;
}

}  // namespace t2r::cuda
