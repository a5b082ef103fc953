// Any bytes as a snapshot, as they are and with the length and CRC that belong to them: refused, or
// a state that is written as the same bytes.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "engine/ops/batch.h"
#include "engine/snapshot/crc32c.h"
#include "engine/snapshot/snapshot.h"

namespace {

constexpr char kClass[] = "class";

t2r::ExecutorLimits Limits(bool encoder) {
  t2r::ExecutorLimits limits;
  limits.vocab_size = 300;
  limits.state_bytes = 16;
  limits.kv_bytes_per_position = 1;
  limits.kv_pages = 4;
  if (encoder) {
    limits.max_source = 70;
    limits.source_kv_bytes_per_position = 1;
  }
  return limits;
}

void Check(const std::string& bytes) {
  for (const bool encoder : {false, true}) {
    const auto state = t2r::ReadSnapshot(bytes, kClass, Limits(encoder));
    if (state.ok() && t2r::WriteSnapshot(*state, kClass) != bytes) std::abort();
  }
}

}  // namespace

std::vector<std::string> FuzzSeeds() {
  t2r::SessionState state;
  state.slot.positions = 65;
  state.slot.history = {{5, 1, 0, true}, {200, 0, 0, true}};
  state.slot.state.resize(16);
  state.slot.pages.resize(2 * t2r::kKvPageSize);
  state.last_token = 5;
  std::vector<std::string> seeds = {t2r::WriteSnapshot(state, kClass)};
  state.stop = {"<end>", "ab"};
  state.held = {"a", "<en", std::string(3, '\1')};
  state.decoder.code_point = "\xE2\x82";
  state.sampling.logit_bias = {{7, 1.0F}};
  seeds.push_back(t2r::WriteSnapshot(state, kClass));
  state.slot.source = 3;
  state.slot.source_pages.resize(t2r::kKvPageSize);
  seeds.push_back(t2r::WriteSnapshot(state, kClass));
  return seeds;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string bytes(reinterpret_cast<const char*>(data), size);
  Check(bytes);
  constexpr size_t kLengthAt = 12;
  if (bytes.size() < kLengthAt + sizeof(uint64_t) + sizeof(uint32_t)) return 0;
  const uint64_t length = bytes.size();
  std::memcpy(bytes.data() + kLengthAt, &length, sizeof length);
  const size_t covered = bytes.size() - sizeof(uint32_t);
  const uint32_t crc = t2r::Crc32c(std::string_view(bytes).substr(0, covered));
  std::memcpy(bytes.data() + covered, &crc, sizeof crc);
  Check(bytes);
  return 0;
}
