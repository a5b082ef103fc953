// The CPU backend: device memory is host memory, activations are float32.
//
// The calling thread computes beside threads − 1 workers; ops are done when they return. Vector
// kernels are chosen for the processor when the backend starts. See docs/cpu.md.
#pragma once

#include <algorithm>
#include <memory>
#include <vector>

#include "engine/ops/backend.h"
#include "engine/ops/cpu/bf16_gemm/kernels.h"
#include "engine/ops/cpu/int_gemm/kernels.h"
#include "engine/ops/cpu/kernels.h"
#include "engine/ops/cpu/quantized_matrix.h"
#include "engine/ops/cpu/row_cut.h"
#include "engine/ops/cpu/thread_pool.h"

namespace t2r {

class CpuBackend : public Backend {
 public:
  // threads ≥ 1, the calling one included. Throws DeviceError when a thread cannot start, or the
  // processor lacks what rows of bfloat16 need.
  CpuBackend(int threads, RowRounding rows);

  std::string Describe() const override;
  std::string Numerics() const override;
  DType activation_dtype(DType /*weights*/) const override { return DType::kFloat32; }
  bool keeps_kv_as(DType kv, DType /*activations*/) const override {
    return kv == DType::kFloat32 || kv == DType::kBFloat16;
  }
  bool keeps_windows_as(DType dtype) const override {
    return dtype == DType::kInt8 || Backend::keeps_windows_as(dtype);
  }
  bool asynchronous() const override { return false; }
  int64_t prompt_alignment() const override { return 1; }

  MemoryInfo Memory() const override;
  Buffer Allocate(size_t bytes) override;
  void CopyToDevice(void* device, const void* host, size_t bytes) override;
  void CopyToHost(void* host, const void* device, size_t bytes) override;
  void CopyOnDevice(void* to, const void* from, size_t bytes) override;
  void Zero(void* device, size_t bytes) override;

  std::unique_ptr<Matrix> LoadMatrix(std::span<const HostMatrix> parts, DType dtype) override;
  bool looks_up_matrices() const override { return true; }
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

 private:
  // Nanoseconds of work a thread below which reaching the others does not pay, which may have a
  // third-level cache of their own.
  static constexpr double kSharedNanoseconds = 500;

  // fn(task, worker) for every task, on all threads if `cost` nanoseconds in all are worth it.
  template <typename Fn>
  void ForTasks(int64_t tasks, double cost, const Fn& fn) {
    if (cost >= kSharedNanoseconds * pool_.threads()) return pool_.Run(tasks, fn);
    for (int64_t task = 0; task < tasks; ++task) fn(task, 0);
  }
  // fn(row) for every row, in chunks worth a thread's while; row_cost in nanoseconds, roughly.
  template <typename Fn>
  void ForRows(int64_t rows, double row_cost, const Fn& fn) {
    if (rows == 0) return;
    const double cost = row_cost * static_cast<double>(rows);
    const int64_t chunks =
        RowChunks(rows, static_cast<int64_t>(cost / kSharedNanoseconds), pool_.threads());
    ForTasks(chunks, cost, [&](int64_t chunk, int) {
      const Rows of_chunk = RowChunk(rows, chunk, chunks);
      for (int64_t r = of_chunk.begin; r < of_chunk.end; ++r) fn(r);
    });
  }
  // fn(pair, next, worker) for every pair of rows and a group, `cost` nanoseconds in all. gather:
  // pairs that follow each other make a task, of few one task a thread. next: the pair that the
  // same thread likely takes next; −1: none.
  template <typename Fn>
  void ForPairs(int64_t pairs, bool gather, double cost, const Fn& fn);
  // fn(segment, group, next, worker) for every segment of the batch and group, row_cost nanoseconds
  // a row. next: segment · groups + group of what the same thread likely takes next; −1: nothing.
  template <typename Fn>
  void ForSegmentGroups(const Batch& batch, int groups, double row_cost, const Fn& fn);
  // MatMul by the weights' type and layout. Where rows need another form first, that of all rows,
  // then the products.
  void FloatMatMul(Tensor x, const PackedMatrix& w, const float* bias, MatMulMode mode, Tensor out);
  void PairMatMul(Tensor x, const PackedMatrix& w, const float* bias, MatMulMode mode, Tensor out);
  void IntMatMul(Tensor x, const QuantizedMatrix& w, const float* bias, MatMulMode mode,
                 Tensor out);
  // run(task, worker) for the parts of the product whose whole is `all`: blocks of the cut's rows,
  // and at most most_panels panels each; cost as of ForTasks.
  template <typename Task, typename Run>
  void RunProduct(const Task& all, const RowCut& cut, int64_t panel_count,
                  const PanelsAtOnce& at_once, int64_t most_panels, double cost, const Run& run);
  // The same of few rows, which memory bounds. A thread's share of the panels is cut into at_once
  // runs of neighbours, which it reads side by side: long runs, far apart, come from memory the
  // fastest.
  template <typename Task, typename Run>
  void RunFewRows(const Task& all, int64_t rows, int64_t panel_count, int at_once, double cost,
                  const Run& run);
  // At least so many bytes for a step's rows in another form; room for the steps' limits at once.
  void* RowRoom(int64_t rows, int64_t row_bytes);
  // The new rows' keys and values into the segments' pages, but for those that attending does.
  void AppendToPages(const Batch& batch, const FullAttentionArgs& args);
  // The rows' outputs from what is in the pages.
  void AttendToPages(const Batch& batch, const FullAttentionArgs& args);
  // At least `floats` of scratch a worker; grown at an op's first use, then kept.
  void ReserveScratch(int64_t floats);
  float* Scratch(int worker) { return scratch_[worker].f32(); }

  ThreadPool pool_;
  const GemmKernels& gemm_;
  const IntGemmKernels& int_gemm_;
  const Bf16GemmKernels* const bf16_gemm_;  // null: rows meet bfloat16 weights in float32
  const int int_planes_;                    // bytes of an activation that meets integers: 1 or 2
  const QuantizeRowFn quantize_row_;
  const RowKernels& row_;
  const LinearAttentionKernels& linear_attention_;
  const WindowedAttentionKernels& windowed_attention_;
  const FullAttentionKernels& full_attention_;
  std::vector<Buffer> scratch_;  // one a worker
  // A step's rows as integers or bfloat16: grown at an op's first use for the steps' limits.
  int64_t max_rows_ = 0;
  Buffer narrow_rows_;
  // Of this step's batch: for each segment, the row blocks of full attention before it; and in all.
  std::vector<int64_t> first_block_;
  int64_t max_encoder_pages_ = 0;
  // EncoderAttention's keys and values, in pages: as many as a batch within the limits can have,
  // taken at first use.
  Buffer encoder_pages_;
  Batch encoder_batch_;
  std::vector<SampleResult> samples_;  // of the last Sample
};

// As in BackendOptions. Throws DeviceError when threads is negative or above 1024, or the processor
// lacks what rows of bfloat16 need.
std::unique_ptr<Backend> MakeCpuBackend(int threads, RowRounding rows);

}  // namespace t2r
