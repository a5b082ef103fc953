// A backend: device memory and the ops a forward pass is made of.
//
// Every backend implements this one interface and runs the same tests. All calls come from one
// thread, the one that owns the model; a backend may use threads or a device of its own inside.
// Ops may run asynchronously but in call order; CopyToHost and FetchSamples wait for what they
// need.
//
// Preconditions (shapes that fit, dtypes that match) are the caller's and checked by assert only;
// what can fail at run time throws DeviceError. No op of a step within the limits told to
// PrepareSteps allocates once the model has run a step without rows; choosing tokens may take host
// memory.
//
// Bits: an op computes each row (MatMul) or each segment's head (attention) by a sequence of
// operations that depends on nothing else in the batch, so results are bit-identical for any batch
// and any split of a prompt at multiples of prompt_alignment(), for a given build, device or ISA,
// dtype and thread count.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "engine/ops/activation.h"
#include "engine/ops/batch.h"
#include "engine/ops/full_attention.h"
#include "engine/ops/linear_attention.h"
#include "engine/ops/matmul.h"
#include "engine/ops/tensor.h"
#include "engine/ops/windowed_attention.h"
#include "engine/sampling/sample.h"

namespace t2r {

// Rows of a step's tensors. A backend may round a batch up to a shape for which it has a recorded
// step: rows from the batch's own on are padding, read and written by ops that work row by row, and
// leave every state untouched.
struct StepShape {
  int64_t rows = 0;        // ≥ Batch::rows(), ≤ StepLimits::max_rows
  int64_t logit_rows = 0;  // ≥ Batch::logit_rows.size(), ≤ StepLimits::max_logit_rows
};

// Bounds of every step of a model, told once before its first.
struct StepLimits {
  int64_t max_rows = 0;
  int64_t max_logit_rows = 0;
  int64_t max_pages = 0;        // Batch::pages and Batch::source_pages, each
  int64_t max_adjustments = 0;  // TokenAdjustments of one step
  int64_t max_segments = 0;     // sessions that share a step; 0: as many as rows
};

struct MemoryInfo {
  int64_t total_bytes = 0;
  int64_t free_bytes = 0;  // for Allocate, now
  bool shared = false;     // the machine's own memory, in which other programs live too
};

class Backend {
 public:
  Backend() = default;
  virtual ~Backend() = default;
  Backend(const Backend&) = delete;
  Backend& operator=(const Backend&) = delete;

  // One line for logs: device, instruction set, threads.
  virtual std::string Describe() const = 0;
  // What decides the bits of results beside the model and its dtypes: backend, instruction set or
  // compute capability.
  virtual std::string Numerics() const = 0;
  // What activations are kept in, for matrices of dtype `weights`. The residual stream is float32
  // on every backend.
  virtual DType activation_dtype(DType weights) const = 0;
  // Whether pages may hold keys and values of dtype `kv` beside activations of dtype `activations`.
  virtual bool keeps_kv_as(DType kv, DType activations) const { return kv == activations; }
  // Whether windows may hold keys and values of this dtype.
  virtual bool keeps_windows_as(DType dtype) const {
    return dtype == DType::kFloat32 || dtype == DType::kBFloat16;
  }
  // Whether ops return before they are done, so that the caller may do something else meanwhile.
  virtual bool asynchronous() const = 0;
  // Prompts split elsewhere than at multiples of this give results that differ by rounding.
  virtual int64_t prompt_alignment() const = 0;

  // ---- Memory ----
  virtual MemoryInfo Memory() const = 0;
  // Zero-filled, at least 64-byte aligned.
  virtual Buffer Allocate(size_t bytes) = 0;
  virtual void CopyToDevice(void* device, const void* host, size_t bytes) = 0;
  virtual void CopyToHost(void* host, const void* device, size_t bytes) = 0;
  virtual void CopyOnDevice(void* to, const void* from, size_t bytes) = 0;
  virtual void Zero(void* device, size_t bytes) = 0;

  // ---- Weights ----
  // Stacks the parts' output rows into one matrix (all have the same cols), converted to `dtype`
  // (float32 or bfloat16; int8 or int4 as engine/ops/quantize.h says, where the backend has them,
  // else DeviceError). Reads each source byte once; the sources may go afterwards.
  virtual std::unique_ptr<Matrix> LoadMatrix(std::span<const HostMatrix> parts, DType dtype) = 0;
  // Whether Embed can look up rows of what LoadMatrix returns, as they are kept; of quantised
  // matrices it always can.
  virtual bool looks_up_matrices() const { return false; }
  // A float32 vector or small tensor (norm weights, biases, feature maps) on the device.
  virtual Buffer LoadVector(std::span<const float> values) = 0;
  // A table whose rows Embed looks up, [rows, cols], kept in its own dtype: a copy.
  virtual std::unique_ptr<Matrix> LoadTable(const HostMatrix& table) = 0;

