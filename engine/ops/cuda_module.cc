#include "engine/ops/cuda/cuda_module.h"

#include <dlfcn.h>

#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

namespace t2r {
namespace {

constexpr char kFileName[] = "libt2r_cuda.so";

// Where the module may be, the first that there is to be taken.
std::string ModulePath() {
  // Set before the program's threads start, if at all.
  const char* named = std::getenv("T2R_CUDA_MODULE");  // NOLINT(concurrency-mt-unsafe)
  if (named != nullptr && *named != '\0') return named;
  std::error_code error;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", error);
  if (!error) {
    const std::filesystem::path beside = program.parent_path() / kFileName;
    if (std::filesystem::exists(beside, error)) return beside.string();
  }
  return kFileName;
}

template <typename Function>
Function* Find(void* module, const char* symbol, const std::string& path) {
  void* found = dlsym(module, symbol);
  if (found == nullptr) {
    throw DeviceError("cuda: " + path + " is no CUDA module of t2r: it has no " + symbol);
  }
  return reinterpret_cast<Function*>(found);
}

CudaModuleMake* Load() {
  const std::string path = ModulePath();
  void* module = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (module == nullptr) {
    const char* why = dlerror();  // NOLINT(concurrency-mt-unsafe): of this thread
    throw DeviceError("cuda: the CUDA module could not be loaded (" +
                      std::string(why == nullptr ? "unknown reason" : why) +
                      "): put libt2r_cuda.so beside the program or name it in T2R_CUDA_MODULE, "
                      "with CUDA 13's libcublasLt where the loader finds it; or use the CPU "
                      "backend");
  }
  const int version = Find<CudaModuleVersion>(module, kCudaModuleVersionSymbol, path)();
  if (version != kCudaModuleVersion) {
    throw DeviceError("cuda: " + path + " is of module version " + std::to_string(version) +
                      ", this program needs " + std::to_string(kCudaModuleVersion) +
                      ": take both from the same build");
  }
  return Find<CudaModuleMake>(module, kCudaModuleMakeSymbol, path);
}

}  // namespace

std::unique_ptr<Backend> MakeCudaBackend(const BackendOptions& options) {
  static CudaModuleMake* const make = Load();
  return std::unique_ptr<Backend>(make(options.batch_invariant));
}

}  // namespace t2r
