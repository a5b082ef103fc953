// What a token's name means as bytes: the decoder of tokenizer.json, token by token.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"

namespace t2r {

// ByteLevel, Metaspace, and sequences of Replace, ByteFallback, Fuse and a Strip of leading
// characters after Fuse: what Llama's files use. Others are refused by name, as they cannot be
// computed token by token or no supported model needs them.
class TokenDecoder {
 public:
  // Names are the bytes.
  TokenDecoder() = default;
  static absl::StatusOr<TokenDecoder> FromJson(const nlohmann::json& json,
                                               const std::string& where);
  static TokenDecoder ByteLevel();

  // The bytes of a token, inside a text and at its start.
  std::string Bytes(const std::string& token) const { return Apply(token, false); }
  std::string BytesAtStart(const std::string& token) const { return Apply(token, true); }

 private:
  std::string Apply(const std::string& token, bool at_start) const;
  absl::Status AddStep(const nlohmann::json& json, const std::string& where);
  absl::Status AddMetaspace(const nlohmann::json& json, const std::string& where);
  absl::Status AddStrip(const nlohmann::json& json, const std::string& where);

  std::vector<std::pair<std::string, std::string>> replacements_;  // pattern, content
  bool byte_level_ = false;
  bool byte_fallback_ = false;
  bool fused_ = false;
  std::string dropped_at_start_;  // a character; all of the first token's go
  std::string stripped_;          // a character; up to strip_count_ leading ones go
  int strip_count_ = 0;
};

}  // namespace t2r
