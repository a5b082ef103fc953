#include "engine/io/shared_library.h"

#include <dlfcn.h>

#include <filesystem>
#include <system_error>

namespace t2r {

SharedLibrary::SharedLibrary(const std::string& path, SymbolScope scope) {
  switch (scope) {
    case SymbolScope::kLocal:
      handle_ = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
      break;
    case SymbolScope::kDeep:
      handle_ = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND);
      break;
    case SymbolScope::kApart:
      handle_ = dlmopen(LM_ID_NEWLM, path.c_str(), RTLD_NOW | RTLD_LOCAL);
      break;
  }
  if (handle_ != nullptr) return;
  // glibc keeps dlerror's message a thread's own.
  const char* why = dlerror();  // NOLINT(concurrency-mt-unsafe)
  error_ = why == nullptr ? "unknown reason" : why;
}

void* SharedLibrary::Symbol(const char* symbol) const {
  return handle_ == nullptr ? nullptr : dlsym(handle_, symbol);
}

std::string FileBesideProgram(const std::string& name) {
  std::error_code error;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", error);
  if (error) return "";
  const std::filesystem::path folder = program.parent_path();
  for (const std::filesystem::path& place : {folder, folder.parent_path()}) {
    if (std::filesystem::exists(place / name, error)) return (place / name).string();
  }
  return "";
}

}  // namespace t2r
