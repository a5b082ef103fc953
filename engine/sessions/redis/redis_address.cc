#include "engine/sessions/redis/redis_address.h"

#include <string_view>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace t2r {
namespace {

constexpr int kMaxDatabase = 1 << 20;

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  const char lower = absl::ascii_tolower(static_cast<unsigned char>(c));
  return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

// False where a % is not followed by two hexadecimal digits.
bool Unescape(std::string_view text, std::string* out) {
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      out->push_back(text[i]);
      continue;
    }
    if (i + 2 >= text.size()) return false;
    const int high = HexDigit(text[i + 1]);
    const int low = HexDigit(text[i + 2]);
    if (high < 0 || low < 0) return false;
    out->push_back(static_cast<char>(high * 16 + low));
    i += 2;
  }
  return true;
}

bool Take(std::string_view* text, std::string_view prefix) {
  if (text->substr(0, prefix.size()) != prefix) return false;
  text->remove_prefix(prefix.size());
  return true;
}

absl::Status Wrong(const char* why) {
  return absl::InvalidArgumentError(
      absl::StrCat("it must be redis://[:password@]host:port[/database] or the same with "
                   "rediss://; ",
                   why));
}

}  // namespace

std::string RedisAddress::text() const {
  const bool brackets = host.find(':') != std::string::npos;
  return absl::StrCat(tls ? "rediss://" : "redis://", brackets ? "[" : "", host,
                      brackets ? "]" : "", ":", port, database > 0 ? "/" : "",
                      database > 0 ? std::to_string(database) : "");
}

absl::StatusOr<RedisAddress> ParseRedisAddress(const std::string& url) {
  RedisAddress address;
  std::string_view rest = url;
  address.tls = Take(&rest, "rediss://");
  if (!address.tls && !Take(&rest, "redis://")) return Wrong("the scheme is another");
  if (const size_t at = rest.rfind('@'); at != std::string_view::npos) {
    const std::string_view who = rest.substr(0, at);
    rest.remove_prefix(at + 1);
    const size_t colon = who.find(':');
    if (colon == std::string_view::npos) return Wrong("a user needs a password");
    if (!Unescape(who.substr(0, colon), &address.user) ||
        !Unescape(who.substr(colon + 1), &address.password)) {
      return Wrong("a % must be followed by two hexadecimal digits");
    }
  }
  if (const size_t slash = rest.find('/'); slash != std::string_view::npos) {
    const std::string number(rest.substr(slash + 1));
    rest = rest.substr(0, slash);
    const bool valid =
        number.empty() || (absl::SimpleAtoi(number, &address.database) && address.database >= 0 &&
                           address.database <= kMaxDatabase);
    if (!valid) return Wrong("the database must be a number");
  }
  const size_t colon = rest.rfind(':');
  if (colon == std::string_view::npos) return Wrong("the port is missing");
  std::string_view host = rest.substr(0, colon);
  address.port = std::string(rest.substr(colon + 1));
  int port = 0;
  if (!absl::SimpleAtoi(address.port, &port) || port < 1 || port > 65535) {
    return Wrong("the port must be a number from 1 to 65535");
  }
  if (host.size() >= 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  } else if (host.find(':') != std::string_view::npos) {
    return Wrong("an IPv6 host stands in brackets");
  }
  if (!Unescape(host, &address.host) || address.host.empty()) return Wrong("the host is missing");
  return address;
}

}  // namespace t2r
