#include "server/call_ids.h"

#include <algorithm>
#include <cstring>
#include <random>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace t2r::server {
namespace {

constexpr absl::string_view kMarks = "._:/+=@-";

// -1: none, as capital letters are.
int DigitOf(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

bool ReadHex(absl::string_view digits, uint8_t* bytes) {
  for (size_t i = 0; i < digits.size(); i += 2) {
    const int high = DigitOf(digits[i]);
    const int low = DigitOf(digits[i + 1]);
    if (high < 0 || low < 0) return false;
    bytes[i / 2] = static_cast<uint8_t>(high * 16 + low);
  }
  return true;
}

template <typename Bytes>
bool AllZero(const Bytes& bytes) {
  return std::all_of(bytes.begin(), bytes.end(), [](uint8_t byte) { return byte == 0; });
}

}  // namespace

bool IsRequestId(absl::string_view text) {
  constexpr size_t kMaxBytes = 128;
  return !text.empty() && text.size() <= kMaxBytes &&
         std::all_of(text.begin(), text.end(), [](unsigned char c) {
           return absl::ascii_isalnum(c) || absl::StrContains(kMarks, static_cast<char>(c));
         });
}

uint64_t RandomBits() {
  static thread_local std::mt19937_64 bits = [] {
    std::random_device seed;
    std::seed_seq words{seed(), seed(), seed(), seed(), seed(), seed(), seed(), seed()};
    return std::mt19937_64(words);
  }();
  return bits();
}

std::string NewRequestId() {
  return absl::StrCat(absl::Hex(RandomBits(), absl::kZeroPad16),
                      absl::Hex(RandomBits(), absl::kZeroPad16));
}

std::optional<TraceContext> ParseTraceParent(absl::string_view text) {
  constexpr size_t kBytes = 55;
  constexpr uint8_t kSampled = 1;
  if (text.size() < kBytes || text[2] != '-' || text[35] != '-' || text[52] != '-') {
    return std::nullopt;
  }
  uint8_t version = 0;
  uint8_t flags = 0;
  TraceContext context;
  if (!ReadHex(text.substr(0, 2), &version) ||
      !ReadHex(text.substr(3, 32), context.trace_id.data()) ||
      !ReadHex(text.substr(36, 16), context.parent_span_id.data()) ||
      !ReadHex(text.substr(53, 2), &flags)) {
    return std::nullopt;
  }
  if (version == 0xff || (version == 0 && text.size() != kBytes) ||
      (text.size() > kBytes && text[kBytes] != '-') || AllZero(context.trace_id) ||
      AllZero(context.parent_span_id)) {
    return std::nullopt;
  }
  context.sampled = (flags & kSampled) != 0;
  return context;
}

TraceContext NewTrace(double ratio) {
  TraceContext context;
  const uint64_t high = RandomBits() | 1;  // not all zero
  const uint64_t low = RandomBits();
  memcpy(context.trace_id.data(), &high, sizeof(high));
  memcpy(context.trace_id.data() + sizeof(high), &low, sizeof(low));
  // 53 bits, as many as a double holds.
  context.sampled = static_cast<double>(low >> 11) < ratio * 0x1p53;
  return context;
}

}  // namespace t2r::server
