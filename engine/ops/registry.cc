// The one place that knows which backends there are.
#include <string>

#include "engine/ops/backend.h"
#include "engine/ops/cpu/cpu_backend.h"
#include "engine/ops/cuda/cuda_module.h"

namespace t2r {
namespace {

// What is wrong, without what to do about it: of "cuda: it is off: turn it on" the middle.
std::string ReasonOf(const DeviceError& error) {
  const std::string text = error.what();
  const std::string prefix = "cuda: ";
  const size_t begin = text.rfind(prefix, 0) == 0 ? prefix.size() : 0;
  return text.substr(begin, text.find(": ", begin) - begin);
}

}  // namespace

std::unique_ptr<Backend> MakeBackend(const BackendOptions& options) {
  if (options.note != nullptr) options.note->clear();
  const auto cpu = [&] { return MakeCpuBackend(options.threads, options.rows); };
  if (options.name == "cpu") return cpu();
  const auto cuda = [&] {
    if (options.rows == RowRounding::kInt8) {
      throw DeviceError(DeviceErrorKind::kInvalidArgument,
                        "cuda: activations int8 is for the CPU: take --backend cpu or others");
    }
    return MakeCudaBackend(options);
  };
  if (options.name == "cuda") return cuda();
  if (options.name == "auto") {
    const auto note = [&options](const std::string& text) {
      if (options.note != nullptr) *options.note = text;
    };
    try {
      std::unique_ptr<Backend> backend = cuda();
      note("cuda, since a device can start");
      return backend;
    } catch (const DeviceError& error) {
      note("cpu, since " + ReasonOf(error) + " (--backend cuda says more)");
      return cpu();
    }
  }
  throw DeviceError(DeviceErrorKind::kInvalidArgument,
                    "unknown backend \"" + options.name + "\": it is auto, cpu or cuda");
}

}  // namespace t2r
