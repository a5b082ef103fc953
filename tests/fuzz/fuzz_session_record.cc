// Any bytes as a session's record, as they are and with the CRC that belongs to them: refused, or a
// record that is written as the same bytes, or, of an older version, as bytes that stay the same.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "engine/sessions/session_record.h"
#include "engine/snapshot/crc32c.h"

namespace {

void Check(const std::string& bytes) {
  const auto record = t2r::DecodeRecord({"owner", "id"}, bytes);
  if (!record.ok()) return;
  const std::string written = t2r::EncodeRecord(*record);
  if (bytes[0] == written[0]) {  // the version
    if (written != bytes) std::abort();
    return;
  }
  const auto again = t2r::DecodeRecord({"owner", "id"}, written);
  if (!again.ok() || t2r::EncodeRecord(*again) != written) std::abort();
}

}  // namespace

std::vector<std::string> FuzzSeeds() {
  t2r::SessionRecord record;
  record.info.position = 65;
  record.info.bytes = 1000;
  record.info.created = record.info.used = absl::FromUnixSeconds(1'700'000'000);
  record.info.expires = absl::FromUnixSeconds(1'800'000'000);
  record.info.ttl = absl::Hours(24);
  record.state = 7;
  std::vector<std::string> seeds = {t2r::EncodeRecord(record)};
  t2r::TurnParameters& turn = record.turn.emplace();
  turn.start = 60;
  turn.prompt = {1, 2, 3};
  turn.source = {4};
  turn.max_tokens = 100;
  turn.stop = {"end", "\n"};
  turn.stop_token_ids = {5};
  turn.sampling.logit_bias = {{7, 1.0F}};
  record.turn_over = true;
  record.before = 8;
  record.checkpoints = {{9, 64}, {10, 128}};
  seeds.push_back(t2r::EncodeRecord(record));
  return seeds;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string bytes(reinterpret_cast<const char*>(data), size);
  Check(bytes);
  if (bytes.size() < sizeof(uint32_t)) return 0;
  const size_t covered = bytes.size() - sizeof(uint32_t);
  const uint32_t crc = t2r::Crc32c(std::string_view(bytes).substr(0, covered));
  std::memcpy(bytes.data() + covered, &crc, sizeof crc);
  Check(bytes);
  return 0;
}
