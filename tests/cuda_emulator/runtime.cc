#include "tests/cuda_emulator/runtime.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace emulator {
namespace {

thread_local std::string next_kernel = "unnamed";

LaneOrder OrderOf(const char* name) {
  if (name == nullptr || std::strcmp(name, "forward") == 0) return LaneOrder::kForward;
  if (std::strcmp(name, "reverse") == 0) return LaneOrder::kReverse;
  if (std::strcmp(name, "shuffled") == 0) return LaneOrder::kShuffled;
  std::fprintf(stderr, "T2R_EMULATOR_LANES is %s: it is forward, reverse or shuffled\n", name);
  std::abort();
}

}  // namespace

Runtime& Runtime::Get() {
  static Runtime* const runtime = new Runtime;  // outlives every thread that may still call
  return *runtime;
}

Runtime::Runtime() : order(OrderOf(std::getenv("T2R_EMULATOR_LANES"))) {
  const char* bytes = std::getenv("T2R_EMULATOR_MEMORY");
  memory = bytes != nullptr ? std::strtoull(bytes, nullptr, 10) : size_t{256} << 20;
  const char* count = std::getenv("T2R_EMULATOR_DEVICES");
  devices = count != nullptr ? std::atoi(count) : 1;
  Plan(std::getenv("T2R_EMULATOR_FAIL"));
}

void Runtime::Plan(const char* plan) {
  failing.clear();
  countdown = 0;
  if (plan == nullptr) return;
  const char* colon = std::strchr(plan, ':');
  if (colon == nullptr) return;
  failing.assign(plan, colon);
  countdown = std::atoll(colon + 1);
}

bool Runtime::Fails(const char* kind) {
  return failing == kind && countdown > 0 && --countdown == 0;
}

bool Runtime::Capturing() const {
  return std::any_of(streams.begin(), streams.end(), [](const auto& s) {
    return s->capture != nullptr && s->mode != cudaStreamCaptureModeRelaxed;
  });
}

cudaError_t Runtime::Add(Stream* stream, Work work) {
  if (sticky != cudaSuccess) return sticky;
  if (stream == nullptr) return cudaErrorInvalidValue;  // the backend has streams of its own
  if (stream->capture != nullptr) {
    stream->capture->works.push_back(std::move(work));
    return cudaSuccess;
  }
  stream->works.push_back(std::move(work));
  ++stream->queued;
  return cudaSuccess;
}

cudaError_t Runtime::Flush(Stream* stream, unsigned long long until) {
  while (sticky == cudaSuccess && stream->finished < until) {
    const Work work = std::move(stream->works.front());
    stream->works.pop_front();
    ++stream->finished;
    sticky = work();
  }
  return sticky;
}

cudaError_t Runtime::FlushAll() {
  for (const auto& stream : streams) Flush(stream.get(), stream->queued);
  return sticky;
}

void NameNextKernel(const char* name) { next_kernel = name; }

cudaError_t Enqueue(cudaStream_t stream, std::function<void()> work) {
  Runtime& runtime = Runtime::Get();
  const std::lock_guard lock(runtime.mutex);
  return runtime.Add(stream, [work = std::move(work)] {
    work();
    return cudaSuccess;
  });
}

cudaError_t LaunchKernel(const cudaLaunchConfig_t& config, const void* function,
                         std::function<void()> thread) {
  Runtime& runtime = Runtime::Get();
  const std::lock_guard lock(runtime.mutex);
  const dim3 grid = config.gridDim;
  const dim3 block = config.blockDim;
  const unsigned long long threads = 1ULL * block.x * block.y * block.z;
  const auto limit = runtime.shared_limits.find(function);
  const size_t shared_limit =
      limit == runtime.shared_limits.end() ? 48 * 1024 : static_cast<size_t>(limit->second);
  if (threads == 0 || threads > 1024 || block.z > 64 || grid.x == 0 || grid.x > 0x7fffffffU ||
      grid.y == 0 || grid.y > 65535 || grid.z == 0 || grid.z > 65535 ||
      config.dynamicSmemBytes > shared_limit) {
    return cudaErrorInvalidConfiguration;
  }
  return runtime.Add(config.stream,
                     [name = next_kernel, config, thread = std::move(thread), &runtime] {
                       ++runtime.counts.kernels;
                       if (runtime.Fails("launch")) {
                         runtime.report = "kernel " + name + " was made to fail";
                         return cudaErrorLaunchFailure;
                       }
                       runtime.report = RunGrid(name, config.gridDim, config.blockDim,
                                                config.dynamicSmemBytes, thread, runtime.order);
                       if (runtime.report.empty()) return cudaSuccess;
                       std::fprintf(stderr, "CUDA emulator: %s\n", runtime.report.c_str());
                       return cudaErrorLaunchFailure;
                     });
}

}  // namespace emulator

void t2r_emulator_fail(const char* plan) {
  emulator::Runtime& runtime = emulator::Runtime::Get();
  const std::lock_guard lock(runtime.mutex);
  runtime.Plan(plan);
  if (plan == nullptr || *plan == '\0') {
    // A device that comes back knows nothing of the work that a failure left undone.
    if (runtime.sticky != cudaSuccess) {
      for (const auto& stream : runtime.streams) {
        stream->works.clear();
        stream->finished = stream->queued;
      }
    }
    runtime.sticky = cudaSuccess;
    runtime.report.clear();
  }
}

EmulatorCounts t2r_emulator_counts() {
  emulator::Runtime& runtime = emulator::Runtime::Get();
  const std::lock_guard lock(runtime.mutex);
  return runtime.counts;
}
