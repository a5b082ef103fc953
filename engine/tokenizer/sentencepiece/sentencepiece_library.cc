#include "engine/tokenizer/sentencepiece/sentencepiece_library.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "engine/io/files.h"
#include "engine/io/shared_library.h"
#include "engine/io/status_macros.h"

// The module's bytes (see CMakeLists.txt).
asm(R"(
  .section .rodata
  .global t2r_sentencepiece_module_begin
  .global t2r_sentencepiece_module_end
  .balign 16
t2r_sentencepiece_module_begin:
  .incbin ")" T2R_SENTENCEPIECE_MODULE R"("
t2r_sentencepiece_module_end:
  .byte 0
  .previous
)");
extern "C" const char t2r_sentencepiece_module_begin[];
extern "C" const char t2r_sentencepiece_module_end[];

namespace t2r {
namespace {

constexpr size_t kErrorBytes = 512;

struct Module {
  void* (*load)(const char*, size_t, char*, size_t) = nullptr;
  void (*unload)(void*) = nullptr;
  int (*size)(const void*) = nullptr;
  const int* (*encode)(const void*, const char*, size_t, size_t*, void**, char*, size_t) = nullptr;
  void (*free)(void*) = nullptr;
  const char* (*encode_pieces)(const void*, const char*, size_t, const size_t**, size_t*, void**,
                               char*, size_t) = nullptr;
  void (*free_pieces)(void*) = nullptr;
};

absl::Status Failed(const char* step, absl::string_view reason) {
  return absl::FailedPreconditionError(
      absl::StrCat("loading libsentencepiece failed: ", step, ": ", reason,
                   " (install libsentencepiece0, or give the model a tokenizer.json)"));
}

// The loader wants a path: a file in memory has one under /proc. The namespace is its own because
// libsentencepiece brings and exports a protobuf that is not the program's.
absl::StatusOr<SharedLibrary> OpenModule() {
  const int file = memfd_create("t2r_sentencepiece", MFD_CLOEXEC);
  if (file < 0) return Failed("memfd_create", std::generic_category().message(errno));
  const absl::Status written = WriteAll(
      file, {t2r_sentencepiece_module_begin,
             static_cast<size_t>(t2r_sentencepiece_module_end - t2r_sentencepiece_module_begin)});
  if (!written.ok()) {
    close(file);
    return Failed("write", written.message());
  }
  SharedLibrary library(absl::StrCat("/proc/self/fd/", file), SymbolScope::kApart);
  close(file);
  if (!library.loaded()) return Failed("dlmopen", library.error());
  return library;
}

template <typename Function>
absl::Status Resolve(const SharedLibrary& library, const char* name, Function** function) {
  *function = library.Find<Function>(name);
  return *function == nullptr ? Failed("dlsym", name) : absl::OkStatus();
}

absl::StatusOr<Module> LoadModule() {
  T2R_ASSIGN_OR_RETURN(const SharedLibrary library, OpenModule());
  Module module;
  T2R_RETURN_IF_ERROR(Resolve(library, "T2rSentencePieceLoad", &module.load));
  T2R_RETURN_IF_ERROR(Resolve(library, "T2rSentencePieceUnload", &module.unload));
  T2R_RETURN_IF_ERROR(Resolve(library, "T2rSentencePieceSize", &module.size));
  T2R_RETURN_IF_ERROR(Resolve(library, "T2rSentencePieceEncode", &module.encode));
  T2R_RETURN_IF_ERROR(Resolve(library, "T2rSentencePieceFree", &module.free));
  T2R_RETURN_IF_ERROR(Resolve(library, "T2rSentencePieceEncodePieces", &module.encode_pieces));
  T2R_RETURN_IF_ERROR(Resolve(library, "T2rSentencePieceFreePieces", &module.free_pieces));
  return module;
}

// Loaded at the first use, once, and kept.
const absl::StatusOr<Module>& TheModule() {
  static const auto* const module = new absl::StatusOr<Module>(LoadModule());
  return *module;
}

}  // namespace

absl::StatusOr<std::unique_ptr<SentencePieceProcessor>> SentencePieceProcessor::Load(
    std::string_view model, const std::string& file) {
  const absl::StatusOr<Module>& module = TheModule();
  if (!module.ok()) return module.status();
  char error[kErrorBytes] = {};
  void* handle = module->load(model.data(), model.size(), error, sizeof(error));
  if (handle == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(file, ": ", error));
  }
  return std::unique_ptr<SentencePieceProcessor>(new SentencePieceProcessor(handle));
}

SentencePieceProcessor::~SentencePieceProcessor() { TheModule()->unload(handle_); }

absl::StatusOr<std::vector<int32_t>> SentencePieceProcessor::Encode(std::string_view text) const {
  char error[kErrorBytes] = {};
  size_t count = 0;
  void* owner = nullptr;
  const int* ids =
      TheModule()->encode(handle_, text.data(), text.size(), &count, &owner, error, sizeof(error));
  if (owner == nullptr) return absl::InternalError(absl::StrCat("SentencePiece: ", error));
  std::vector<int32_t> result(ids, ids + count);
  TheModule()->free(owner);
  return result;
}

absl::StatusOr<std::vector<std::string>> SentencePieceProcessor::EncodePieces(
    std::string_view text) const {
  char error[kErrorBytes] = {};
  const size_t* lengths = nullptr;
  size_t count = 0;
  void* owner = nullptr;
  const char* bytes = TheModule()->encode_pieces(handle_, text.data(), text.size(), &lengths,
                                                 &count, &owner, error, sizeof(error));
  if (owner == nullptr) return absl::InternalError(absl::StrCat("SentencePiece: ", error));
  std::vector<std::string> pieces(count);
  for (size_t i = 0; i < count; ++i) {
    pieces[i].assign(bytes, lengths[i]);
    bytes += lengths[i];
  }
  TheModule()->free_pieces(owner);
  return pieces;
}

int SentencePieceProcessor::size() const { return TheModule()->size(handle_); }

}  // namespace t2r
