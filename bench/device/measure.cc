#include "bench/device/measure.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <vector>

#include "bench/cost.h"

namespace t2r::bench {
namespace {

using Clock = std::chrono::steady_clock;

constexpr StepTypes kStepTypes = {.weights = DType::kBFloat16, .kv = DType::kBFloat16};

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Waits until all that was queued is done.
void Drain(cuda::CudaBackend& backend, const Buffer& buffer) {
  float value = 0;
  backend.CopyToHost(&value, buffer.data(), sizeof(value));
}

// Seconds of one call, the best of a few rounds of `calls`.
double Best(cuda::CudaBackend& backend, const Buffer& buffer, int calls,
            const std::function<void()>& call) {
  constexpr int kRounds = 5;
  double best = 1e9;
  call();
  Drain(backend, buffer);
  for (int round = 0; round < kRounds; ++round) {
    const Clock::time_point start = Clock::now();
    for (int i = 0; i < calls; ++i) call();
    Drain(backend, buffer);
    best = std::min(best, SecondsSince(start) / calls);
  }
  return best;
}

Batch OneRow() {
  Batch batch;
  batch.tokens = {0};
  batch.positions = {0};
  batch.segments = {{0, 0, 1, 0, 0}};
  return batch;
}

// Runs step() until the budget is spent, at least twice; the first three warm up, since the second
// step of a shape is recorded.
Timing Repeat(double budget_s, const std::function<void()>& step) {
  constexpr int kWarmUp = 3;
  for (int i = 0; i < kWarmUp; ++i) step();
  Timing timing;
  const Clock::time_point start = Clock::now();
  do {
    step();
    ++timing.steps;
    timing.seconds = SecondsSince(start);
  } while (timing.steps < 2 || timing.seconds < budget_s);
  timing.seconds /= timing.steps;
  return timing;
}

}  // namespace

DevicePeaks MeasurePeaks(cuda::CudaBackend& backend, int64_t elements) {
  DevicePeaks peaks;
  const auto bytes = static_cast<size_t>(elements) * sizeof(float);
  {
    const Buffer from = backend.Allocate(bytes);
    const Buffer to = backend.Allocate(bytes);
    peaks.copy_bytes_per_s = 2.0 * static_cast<double>(bytes) / Best(backend, to, 4, [&] {
                               backend.CopyOnDevice(to.data(), from.data(), bytes);
                             });
  }
  const auto side = static_cast<int64_t>(std::sqrt(static_cast<double>(elements) / 4)) / 64 * 64;
  const std::vector<uint16_t> ones(side * side, FloatToBFloat16(1.0F));
  const HostMatrix host = {ones.data(), DType::kBFloat16, side, side, false};
  const auto matrix = backend.LoadMatrix({&host, 1}, DType::kBFloat16);
  const Buffer x = backend.Allocate(side * side * 2);
  const Buffer out = backend.Allocate(side * side * 4);
  backend.PrepareSteps({1, 1, 1, 1});
  const Batch batch = OneRow();
  backend.RunStep(nullptr, batch, [&](const StepShape&) {
    const double seconds = Best(backend, out, 4, [&] {
      backend.MatMul({x.data(), DType::kBFloat16, side, side, side}, *matrix, nullptr,
                     MatMulMode::kStore, {out.data(), DType::kFloat32, side, side, side});
    });
    peaks.matrix_flops_per_s =
        2.0 * static_cast<double>(side) * static_cast<double>(side * side) / seconds;
  });
  constexpr int kLaunches = 1000;
  const Tensor small = {x.data(), DType::kFloat32, 1, 32, 32};
  peaks.launch_s = Best(backend, x, 3,
                        [&] {
                          backend.RunStep(&peaks, batch, [&](const StepShape&) {
                            for (int i = 0; i < kLaunches; ++i) {
                              backend.Activate(ActivationKind::kRelu, small);
                            }
                          });
                        }) /
                   kLaunches;
  return peaks;
}

Timing TimeDecode(ModelExecutor& executor, int sessions, int64_t position, double budget_s) {
  const int32_t token = 1;
  std::vector<ScheduledChunk> chunks(sessions);
  SamplingParams sampling;
  for (ScheduledChunk& chunk : chunks) {
    sampling.sequence += 1;
    // A later position costs a linear model no page; a full one has its pages for all.
    chunk.slot = executor.Open({position + 1}, sampling);
    if (chunk.slot < 0) throw DeviceError("no room for " + std::to_string(sessions) + " sessions");
    chunk.tokens = {&token, 1};
    chunk.position = position;
    chunk.sample = true;
  }
  std::vector<ChunkResult> results;
  const Timing timing = Repeat(budget_s, [&] { executor.Step(chunks, &results); });
  for (const ScheduledChunk& chunk : chunks) executor.Close(chunk.slot);
  return timing;
}

Timing TimePrefill(ModelExecutor& executor, int64_t tokens, int64_t chunk_size, double budget_s) {
  const std::vector<int32_t> prompt(tokens, 1);
  std::vector<ChunkResult> results;
  return Repeat(budget_s, [&] {
    const int slot = executor.Open({tokens}, {});
    for (int64_t at = 0; at < tokens; at += chunk_size) {
      ScheduledChunk chunk;
      chunk.slot = slot;
      chunk.position = at;
      chunk.tokens = std::span(prompt).subspan(at, std::min(chunk_size, tokens - at));
      chunk.sample = at + chunk_size >= tokens;
      executor.Step({&chunk, 1}, &results);
    }
    executor.Close(slot);
  });
}

double DecodeFloor(const ModelConfig& config, const DevicePeaks& peaks, int sessions,
                   int64_t position) {
  return FloorOfOperations(OperationsOfDecodeStep(config, kStepTypes, sessions, position),
                           peaks.copy_bytes_per_s, [&](DType) { return peaks.matrix_flops_per_s; })
      .seconds;
}

double BytesOnly(const ModelConfig& config, const DevicePeaks& peaks, int sessions,
                 int64_t position) {
  const StepCost cost = CostOfDecodeStep(config, kStepTypes, sessions, position);
  return static_cast<double>(cost.weight_bytes + cost.state_bytes) / peaks.copy_bytes_per_s;
}

double PrefillFlops(const ModelConfig& config, int64_t tokens) {
  // Attention to all earlier positions costs, on the mean, as much as to half of them.
  const std::vector<StepOperation> operations =
      OperationsOfDecodeStep(config, kStepTypes, 1, tokens / 2);
  double flops = 0;
  for (const StepOperation& operation : operations) {
    flops += static_cast<double>(operation.cost.flops);
  }
  const auto head = static_cast<double>(operations.back().cost.flops);
  return (flops - head) * static_cast<double>(tokens) + head;
}

}  // namespace t2r::bench
