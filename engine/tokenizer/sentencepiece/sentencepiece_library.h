// libsentencepiece, kept apart from the rest of the process.
//
// Debian's libsentencepiece carries its own copy of Protobuf 3.14 and exports its symbols, so in a
// process that also has libprotobuf (gRPC and LibTorch bring it) one of the two gets the other's
// functions and the process dies before main. Linking in another order does not help. So a small
// module with a C interface (sentencepiece_module.cc) is linked to it, carried inside this library
// as bytes, and loaded with dlmopen into a namespace of its own, where nothing can be mixed up.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace t2r {

// A loaded model. Safe to use from many threads.
class SentencePieceProcessor {
 public:
  // INVALID_ARGUMENT, beginning with `file`, for a model the library refuses, FAILED_PRECONDITION
  // when the library itself cannot be loaded.
  static absl::StatusOr<std::unique_ptr<SentencePieceProcessor>> Load(
      std::string_view model, const std::string& file = "tokenizer.model");
  ~SentencePieceProcessor();
  SentencePieceProcessor(const SentencePieceProcessor&) = delete;
  SentencePieceProcessor& operator=(const SentencePieceProcessor&) = delete;

  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text) const;
  // The pieces themselves; one that the model lacks is the (normalised) text it stands for.
  absl::StatusOr<std::vector<std::string>> EncodePieces(std::string_view text) const;
  int size() const;

 private:
  explicit SentencePieceProcessor(void* handle) : handle_(handle) {}

  void* handle_;
};

}  // namespace t2r
