// libsentencepiece called directly. Its header and abseil's do not go into one translation unit.
#pragma once

#include <memory>
#include <string>
#include <vector>

namespace t2r::testing {

class SentencePieceReference {
 public:
  explicit SentencePieceReference(const std::string& model);
  ~SentencePieceReference();
  std::vector<int> Encode(const std::string& text) const;
  std::string Decode(const std::vector<int>& ids) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace t2r::testing
