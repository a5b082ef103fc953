// A backend: device memory and the ops a forward pass is made of.
//
// Every backend implements this one interface and runs the same tests. All calls come from one
// thread, the one that owns the model; a backend may use threads or a device of its own inside.
// Ops may run asynchronously but in call order; CopyToHost waits for what it needs.
//
// Preconditions (shapes that fit, dtypes that match) are the caller's and checked by assert only;
// what can fail at run time throws DeviceError. No op allocates.
//
// Bits: an op computes each row (MatMul) or each segment's head (attention) by a sequence of
// operations that depends on nothing else in the batch, so results are bit-identical for any batch
// and any split of a prompt, for a given build, ISA, dtype and thread count.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "engine/ops/batch.h"
#include "engine/ops/full_attention.h"
#include "engine/ops/linear_attention.h"
#include "engine/ops/matmul.h"
#include "engine/ops/tensor.h"

namespace t2r {

class Backend {
 public:
  Backend() = default;
  virtual ~Backend() = default;
  Backend(const Backend&) = delete;
  Backend& operator=(const Backend&) = delete;

  // One line for logs: device, instruction set, threads.
  virtual std::string Describe() const = 0;
  virtual DType activation_dtype() const = 0;

  // ---- Memory ----
  // Zero-filled, at least 64-byte aligned.
  virtual Buffer Allocate(size_t bytes) = 0;
  virtual void CopyToDevice(void* device, const void* host, size_t bytes) = 0;
  virtual void CopyToHost(void* host, const void* device, size_t bytes) = 0;
  virtual void CopyOnDevice(void* to, const void* from, size_t bytes) = 0;
  virtual void Zero(void* device, size_t bytes) = 0;

  // ---- Weights ----
  // Stacks the parts' output rows into one matrix (all have the same cols), converted to `dtype`
  // (float32 or bfloat16). Reads each source byte once; the sources may go afterwards.
  virtual std::unique_ptr<Matrix> LoadMatrix(std::span<const HostMatrix> parts, DType dtype) = 0;
  // A float32 vector or small tensor (norm weights, biases, feature maps) on the device.
  virtual Buffer LoadVector(std::span<const float> values) = 0;
  // A table whose rows Embed looks up, [rows, cols], kept in its own dtype. The CPU refers to the
  // host memory in place, which must outlive the table; a device copies it.
  virtual std::unique_ptr<Matrix> LoadTable(const HostMatrix& table) = 0;

  // ---- Ops ----
  // Called once a step before the other ops of that step.
  virtual void BeginStep(const Batch& batch) = 0;
  // out[t] = table[batch.tokens[t]] (+ positions[batch.positions[t]] where given). out [T, hidden].
  virtual void Embed(const Batch& batch, const Matrix& table, const Matrix* positions,
                     Tensor out) = 0;
  // out = x / sqrt(mean(x²) + eps) · weight, row by row, the mean in float32.
  virtual void RmsNorm(Tensor x, const float* weight, float eps, Tensor out) = 0;
  // out = (x − mean) / sqrt(var + eps) · weight + bias.
  virtual void LayerNorm(Tensor x, const float* weight, const float* bias, float eps,
                         Tensor out) = 0;
  // x [T, K], w [N, K], bias [N] or null, out [T, N] float32 accumulation. out must not overlap x.
  virtual void MatMul(Tensor x, const Matrix& w, const float* bias, MatMulMode mode,
                      Tensor out) = 0;
  // cos_sin[t] = [cos(p f_0) … cos(p f_{n-1}), sin(p f_0) … sin(p f_{n-1})] · factor for position p
  // of row t; angles in float64, results float32. inverse_frequencies is host memory. [T, 2n].
  virtual void RopeTable(const Batch& batch, std::span<const double> inverse_frequencies,
                         double factor, Tensor cos_sin) = 0;
  // Rotates `heads` heads of width d in place: pairs (i, i + n), n = d/2 (Llama's half-split form).
  virtual void Rope(Tensor cos_sin, int heads, int head_dim, Tensor x) = 0;
  virtual void LinearAttention(const Batch& batch, const LinearAttentionArgs& args) = 0;
  virtual void FullAttention(const Batch& batch, const FullAttentionArgs& args) = 0;
  // gate_up [T, 2F] holds gate then up; out [T, F] = silu(gate) · up.
  virtual void SwiGlu(Tensor gate_up, Tensor out) = 0;
  // In place, the tanh form: x/2 (1 + tanh(√(2/π) (x + 0.044715 x³))).
  virtual void GeluTanh(Tensor x) = 0;
  // out[i] = x[rows[i]]; rows is host memory, ascending.
  virtual void GatherRows(Tensor x, std::span<const int32_t> rows, Tensor out) = 0;

  // Runs fn(i) for i in [0, count), possibly in parallel, on host memory; returns when all are
  // done. For host-side work of a step (sampling). fn must not throw.
  virtual void ParallelFor(int64_t count, const std::function<void(int64_t)>& fn) = 0;
};

struct BackendOptions {
  std::string name = "cpu";  // "cpu"
  int threads = 0;           // CPU: computing threads; 0 = one a core
};

// Throws DeviceError naming the backend when it is unknown or cannot start.
std::unique_ptr<Backend> MakeBackend(const BackendOptions& options);

}  // namespace t2r
