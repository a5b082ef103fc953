// A C interface over libsentencepiece, built as a module of its own: see sentencepiece_library.h.
// Compiled without the project's sanitizers and without abseil. Memory it allocates it also frees.
#include <sentencepiece_processor.h>

#include <cstddef>
#include <cstdio>
#include <exception>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#define T2R_EXPORT extern "C" __attribute__((visibility("default")))

namespace {

using sentencepiece::SentencePieceProcessor;

void Report(std::string_view message, char* error, size_t error_size) {
  std::snprintf(error, error_size, "%.*s", static_cast<int>(message.size()), message.data());
}

}  // namespace

// A processor, or null and `error` filled.
T2R_EXPORT void* T2rSentencePieceLoad(const char* bytes, size_t size, char* error,
                                      size_t error_size) {
  try {
    auto processor = std::make_unique<SentencePieceProcessor>();
    const auto status = processor->LoadFromSerializedProto(std::string_view(bytes, size));
    if (status.ok()) return processor.release();
    Report(status.message(), error, error_size);
  } catch (const std::exception& exception) {
    Report(exception.what(), error, error_size);
  }
  return nullptr;
}

T2R_EXPORT void T2rSentencePieceUnload(void* processor) {
  delete static_cast<SentencePieceProcessor*>(processor);
}

T2R_EXPORT int T2rSentencePieceSize(const void* processor) {
  return static_cast<const SentencePieceProcessor*>(processor)->GetPieceSize();
}

// The ids of a text, `count` of them, to be freed with T2rSentencePieceFree; or null and `error`
// filled.
T2R_EXPORT const int* T2rSentencePieceEncode(const void* processor, const char* text, size_t size,
                                             size_t* count, void** owner, char* error,
                                             size_t error_size) {
  try {
    auto ids = std::make_unique<std::vector<int>>();
    const auto status = static_cast<const SentencePieceProcessor*>(processor)->Encode(
        std::string_view(text, size), ids.get());
    if (status.ok()) {
      *count = ids->size();
      *owner = ids.get();
      return ids.release()->data();
    }
    Report(status.message(), error, error_size);
  } catch (const std::exception& exception) {
    Report(exception.what(), error, error_size);
  }
  *owner = nullptr;
  return nullptr;
}

T2R_EXPORT void T2rSentencePieceFree(void* owner) { delete static_cast<std::vector<int>*>(owner); }
