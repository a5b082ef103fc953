// A tokenizer that needs no file: a token is a byte.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "engine/tokenizer/tokenizer.h"

namespace t2r::server {

// Id i < 256 is the byte i; 256 is BOS, put first and without text.
class ByteTokenizer : public Tokenizer {
 public:
  static constexpr int32_t kBos = 256;
  static constexpr int kVocab = 257;

  ByteTokenizer() {
    for (int byte = 0; byte < kBos; ++byte) bytes_.push_back(static_cast<char>(byte));
  }

  absl::StatusOr<std::vector<int32_t>> Encode(const std::string& text,
                                              bool add_special_tokens) const override {
    ++encoded_;
    if (before_encode) before_encode();
    std::vector<int32_t> ids;
    if (add_special_tokens) ids.push_back(kBos);
    for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
    return ids;
  }
  std::string_view TokenBytes(int32_t id, bool /*at_start*/) const override {
    if (id < 0 || id >= kBos) return "";
    return std::string_view(bytes_).substr(static_cast<size_t>(id), 1);
  }
  std::string TokenText(int32_t id) const override {
    return id == kBos ? "<s>" : std::string(TokenBytes(id, false));
  }
  bool IsSpecial(int32_t id) const override { return id == kBos; }
  int vocab_size() const override { return kVocab; }
  std::optional<int32_t> bos_id() const override { return kBos; }
  std::optional<int32_t> eos_id() const override { return std::nullopt; }
  bool adds_bos() const override { return true; }

  // Texts encoded so far.
  int encoded() const { return encoded_; }
  // Runs inside Encode; set before the server starts.
  std::function<void()> before_encode;

 private:
  mutable std::atomic<int> encoded_{0};
  std::string bytes_;  // each of them
};

}  // namespace t2r::server
