// The CUDA backend: one device, one stream. See docs/cuda.md.
//
// Activations, keys and values are of the weights' dtype (bfloat16 beside int8), the residual
// stream, states and logits float32. Ops are queued and return; CopyToHost, CopyToDevice and
// FetchSamples wait. After a failed launch or a lost device every call that reaches the device
// throws DeviceError at once.
#pragma once

#include <cuda_runtime.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "engine/ops/backend.h"
#include "engine/ops/cuda/batch_upload.h"
#include "engine/ops/cuda/device.h"
#include "engine/ops/cuda/device_batch.h"
#include "engine/ops/cuda/device_matrix.h"
#include "engine/ops/cuda/device_memory.h"
#include "engine/ops/cuda/gemm.h"
#include "engine/ops/cuda/sampling.h"
#include "engine/ops/cuda/step_graphs.h"

namespace t2r::cuda {

// A stream of its own, that does not wait for the default one.
class OwnedStream {
 public:
  OwnedStream();
  ~OwnedStream();
  OwnedStream(const OwnedStream&) = delete;
  OwnedStream& operator=(const OwnedStream&) = delete;
  cudaStream_t get() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

class CudaBackend : public Backend, private Scratch {
 public:
  // Opens the first visible device. Throws DeviceError.
  explicit CudaBackend(bool batch_invariant);
  ~CudaBackend() override;

  std::string Describe() const override;
  std::string Numerics() const override;
  DType activation_dtype(DType weights) const override {
    return IsQuantized(weights) ? DType::kBFloat16 : weights;
  }
  int64_t prompt_alignment() const override { return kTileRows; }
  bool asynchronous() const override { return true; }

  MemoryInfo Memory() const override;
  Buffer Allocate(size_t bytes) override;
  void CopyToDevice(void* device, const void* host, size_t bytes) override;
  void CopyToHost(void* host, const void* device, size_t bytes) override;
  void CopyOnDevice(void* to, const void* from, size_t bytes) override;
  void Zero(void* device, size_t bytes) override;

  std::unique_ptr<Matrix> LoadMatrix(std::span<const HostMatrix> parts, DType dtype) override;
  Buffer LoadVector(std::span<const float> values) override;
  std::unique_ptr<Matrix> LoadTable(const HostMatrix& table) override;

  void PrepareSteps(const StepLimits& limits) override;
  StepShape RunStep(const void* model, const Batch& batch,
                    const std::function<void(const StepShape&)>& ops) override;

  void Embed(const Batch& batch, const Matrix& table, const Matrix* positions, float scale,
             Tensor out) override;
  void RmsNorm(Tensor x, const float* weight, float eps, Tensor out) override;
  void RmsNormHeads(Tensor x, int heads, const float* weight, float eps) override;
  void LayerNorm(Tensor x, const float* weight, const float* bias, float eps, Tensor out) override;
  void MatMul(Tensor x, const Matrix& w, const float* bias, MatMulMode mode, Tensor out) override;
  void RopeTable(const Batch& batch, std::span<const double> inverse_frequencies, double factor,
                 Tensor cos_sin) override;
  void Rope(Tensor cos_sin, int heads, int head_dim, Tensor x) override;
  void LinearAttention(const Batch& batch, const LinearAttentionArgs& args) override;
  void WindowedAttention(const Batch& batch, const WindowedAttentionArgs& args) override;
  void FullAttention(const Batch& batch, const FullAttentionArgs& args) override;
  void EncoderAttention(const Batch& batch, const EncoderAttentionArgs& args) override;
  void SwiGlu(Tensor gate_up, Tensor out) override;
  void Activate(ActivationKind kind, Tensor x) override;
  void GatherLogitRows(const Batch& batch, Tensor x, Tensor out) override;

  void Sample(Tensor logits, std::span<const SampleRequest> requests) override;
  void FetchSamples(std::span<SampleResult> results) override;

  // Kernels of the step replayed last: for benchmarks.
  size_t recorded_kernels() const { return graphs_.kernels(); }

 private:
  void* Reserve(size_t bytes) override;  // Scratch
  OpContext Context() { return {batch_, stream_.get(), *this}; }
  MatrixLoader& Loader();
  // Of `rows` of codes, as long as w's, with w's own: sums [rows, w.stored_rows()].
  void MultiplyCodes(const void* x, int64_t rows, const DeviceMatrix& w, void* sums);
  // MatMul with int8 weights (int8_kernels.h), and with fp8 weights (fp8_kernels.h).
  void MatMulInt8(Tensor x, const DeviceMatrix& w, const float* bias, bool accumulate, Tensor out);
  void MatMulFloat8(Tensor x, const DeviceMatrix& w, const float* bias, bool accumulate,
                    Tensor out);
  // Device memory that others own through Buffers. When one goes, so do all recorded steps, which
  // may read it.
  Buffer Own(void* data, size_t bytes);

  DeviceInfo device_;
  const bool batch_invariant_;
  OwnedStream stream_;
  Gemm gemm_;
  StepGraphs graphs_;
  BatchUploader uploader_;
  Sampler sampler_;
  DeviceArray<std::byte> scratch_;
  std::unique_ptr<MatrixLoader> loader_;  // only while weights are loaded
  // Frequencies of RopeTable already on the device.
  std::map<std::vector<double>, DeviceArray<double>> frequencies_;
  StepLimits limits_;
  DeviceBatch batch_;  // of the current step
};

}  // namespace t2r::cuda
