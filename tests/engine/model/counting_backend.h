// A backend that passes every call on and counts, from the ops' arguments, what each must do.
#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/ops/backend.h"

namespace t2r::testing {

struct OpCounts {
  int64_t flops = 0;         // of matrix products and attention: 2 a multiply-add
  int64_t weight_bytes = 0;  // matrices, biases, norm weights, feature maps
  int64_t state_bytes = 0;   // recurrent states, keys and values; read and written
  int64_t elements = 0;      // rows · columns of all other ops
  int64_t calls = 0;

  bool operator==(const OpCounts&) const = default;
};

class CountingBackend : public Backend {
 public:
  explicit CountingBackend(std::unique_ptr<Backend> inner) : inner_(std::move(inner)) {}

  OpCounts counts;
  int64_t allocated = 0;  // by Allocate, each rounded up to 256 bytes

  std::string Describe() const override { return inner_->Describe(); }
  std::string Numerics() const override { return inner_->Numerics(); }
  DType activation_dtype(DType weights) const override { return inner_->activation_dtype(weights); }
  bool asynchronous() const override { return inner_->asynchronous(); }
  int64_t prompt_alignment() const override { return inner_->prompt_alignment(); }
  MemoryInfo Memory() const override { return inner_->Memory(); }
  Buffer Allocate(size_t bytes) override {
    allocated += static_cast<int64_t>((bytes + 255) / 256 * 256);
    return inner_->Allocate(bytes);
  }
  void CopyToDevice(void* device, const void* host, size_t bytes) override {
    inner_->CopyToDevice(device, host, bytes);
  }
  void CopyToHost(void* host, const void* device, size_t bytes) override {
    inner_->CopyToHost(host, device, bytes);
  }
  void CopyOnDevice(void* to, const void* from, size_t bytes) override {
    inner_->CopyOnDevice(to, from, bytes);
  }
  void Zero(void* device, size_t bytes) override { inner_->Zero(device, bytes); }
  std::unique_ptr<Matrix> LoadMatrix(std::span<const HostMatrix> parts, DType dtype) override {
    return inner_->LoadMatrix(parts, dtype);
  }
  Buffer LoadVector(std::span<const float> values) override { return inner_->LoadVector(values); }
  std::unique_ptr<Matrix> LoadTable(const HostMatrix& table) override {
    return inner_->LoadTable(table);
  }

