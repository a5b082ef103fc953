#include <array>
#include <cstdint>

#include "engine/sampling/sampler.h"

namespace t2r {
namespace {

// Philox4x32-10: ten rounds of two 32×32→64-bit products, the key stepped by Weyl constants.
std::array<uint32_t, 4> Philox(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53} * counter[0];
    const uint64_t b = uint64_t{0xCD9E8D57} * counter[2];
    counter = {static_cast<uint32_t>(b >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(b),
               static_cast<uint32_t>(a >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(a)};
    key[0] += 0x9E3779B9U;
    key[1] += 0xBB67AE85U;
  }
  return counter;
}

}  // namespace

uint64_t CounterBits(uint64_t seed, uint64_t sequence, uint64_t position) {
  const auto bits = Philox({static_cast<uint32_t>(position), static_cast<uint32_t>(position >> 32),
                            static_cast<uint32_t>(sequence), static_cast<uint32_t>(sequence >> 32)},
                           {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
  const uint64_t word = uint64_t{bits[1]} << 32 | bits[0];
  return word >> 11;
}

double CounterUniform(uint64_t seed, uint64_t sequence, uint64_t position) {
  return static_cast<double>(CounterBits(seed, sequence, position)) * 0x1p-53;
}

}  // namespace t2r
