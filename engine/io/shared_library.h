// Shared objects loaded at run time. Free of abseil: engine/ops loads the CUDA module with it.
#pragma once

#include <string>

namespace t2r {

enum class SymbolScope {
  kLocal,  // its symbols are its own; libraries that the program has already are shared with it
  kDeep,   // the libraries it brings come before the program's own of the same symbols
  kApart,  // a namespace of its own: every library it needs is loaded anew
};

// Never unloaded: what it gave may live as long as the program.
class SharedLibrary {
 public:
  // path: of a file, or a name for the system's loader.
  SharedLibrary(const std::string& path, SymbolScope scope);

  bool loaded() const { return handle_ != nullptr; }
  // Why it is not loaded, in the system's words.
  const std::string& error() const { return error_; }
  // Null where the library has no such symbol, or is not loaded.
  template <typename Function>
  Function* Find(const char* symbol) const {
    return reinterpret_cast<Function*>(Symbol(symbol));
  }

 private:
  void* Symbol(const char* symbol) const;

  void* handle_ = nullptr;
  std::string error_;
};

// The file of this name in the running program's folder, or in the one above (tests lie a folder
// deeper than programs); "" where there is none.
std::string FileBesideProgram(const std::string& name);

}  // namespace t2r
