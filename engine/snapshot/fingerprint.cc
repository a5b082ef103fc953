#include "engine/snapshot/fingerprint.h"

#include <bit>
#include <cstddef>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace t2r {
namespace {

// Odd, with about as many ones as zeros: multiplication spreads every bit upwards, the rotation
// brings what has gathered at the top back down.
constexpr uint64_t kMultiplier = 0x9FB21C651E98DF25;

uint64_t Stir(uint64_t lane, uint64_t word) {
  return std::rotl((lane ^ word) * kMultiplier, 29) + word;
}

uint64_t Finish(uint64_t value) {
  value = (value ^ value >> 32) * kMultiplier;
  value = (value ^ value >> 29) * kMultiplier;
  return value ^ value >> 32;
}

}  // namespace

void Fingerprint::Add(std::string_view bytes) {
  lanes_[0] = Stir(lanes_[0], bytes.size());
  constexpr size_t kBlock = 32;
  const auto take = [this](const char* block) {
    for (size_t i = 0; i < lanes_.size(); ++i) {
      uint64_t word = 0;
      std::memcpy(&word, block + 8 * i, sizeof word);
      lanes_[i] = Stir(lanes_[i], word);
    }
  };
  while (bytes.size() >= kBlock) {
    take(bytes.data());
    bytes.remove_prefix(kBlock);
  }
  if (!bytes.empty()) {
    std::array<char, kBlock> last = {};
    std::memcpy(last.data(), bytes.data(), bytes.size());
    take(last.data());
  }
}

std::string Fingerprint::Hex() const {
  const uint64_t high = Finish(Stir(Stir(lanes_[0], lanes_[1]), Finish(lanes_[2] ^ lanes_[3])));
  const uint64_t low = Finish(Stir(Stir(lanes_[2], lanes_[3]), Finish(lanes_[1] + lanes_[0])));
  return absl::StrCat(absl::Hex(high, absl::kZeroPad16), absl::Hex(low, absl::kZeroPad16));
}

}  // namespace t2r
