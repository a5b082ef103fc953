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

struct Pieces {
  std::string bytes;
  std::vector<size_t> lengths;
};

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

// The pieces of a text, one after another (a piece that the model lacks is the text itself), and
// the bytes of each, `count` of them; to be freed with T2rSentencePieceFreePieces. Or null and
// `error` filled.
T2R_EXPORT const char* T2rSentencePieceEncodePieces(const void* processor, const char* text,
                                                    size_t size, const size_t** lengths,
                                                    size_t* count, void** owner, char* error,
                                                    size_t error_size) {
  try {
    std::vector<std::string> pieces;
    const auto status = static_cast<const SentencePieceProcessor*>(processor)->Encode(
        std::string_view(text, size), &pieces);
    if (status.ok()) {
      auto joined = std::make_unique<Pieces>();
      for (const std::string& piece : pieces) {
        joined->bytes += piece;
        joined->lengths.push_back(piece.size());
      }
      *lengths = joined->lengths.data();
      *count = joined->lengths.size();
      *owner = joined.get();
      return joined.release()->bytes.data();
    }
    Report(status.message(), error, error_size);
  } catch (const std::exception& exception) {
    Report(exception.what(), error, error_size);
  }
  *owner = nullptr;
  return nullptr;
}

T2R_EXPORT void T2rSentencePieceFreePieces(void* owner) { delete static_cast<Pieces*>(owner); }
