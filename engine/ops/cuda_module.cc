#include "engine/ops/cuda/cuda_module.h"

#include <cstdlib>
#include <string>

#include "engine/io/shared_library.h"

namespace t2r {
namespace {

constexpr char kFileName[] = "libt2r_cuda.so";

// Where the module is said or seen to be: as T2R_CUDA_MODULE says, or beside the program; "":
// nowhere.
std::string ModulePath() {
  // Set before the program's threads start, if at all.
  const char* named = std::getenv("T2R_CUDA_MODULE");  // NOLINT(concurrency-mt-unsafe)
  if (named != nullptr && *named != '\0') return named;
  return FileBesideProgram(kFileName);
}

template <typename Function>
Function* Find(const SharedLibrary& module, const char* symbol, const std::string& path) {
  Function* found = module.Find<Function>(symbol);
  if (found == nullptr) {
    throw DeviceError(DeviceErrorKind::kUnavailable,
                      "cuda: " + path + " is no CUDA module of t2r: it has no " + symbol);
  }
  return found;
}

CudaModuleMake* Load() {
  const std::string known = ModulePath();
  const std::string path = known.empty() ? kFileName : known;  // where the system's loader looks
  const SharedLibrary module(path, SymbolScope::kLocal);
  if (!module.loaded()) {
    throw DeviceError(
        DeviceErrorKind::kUnavailable,
        std::string("cuda: ") +
            (known.empty() ? "there is no CUDA module" : "the CUDA module could not be loaded") +
            ": put libt2r_cuda.so beside the program or name it in T2R_CUDA_MODULE, with CUDA 13's "
            "libcublasLt where the loader finds it; or use the CPU backend (" +
            module.error() + ")");
  }
  const std::string interface = Find<CudaInterface>(module, kCudaInterfaceSymbol, path)();
  if (interface != T2R_CUDA_INTERFACE) {
    throw DeviceError(DeviceErrorKind::kUnavailable,
                      "cuda: " + path + " has the interface " + interface +
                          ", this program " T2R_CUDA_INTERFACE ": take both from the same build");
  }
  return Find<CudaModuleMake>(module, kCudaModuleMakeSymbol, path);
}

}  // namespace

std::unique_ptr<Backend> MakeCudaBackend(const BackendOptions& options) {
  static CudaModuleMake* const make = Load();
  return std::unique_ptr<Backend>(make(options.batch_invariant));
}

}  // namespace t2r