  void PrepareSteps(const StepLimits& limits) override { inner_->PrepareSteps(limits); }
  StepShape RunStep(const void* /*model*/, const Batch& batch,
                    const std::function<void(const StepShape&)>& ops) override {
    ++counts.calls;
    return inner_->RunStep(nullptr, batch, ops);  // every step's ops are to be seen
  }
  void Embed(const Batch& batch, const Matrix& table, const Matrix* positions, float scale,
             Tensor out) override {
    Element(out);
    inner_->Embed(batch, table, positions, scale, out);
  }
  void RmsNorm(Tensor x, const float* weight, float eps, Tensor out) override {
    Element(x);
    counts.weight_bytes += x.cols * 4;
    inner_->RmsNorm(x, weight, eps, out);
  }
  void RmsNormHeads(Tensor x, int heads, const float* weight, float eps) override {
    Element(x);
    counts.weight_bytes += x.cols / heads * 4;
    inner_->RmsNormHeads(x, heads, weight, eps);
  }
  void LayerNorm(Tensor x, const float* weight, const float* bias, float eps, Tensor out) override {
    Element(x);
    counts.weight_bytes += x.cols * 8;
    inner_->LayerNorm(x, weight, bias, eps, out);
  }
  void MatMul(Tensor x, const Matrix& w, const float* bias, MatMulMode mode, Tensor out) override {
    ++counts.calls;
    counts.flops += 2 * x.rows * w.rows() * w.cols();
    counts.weight_bytes += w.rows() * w.cols() * static_cast<int64_t>(SizeOf(w.dtype()));
    if (bias != nullptr) counts.weight_bytes += w.rows() * 4;
    inner_->MatMul(x, w, bias, mode, out);
  }
  void RopeTable(const Batch& batch, std::span<const double> inverse_frequencies, double factor,
                 Tensor cos_sin) override {
    Element(cos_sin);
    inner_->RopeTable(batch, inverse_frequencies, factor, cos_sin);
  }
  void Rope(Tensor cos_sin, int heads, int head_dim, Tensor x) override {
    Element(x);
    inner_->Rope(cos_sin, heads, head_dim, x);
  }
  void LinearAttention(const Batch& batch, const LinearAttentionArgs& args) override {
    ++counts.calls;
    const int64_t k = args.map.features;
    const int64_t d = args.head_dim;
    const int64_t rows = batch.rows();
    const bool reads = args.mode != LinearAttentionMode::kAccumulate;
    const bool writes = args.mode != LinearAttentionMode::kRead;
    if (!args.map.folded) {
      const int64_t projected = args.map.projected_features();
      const int64_t mapped = (reads ? args.heads : 0) + (writes ? args.groups : 0);
      counts.flops += rows * mapped * 2 * projected * d;
      if (args.map.weight != nullptr) counts.weight_bytes += args.groups * projected * d * 4;
      if (args.map.bias != nullptr) counts.weight_bytes += args.groups * projected * 4;
    }
    if (writes) counts.flops += rows * args.groups * (2 * k * d + k);
    if (reads) counts.flops += rows * args.heads * (2 * k * d + 2 * k);
    // A segment's state is read, and written where it changes, once, however many rows it has.
    counts.state_bytes += static_cast<int64_t>(batch.segments.size()) * (writes ? 2 : 1) *
                          args.groups * k * (d + 1) * 4;
    inner_->LinearAttention(batch, args);
  }
  void WindowedAttention(const Batch& batch, const WindowedAttentionArgs& args) override {
    ++counts.calls;
    const int64_t k = args.map.features;
    const int64_t d = args.head_dim;
    const int64_t projected = args.map.projected_features();
    const int64_t rows = batch.rows();
    for (const int64_t position : batch.positions) {
      if (args.window == 0) break;
      const int64_t sinks = std::min<int64_t>(args.sinks, position + 1);
      const int64_t near = sinks + position + 1 - std::max(args.folded_before(position), sinks);
      counts.flops += 4 * args.heads * near * d;
      counts.state_bytes += args.groups * (near + 1) * 2 * d * 4;
    }
    if (args.map.weight != nullptr) counts.weight_bytes += args.groups * projected * d * 4;
    if (args.map.bias != nullptr) counts.weight_bytes += args.groups * projected * 4;
    if (args.map.query_weight != nullptr) {
      counts.weight_bytes += (args.groups * d + args.heads) * k * 4;
    }
    counts.flops += rows * (args.heads + args.groups) * 2 * projected * d;
    counts.flops += rows * args.groups * (2 * k * d + k);
    counts.flops += rows * args.heads * (2 * k * d + 2 * k);
    const int64_t state =
        static_cast<int64_t>(batch.segments.size()) * args.groups * k * (d + 1) * 4;
    counts.state_bytes += state + state / args.fold;
    inner_->WindowedAttention(batch, args);
  }
  void FullAttention(const Batch& batch, const FullAttentionArgs& args) override {
    ++counts.calls;
    const int64_t d = args.head_dim;
    for (const Segment& segment : batch.segments) {
      for (int32_t row = 0; row < segment.rows; ++row) {
        const bool cross = args.mode == FullAttentionMode::kCross;
        const int64_t keys = cross ? segment.source_rows : segment.position + row + 1;
        const int64_t moved =
            (args.mode == FullAttentionMode::kAppend ? 0 : keys) + (cross ? 0 : 1);
        if (args.mode != FullAttentionMode::kAppend) counts.flops += 4 * args.heads * keys * d;
        counts.state_bytes += 2 * args.groups * moved * d * 4;
      }
    }
    inner_->FullAttention(batch, args);
  }
  void SwiGlu(Tensor gate_up, Tensor out) override {
    Element(gate_up);
    inner_->SwiGlu(gate_up, out);
  }
  void EncoderAttention(const Batch& batch, const EncoderAttentionArgs& args) override {
    ++counts.calls;
    for (const Segment& segment : batch.segments) {
      counts.flops += int64_t{4} * args.heads * segment.rows * segment.rows * args.head_dim;
    }
    inner_->EncoderAttention(batch, args);
  }
  void Activate(ActivationKind kind, Tensor x) override {
    Element(x);
    inner_->Activate(kind, x);
  }
  void GatherLogitRows(const Batch& batch, Tensor x, Tensor out) override {
    Element(out);
    inner_->GatherLogitRows(batch, x, out);
  }
  void Sample(Tensor logits, std::span<const SampleRequest> requests) override {
    inner_->Sample(logits, requests);
  }
  void FetchSamples(std::span<SampleResult> results) override { inner_->FetchSamples(results); }

 private:
  void Element(const Tensor& tensor) {
    ++counts.calls;
    counts.elements += tensor.rows * tensor.cols;
  }

  std::unique_ptr<Backend> inner_;
};

}  // namespace t2r::testing
