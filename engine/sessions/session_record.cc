#include "engine/sessions/session_record.h"

#include <algorithm>
#include <random>

#include "absl/strings/str_cat.h"
#include "engine/snapshot/byte_io.h"
#include "engine/snapshot/crc32c.h"

namespace t2r {
namespace {

constexpr uint32_t kRecordVersion = 3;
constexpr uint32_t kOneCheckpointVersion = 2;  // read too: a name, 0 for none, and a position
// Above any server's own bounds.
constexpr uint64_t kMaxIds = uint64_t{1} << 30;
constexpr uint64_t kMaxStops = 256;
constexpr uint64_t kMaxStopBytes = 4096;
constexpr int64_t kMaxPosition = int64_t{1} << 53;

void WriteIds(const std::vector<int32_t>& ids, ByteWriter* out) {
  out->Number<uint64_t>(ids.size());
  for (const int32_t id : ids) out->Number(id);
}

std::vector<int32_t> ReadIds(ByteReader& in, const char* field) {
  const size_t count = in.Count(field, kMaxIds, sizeof(int32_t));
  std::vector<int32_t> ids(count);
  for (int32_t& id : ids) {
    id = in.Number<int32_t>(field);
    if (id < 0) in.Refuse(field, "holds an id below 0");
  }
  return ids;
}

int64_t ReadPosition(ByteReader& in, const char* field) {
  const auto value = in.Number<int64_t>(field);
  if (value < 0 || value > kMaxPosition) {
    in.Refuse(field, absl::StrCat("is ", value, ", outside [0, ", kMaxPosition, "]"));
    return 0;
  }
  return value;
}

absl::Time ReadTime(ByteReader& in, const char* field) {
  return absl::FromUnixNanos(in.Number<int64_t>(field));
}

void WriteTurn(const TurnParameters& turn, ByteWriter* out) {
  out->Number(turn.start);
  WriteIds(turn.prompt, out);
  WriteIds(turn.source, out);
  out->Number(turn.max_tokens);
  WriteSampling(turn.sampling, out);
  out->Number<uint64_t>(turn.stop.size());
  for (const std::string& stop : turn.stop) out->Bytes(stop);
  out->Number<uint8_t>(turn.include_stop ? 1 : 0);
  WriteIds(turn.stop_token_ids, out);
  out->Number<uint8_t>(turn.ignore_eos ? 1 : 0);
  out->Number(turn.top_logprobs);
}

TurnParameters ReadTurn(ByteReader& in) {
  TurnParameters turn;
  turn.start = ReadPosition(in, "turn's start");
  turn.prompt = ReadIds(in, "prompt");
  turn.source = ReadIds(in, "source");
  turn.max_tokens = ReadPosition(in, "max_tokens");
  turn.sampling = ReadSampling(in);
  const size_t stops = in.Count("stop", kMaxStops, sizeof(uint64_t));
  for (size_t i = 0; i < stops; ++i) turn.stop.emplace_back(in.Bytes("stop", kMaxStopBytes));
  turn.include_stop = in.Flag("include_stop");
  turn.stop_token_ids = ReadIds(in, "stop_token_ids");
  turn.ignore_eos = in.Flag("ignore_eos");
  turn.top_logprobs = in.Number<int32_t>("logprobs");
  if (turn.top_logprobs < 0) in.Refuse("logprobs", "is below 0");
  return turn;
}

}  // namespace

StateName NewStateName() {
  std::random_device device;
  StateName name = 0;
  while (name == 0) name = (uint64_t{device()} << 32) | device();
  return name;
}

void SessionRecord::AddCheckpoint(Checkpoint checkpoint) {
  std::erase_if(checkpoints, [&checkpoint](const Checkpoint& other) {
    return other.position >= checkpoint.position;
  });
  checkpoints.push_back(checkpoint);
  if (checkpoints.size() > kMaxCheckpoints) checkpoints.erase(checkpoints.begin());
}

std::vector<StateName> SessionRecord::states() const {
  std::vector<StateName> names = {state, before};
  for (const Checkpoint& checkpoint : checkpoints) names.push_back(checkpoint.name);
  std::erase(names, StateName{0});
  return names;
}

std::vector<StateName> DroppedStates(const SessionRecord& before, const SessionRecord& after) {
  const std::vector<StateName> stay = after.states();
  std::vector<StateName> names = before.states();
  std::erase_if(names, [&stay](StateName name) {
    return std::find(stay.begin(), stay.end(), name) != stay.end();
  });
  return names;
}

std::string EncodeRecord(const SessionRecord& record) {
  ByteWriter out;
  out.Number(kRecordVersion);
  out.Number(record.info.position);
  out.Number(record.info.bytes);
  out.Number(absl::ToUnixNanos(record.info.created));
  out.Number(absl::ToUnixNanos(record.info.used));
  out.Number(absl::ToUnixNanos(record.info.expires));
  out.Number(absl::ToInt64Nanoseconds(record.info.ttl));
  out.Number(record.state);
  out.Number<uint8_t>(record.turn ? 1 : 0);
  if (record.turn) WriteTurn(*record.turn, &out);
  out.Number<uint8_t>(record.turn_over ? 1 : 0);
  out.Number(record.before);
  out.Number<uint64_t>(record.checkpoints.size());
  for (const SessionRecord::Checkpoint& checkpoint : record.checkpoints) {
    out.Number(checkpoint.name);
    out.Number(checkpoint.position);
  }
  out.Number(Crc32c(out.out()));
  return std::move(out.out());
}

absl::StatusOr<SessionRecord> DecodeRecord(const SessionKey& key, std::string_view bytes) {
  const auto damaged = [&key](const std::string& why) {
    return absl::DataLossError(absl::StrCat("the record of session ", key.id, " ", why));
  };
  if (bytes.size() < 2 * sizeof(uint32_t)) return damaged("is cut off");
  const std::string_view covered = bytes.substr(0, bytes.size() - sizeof(uint32_t));
  const auto crc = ByteReader(bytes.substr(covered.size())).Number<uint32_t>("CRC");
  ByteReader in(covered, "the session's record");
  const auto version = in.Number<uint32_t>("version");
  if (version != kRecordVersion && version != kOneCheckpointVersion) {
    return damaged(absl::StrCat("has the version ", version, "; this server reads versions ",
                                kOneCheckpointVersion, " and ", kRecordVersion));
  }
  if (crc != Crc32c(covered)) return damaged("is damaged: its CRC-32C is not that of its bytes");
  SessionRecord record;
  SessionInfo& info = record.info;
  info.owner = key.owner;
  info.id = key.id;
  info.position = ReadPosition(in, "position");
  info.bytes = ReadPosition(in, "bytes");
  info.created = ReadTime(in, "creation time");
  info.used = ReadTime(in, "time of use");
  info.expires = ReadTime(in, "expiry");
  const auto ttl = in.Number<int64_t>("ttl");
  if (ttl < 0) in.Refuse("ttl", "is below 0");
  info.ttl = absl::Nanoseconds(ttl);
  record.state = in.Number<StateName>("state's name");
  if (in.Flag("turn")) record.turn = ReadTurn(in);
  record.turn_over = in.Flag("turn's end");
  record.before = in.Number<StateName>("state's name");
  record.checkpoints.resize(
      version == kOneCheckpointVersion
          ? 1
          : in.Count("checkpoints", kMaxCheckpoints, sizeof(StateName) + sizeof(int64_t)));
  for (SessionRecord::Checkpoint& checkpoint : record.checkpoints) {
    checkpoint.name = in.Number<StateName>("checkpoint's name");
    checkpoint.position = ReadPosition(in, "checkpoint's position");
  }
  if (version == kOneCheckpointVersion && record.checkpoints[0].name == 0) {
    record.checkpoints.clear();
  }
  if (in.left() > 0) in.Refuse("end", absl::StrCat("is followed by ", in.left(), " bytes"));
  if (!in.ok()) return damaged(absl::StrCat("cannot be read: ", in.fault().message()));
  return record;
}

}  // namespace t2r
