// The one place that knows which backends there are.
#include <string>

#include "engine/ops/backend.h"
#include "engine/ops/cpu/cpu_backend.h"
#include "engine/ops/cuda/cuda_module.h"

namespace t2r {

std::unique_ptr<Backend> MakeBackend(const BackendOptions& options) {
  if (options.note != nullptr) options.note->clear();
  if (options.name == "cpu") return MakeCpuBackend(options.threads);
  if (options.name == "cuda") return MakeCudaBackend(options);
  if (options.name == "auto") {
    try {
      return MakeCudaBackend(options);
    } catch (const DeviceError& error) {
      if (options.note != nullptr) *options.note = error.what();
      return MakeCpuBackend(options.threads);
    }
  }
  throw DeviceError("unknown backend \"" + options.name + "\": it is auto, cpu or cuda");
}

}  // namespace t2r
