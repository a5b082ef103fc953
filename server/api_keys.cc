#include "server/api_keys.h"

#include <openssl/crypto.h>
#include <openssl/sha.h>
#include <sys/random.h>

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace t2r::server {
namespace {

constexpr absl::string_view kPrefix = "sha256:";

bool IsHex(absl::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return absl::ascii_isxdigit(c); });
}

}  // namespace

ApiKeys::Digest ApiKeys::Sha256(absl::string_view text) {
  Digest digest;
  SHA256(reinterpret_cast<const unsigned char*>(text.data()), text.size(), digest.data());
  return digest;
}

absl::StatusOr<ApiKeys> ApiKeys::Parse(const std::string& text) {
  ApiKeys keys;
  int number = 0;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    ++number;
    line = absl::StripAsciiWhitespace(line.substr(0, line.find('#')));
    if (line.empty()) continue;
    const std::vector<absl::string_view> parts =
        absl::StrSplit(line, absl::ByAnyChar(" \t"), absl::SkipEmpty());
    const bool good =
        parts.size() == 2 && IsKeyName(parts[0]) && parts[1].size() == kPrefix.size() + 64 &&
        parts[1].substr(0, kPrefix.size()) == kPrefix && IsHex(parts[1].substr(kPrefix.size()));
    if (!good) {
      return absl::InvalidArgumentError(absl::StrCat(
          "line ", number, " is not NAME sha256:HEX, as t2r-server key new NAME prints it"));
    }
    Entry entry = {.name = std::string(parts[0]), .digest = {}};
    const std::string bytes = absl::HexStringToBytes(parts[1].substr(kPrefix.size()));
    std::copy(bytes.begin(), bytes.end(), entry.digest.begin());
    keys.entries_.push_back(std::move(entry));
  }
  if (keys.entries_.empty()) {
    return absl::InvalidArgumentError(
        "there is no key in it; t2r-server key new NAME prints lines for it");
  }
  return keys;
}

const std::string* ApiKeys::NameOf(absl::string_view key) const {
  const Digest digest = Sha256(key);
  const Entry* found = nullptr;
  for (const Entry& entry : entries_) {
    if (CRYPTO_memcmp(entry.digest.data(), digest.data(), digest.size()) == 0) found = &entry;
  }
  return found == nullptr ? nullptr : &found->name;
}

bool IsKeyName(absl::string_view name) {
  return !name.empty() && name.size() <= 64 && std::all_of(name.begin(), name.end(), [](char c) {
    return absl::ascii_isalnum(c) || c == '.' || c == '_' || c == '-';
  });
}

std::string NewKey() {
  std::array<char, 32> bytes = {};
  size_t have = 0;
  while (have < bytes.size()) {
    const ssize_t got = getrandom(bytes.data() + have, bytes.size() - have, 0);
    if (got > 0) have += static_cast<size_t>(got);
  }
  return absl::StrCat("t2r_",
                      absl::WebSafeBase64Escape(absl::string_view(bytes.data(), bytes.size())));
}

std::string KeyLine(const std::string& name, absl::string_view key) {
  const ApiKeys::Digest digest = ApiKeys::Sha256(key);
  return absl::StrCat(name, " ", kPrefix,
                      absl::BytesToHexString(absl::string_view(
                          reinterpret_cast<const char*>(digest.data()), digest.size())));
}

}  // namespace t2r::server