  // ---- Steps ----
  // Called once before the first RunStep, and again when the limits grow: reserves what depends on
  // them. What depends on the model too is reserved by its first step, which may be one without
  // rows.
  virtual void PrepareSteps(const StepLimits& limits) = 0;
  // Uploads the batch and runs `ops`, which calls the ops below on tensors of shape.rows rows.
  // `model` names whose ops they are: a backend may record them and, for a later batch of the same
  // model and shape, replay the record instead of calling `ops`. So ops must depend on nothing but
  // the shape and what it reads on the device. Null: neither padded nor recorded. Returns the
  // shape.
  virtual StepShape RunStep(const void* model, const Batch& batch,
                            const std::function<void(const StepShape&)>& ops) = 0;

  // ---- Ops, within RunStep ----
  // Tensors with T rows have the step's rows. Where x and out are both given they may be the same
  // tensor, except for MatMul.
  // out[t] = scale · table[batch.tokens[t]] (+ positions[batch.positions[t]] where given).
  // out [T, hidden].
  virtual void Embed(const Batch& batch, const Matrix& table, const Matrix* positions, float scale,
                     Tensor out) = 0;
  // out = x / sqrt(mean(x²) + eps) · weight, row by row, the mean in float32.
  virtual void RmsNorm(Tensor x, const float* weight, float eps, Tensor out) = 0;
  // RmsNorm of each of `heads` heads of x by itself, in place; weight [x.cols / heads].
  virtual void RmsNormHeads(Tensor x, int heads, const float* weight, float eps) = 0;
  // out = (x − mean) / sqrt(var + eps) · weight + bias.
  virtual void LayerNorm(Tensor x, const float* weight, const float* bias, float eps,
                         Tensor out) = 0;
  // x [T, K], w [N, K], bias [N] or null, out [T, N] float32 accumulation. out must not overlap x.
  virtual void MatMul(Tensor x, const Matrix& w, const float* bias, MatMulMode mode,
                      Tensor out) = 0;
  // cos_sin[t] = [cos(p f_0) … cos(p f_{n-1}), sin(p f_0) … sin(p f_{n-1})] · factor for position p
  // of row t; angles in float64, results float32. A pair whose frequency is 0 does not turn and has
  // no factor: its cosine is 1. inverse_frequencies is host memory. [T, 2n].
  virtual void RopeTable(const Batch& batch, std::span<const double> inverse_frequencies,
                         double factor, Tensor cos_sin) = 0;
  // Rotates `heads` heads of width head_dim in place: of each the first 2n = cos_sin.cols ≤
  // head_dim values, in pairs (i, i + n) (the half-split form of HF's Llama and GPT-NeoX).
  virtual void Rope(Tensor cos_sin, int heads, int head_dim, Tensor x) = 0;
  virtual void LinearAttention(const Batch& batch, const LinearAttentionArgs& args) = 0;
  virtual void WindowedAttention(const Batch& batch, const WindowedAttentionArgs& args) = 0;
  virtual void FullAttention(const Batch& batch, const FullAttentionArgs& args) = 0;
  virtual void EncoderAttention(const Batch& batch, const EncoderAttentionArgs& args) = 0;
  // gate_up [T, 2F] holds gate then up; out [T, F] = silu(gate) · up.
  virtual void SwiGlu(Tensor gate_up, Tensor out) = 0;
  // In place.
  virtual void Activate(ActivationKind kind, Tensor x) = 0;
  // out[i] = x[batch.logit_rows[i]]. out [shape.logit_rows, hidden].
  virtual void GatherLogitRows(const Batch& batch, Tensor x, Tensor out) = 0;

  // ---- Choosing tokens, after RunStep ----
  // Samples and scores rows of logits [logit_rows, vocabulary], float32, which it leaves as they
  // are. `requests` and what they point at must stay until FetchSamples.
  virtual void Sample(Tensor logits, std::span<const SampleRequest> requests) = 0;
  // Waits for the last Sample; results[i] belongs to its requests[i].
  virtual void FetchSamples(std::span<SampleResult> results) = 0;
};

// What products round their rows to beyond what their weights ask for.
enum class RowRounding : uint8_t {
  kNone,
  // To bfloat16 beside bfloat16 weights. CUDA's always do; the CPU's then use AVX512-BF16:
  // DeviceError where the processor lacks it.
  kBFloat16,
  // To 8 bits beside quantised weights, in place of 16. The CPU's alone: DeviceError of CUDA.
  kInt8,
};

struct BackendOptions {
  std::string name = "auto";    // auto (cuda where it can start, else cpu), cpu, cuda
  int threads = 0;              // CPU: computing threads; 0 = one a core
  std::string* note = nullptr;  // set to a line: what auto took and why; else to ""
  // A row's results have the same bits whatever the rows beside it. The CPU's always do; without
  // it CUDA's matrix products may be faster for very few or very many rows.
  bool batch_invariant = true;
  RowRounding rows = RowRounding::kNone;
};

// Throws DeviceError naming the backend when it is unknown or cannot start.
std::unique_ptr<Backend> MakeBackend(const BackendOptions& options);

}  // namespace t2r
