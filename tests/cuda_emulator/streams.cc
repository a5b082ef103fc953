// Streams, events and graphs of the emulated runtime.
#include <algorithm>
#include <memory>

#include "tests/cuda_emulator/host_api.h"
#include "tests/cuda_emulator/runtime.h"

using emulator::Event;
using emulator::Graph;
using emulator::Runtime;
using emulator::Stream;

namespace {

#define T2R_EMULATOR_ENTER(runtime)          \
  Runtime& runtime = Runtime::Get();         \
  const std::lock_guard lock(runtime.mutex); \
  if (runtime.sticky != cudaSuccess) return runtime.sticky

}  // namespace

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  T2R_EMULATOR_ENTER(runtime);
  runtime.streams.push_back(std::make_unique<Stream>());
  *stream = runtime.streams.back().get();
  return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  Runtime& runtime = Runtime::Get();
  const std::lock_guard lock(runtime.mutex);
  runtime.Flush(stream, stream->queued);
  std::erase_if(runtime.streams, [&](const auto& s) { return s.get() == stream; });
  return runtime.sticky;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  T2R_EMULATOR_ENTER(runtime);
  if (stream == nullptr) return cudaErrorInvalidValue;
  if (stream->capture != nullptr) {
    stream->invalidated = true;
    return cudaErrorStreamCaptureUnsupported;
  }
  if (runtime.Fails("sync")) return runtime.sticky = cudaErrorECCUncorrectable;
  return runtime.Flush(stream, stream->queued);
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  T2R_EMULATOR_ENTER(runtime);
  const Event recorded = *event;
  if (recorded.stream == nullptr || recorded.stream == stream) return cudaSuccess;
  return runtime.Add(stream,
                     [recorded, &runtime] { return runtime.Flush(recorded.stream, recorded.at); });
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  T2R_EMULATOR_ENTER(runtime);
  *event = new Event;
  return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  T2R_EMULATOR_ENTER(runtime);
  if (stream == nullptr || stream->capture != nullptr) return cudaErrorInvalidValue;
  *event = {stream, stream->queued};
  return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  T2R_EMULATOR_ENTER(runtime);
  if (runtime.Fails("sync")) return runtime.sticky = cudaErrorECCUncorrectable;
  return event->stream == nullptr ? cudaSuccess : runtime.Flush(event->stream, event->at);
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  T2R_EMULATOR_ENTER(runtime);
  if (stream == nullptr || stream->capture != nullptr) return cudaErrorInvalidValue;
  stream->capture = std::make_unique<Graph>();
  stream->mode = mode;
  stream->invalidated = false;
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  T2R_EMULATOR_ENTER(runtime);
  *graph = nullptr;
  if (stream->capture == nullptr) return cudaErrorInvalidValue;
  std::unique_ptr<Graph> captured = std::move(stream->capture);
  if (stream->invalidated) return cudaErrorStreamCaptureInvalidated;
  *graph = captured.release();
  return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph,
                                 unsigned long long) {
  T2R_EMULATOR_ENTER(runtime);
  *executable = new Graph(*graph);
  return cudaSuccess;
}

cudaError_t cudaGraphGetNodes(cudaGraph_t graph, void* nodes, size_t* count) {
  if (nodes != nullptr) return cudaErrorInvalidValue;
  *count = graph->works.size();
  return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  // What is queued holds its own copies.
  delete executable;
  return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  T2R_EMULATOR_ENTER(runtime);
  ++runtime.counts.graph_launches;
  for (const emulator::Work& work : executable->works) {
    const cudaError_t error = runtime.Add(stream, work);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}
