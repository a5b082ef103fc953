// The one place that knows which backends this build has.
#include <string>

#include "engine/ops/backend.h"
#include "engine/ops/cpu/cpu_backend.h"

namespace t2r {

std::unique_ptr<Backend> MakeBackend(const BackendOptions& options) {
  if (options.name == "cpu") return MakeCpuBackend(options.threads);
  throw DeviceError("unknown backend \"" + options.name + "\": this build has \"cpu\"");
}

}  // namespace t2r
