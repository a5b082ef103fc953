#include "engine/snapshot/snapshot.h"

#include <cstddef>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/ops/batch.h"
#include "engine/snapshot/byte_io.h"
#include "engine/snapshot/crc32c.h"
#include "engine/text/utf8.h"

namespace t2r {
namespace {

constexpr std::string_view kMagic("T2RSNAP\0", 8);
constexpr size_t kCrcBytes = sizeof(uint32_t);
// Magic, version, length, CRC: what every version begins and ends with.
constexpr size_t kFrameBytes = 8 + sizeof(uint32_t) + sizeof(uint64_t) + kCrcBytes;
constexpr size_t kHistoryEntryBytes = 9;

// Bounds of what a request may have left behind, above any server's own.
constexpr uint64_t kMaxClassBytes = 1024;
constexpr uint64_t kMaxStops = 256;
constexpr uint64_t kMaxStopBytes = 4096;
// Positions are counted on from here without overflow, and exact in any client's numbers.
constexpr int64_t kMaxPosition = int64_t{1} << 53;

void WriteText(const SessionState& state, ByteWriter* out) {
  out->Number<uint64_t>(state.stop.size());
  for (const std::string& stop : state.stop) out->Bytes(stop);
  out->Number<uint8_t>(state.include_stop ? 1 : 0);
  out->Number<uint8_t>(state.decoder.start.open ? 1 : 0);
  out->Number<uint8_t>(state.decoder.start.first ? 1 : 0);
  out->Bytes(state.decoder.code_point);
  out->Bytes(state.held.text);
  out->Bytes(state.held.named);
  out->Bytes(state.held.in_name);
}

void ReadText(ByteReader& in, SessionState* state) {
  const size_t stops = in.Count("stop", kMaxStops, sizeof(uint64_t));
  for (size_t i = 0; i < stops; ++i) state->stop.emplace_back(in.Bytes("stop", kMaxStopBytes));
  state->include_stop = in.Flag("include_stop");
  state->decoder.start.open = in.Flag("text start");
  state->decoder.start.first = in.Flag("text start");
  state->decoder.code_point = in.Bytes("code point", 3);
  state->held.text = in.Bytes("held text", kMaxStopBytes);
  state->held.named = in.Bytes("held names", kMaxStopBytes);
  state->held.in_name = in.Bytes("held names", kMaxStopBytes);
  if (!in.ok()) return;
  Utf8Sanitizer utf8;
  std::string whole;
  utf8.Append(state->decoder.code_point, &whole);
  if (!whole.empty() || utf8.pending() != state->decoder.code_point) {
    in.Refuse("code point", "is not the beginning of one");
  }
  if (!StopMatcher(state->stop, state->include_stop).Resume(state->held)) {
    in.Refuse("held text", "is not the beginning of one of its stop strings");
  }
}

void WriteHistory(const std::vector<TokenAdjustment>& history, ByteWriter* out) {
  out->Number<uint64_t>(history.size());
  for (const TokenAdjustment& entry : history) {
    out->Number(entry.token);
    out->Number(entry.generated);
    out->Number<uint8_t>(entry.seen ? 1 : 0);
  }
}

std::vector<TokenAdjustment> ReadHistory(ByteReader& in, int vocab_size) {
  const size_t count = in.Count("history", static_cast<uint64_t>(vocab_size), kHistoryEntryBytes);
  std::vector<TokenAdjustment> history(count);
  int32_t least = 0;  // that the next token may be
  for (TokenAdjustment& entry : history) {
    entry.token = in.Number<int32_t>("history");
    entry.generated = in.Number<int32_t>("history");
    entry.seen = in.Flag("history");
    if (entry.token < least || entry.token >= vocab_size) {
      in.Refuse("history", "names tokens that are not of the vocabulary, or not in order");
    }
    if (entry.generated < 0) in.Refuse("history", "counts below 0");
    if (!in.ok()) return {};
    least = entry.token + 1;
  }
  return history;
}

int64_t PageBytes(int64_t positions, int64_t bytes_per_position) {
  return (positions + kKvPageSize - 1) / kKvPageSize * kKvPageSize * bytes_per_position;
}

void CheckSize(ByteReader& in, const SlotState& slot, const ExecutorLimits& limits) {
  const int64_t most = limits.max_positions() > 0 ? limits.max_positions() : kMaxPosition;
  if (slot.positions < 1 || slot.positions > most) {
    in.Refuse("position", absl::StrCat("is ", slot.positions, ", outside [1, ", most, "]"));
  }
  const int64_t least = limits.max_source > 0 ? 1 : 0;
  if (slot.source < least || slot.source > limits.max_source) {
    in.Refuse("source", absl::StrCat("has ", slot.source, " tokens, outside [", least, ", ",
                                     limits.max_source, "]"));
  }
}

// As a request's own sampling is held to (engine/scheduler/validate.cc), whatever options a server
// has.
void CheckSampling(ByteReader& in, const SamplingParams& sampling, int vocab_size) {
  const auto check = [&in](const char* field, float value, float low, float high, bool open) {
    if ((open ? value > low : value >= low) && value <= high) return;  // false for NaN
    in.Refuse(field,
              absl::StrCat("is ", value, ", outside ", open ? "(" : "[", low, ", ", high, "]"));
  };
  check("temperature", sampling.temperature, 0, 100, false);
  check("top_p", sampling.top_p, 0, 1, true);
  check("min_p", sampling.min_p, 0, 1, false);
  check("repetition_penalty", sampling.repetition_penalty, 0, 100, true);
  check("frequency_penalty", sampling.frequency_penalty, -2, 2, false);
  check("presence_penalty", sampling.presence_penalty, -2, 2, false);
  if (sampling.top_k < 0) in.Refuse("top_k", absl::StrCat("is ", sampling.top_k, ", below 0"));
  for (const auto& [token, bias] : sampling.logit_bias) {
    if (token < 0 || token >= vocab_size) {
      in.Refuse("logit_bias",
                absl::StrCat("names token ", token, ", outside the vocabulary of ", vocab_size));
    }
    check("logit_bias", bias, -100, 100, false);
  }
}

// Numbers that a session cannot have: with one of them every next token would fail. What is kept is
// float32 or pairs of bfloat16, whose second one has the exponent where float32 has its own.
void CheckFinite(ByteReader& in, const char* field, const std::vector<std::byte>& numbers) {
  constexpr uint32_t kExponent = 0x7f800000;
  bool finite = true;
  for (size_t at = 0; at + sizeof(uint32_t) <= numbers.size(); at += sizeof(uint32_t)) {
    uint32_t bits = 0;
    std::memcpy(&bits, numbers.data() + at, sizeof bits);
    finite &= (bits & kExponent) != kExponent;
  }
  if (!finite) in.Refuse(field, "has a number that is not finite (NaN or infinity)");
}

SessionState ReadState(ByteReader& in, const ExecutorLimits& limits) {
  SessionState state;
  SlotState& slot = state.slot;
  slot.positions = in.Number<int64_t>("position");
  slot.source = in.Number<int64_t>("source");
  CheckSize(in, slot, limits);
  state.last_token = in.Number<int32_t>("last token");
  if (state.last_token < 0 || state.last_token >= limits.vocab_size) {
    in.Refuse("last token", absl::StrCat("is ", state.last_token, ", outside the vocabulary of ",
                                         limits.vocab_size));
  }
  state.sampling = ReadSampling(in);
  if (in.ok()) CheckSampling(in, state.sampling, limits.vocab_size);
  ReadText(in, &state);
  slot.history = ReadHistory(in, limits.vocab_size);
  if (!in.ok()) return state;
  in.Exactly("state", static_cast<size_t>(limits.state_bytes), &slot.state);
  in.Exactly("pages", static_cast<size_t>(PageBytes(slot.positions, limits.kv_bytes_per_position)),
             &slot.pages);
  in.Exactly("source pages",
             static_cast<size_t>(PageBytes(slot.source, limits.source_kv_bytes_per_position)),
             &slot.source_pages);
  CheckFinite(in, "state", slot.state);
  CheckFinite(in, "pages", slot.pages);
  CheckFinite(in, "source pages", slot.source_pages);
  if (in.left() > 0) in.Refuse("end", absl::StrCat("is followed by ", in.left(), " bytes"));
  return state;
}

}  // namespace

std::string WriteSnapshot(const SessionState& state, const std::string& exactness_class) {
  const SlotState& slot = state.slot;
  ByteWriter out;
  out.Reserve(static_cast<size_t>(slot.bytes()) + 4096);
  out.Raw(kMagic);
  out.Number(kSnapshotVersion);
  const size_t length_at = out.out().size();
  out.Number<uint64_t>(0);
  out.Bytes(exactness_class);
  out.Number(slot.positions);
  out.Number(slot.source);
  out.Number(state.last_token);
  WriteSampling(state.sampling, &out);
  WriteText(state, &out);
  WriteHistory(slot.history, &out);
  out.Bytes(slot.state.data(), slot.state.size());
  out.Bytes(slot.pages.data(), slot.pages.size());
  out.Bytes(slot.source_pages.data(), slot.source_pages.size());
  const uint64_t length = out.out().size() + kCrcBytes;
  std::memcpy(out.out().data() + length_at, &length, sizeof length);
  out.Number(Crc32c(out.out()));
  return std::move(out.out());
}

absl::StatusOr<SessionState> ReadSnapshot(std::string_view bytes,
                                          const std::string& exactness_class,
                                          const ExecutorLimits& limits, bool allow_inexact) {
  if (bytes.substr(0, kMagic.size()) != kMagic) {
    return absl::InvalidArgumentError("this is no snapshot of a session: it does not begin as one");
  }
  if (bytes.size() < kFrameBytes) return absl::DataLossError("the snapshot is cut off");
  ByteReader frame(bytes.substr(kMagic.size()));
  const auto version = frame.Number<uint32_t>("version");
  if (version != kSnapshotVersion) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the snapshot's version is ", version, "; this server reads version ", kSnapshotVersion));
  }
  const auto length = frame.Number<uint64_t>("length");
  if (length != bytes.size()) {
    return absl::DataLossError(absl::StrCat("the snapshot has ", bytes.size(), " bytes of ", length,
                                            ": it was cut off or something was added"));
  }
  const std::string_view covered = bytes.substr(0, bytes.size() - kCrcBytes);
  const auto crc = ByteReader(bytes.substr(covered.size())).Number<uint32_t>("CRC");
  if (crc != Crc32c(covered)) {
    return absl::DataLossError("the snapshot is damaged: its CRC-32C is not that of its bytes");
  }
  ByteReader in(covered.substr(kFrameBytes - kCrcBytes));
  const std::string_view its_class = in.Bytes("exactness class", kMaxClassBytes);
  if (in.ok() && its_class != exactness_class && !allow_inexact) {
    return absl::FailedPreconditionError(
        absl::StrCat("the snapshot is of the exactness class \"", std::string(its_class),
                     "\" and this server of \"", exactness_class, "\""));
  }
  SessionState state = ReadState(in, limits);
  if (!in.ok()) return in.fault();
  return state;
}

int64_t MaxSnapshotBytes(const ExecutorLimits& limits, int64_t positions) {
  constexpr int64_t kRest = 4 << 20;  // class, parameters, stop strings
  int64_t pages = 0;
  int64_t bytes = 0;
  if (positions > kMaxPosition ||
      __builtin_mul_overflow((positions + kKvPageSize - 1) / kKvPageSize * kKvPageSize,
                             limits.kv_bytes_per_position, &pages) ||
      __builtin_add_overflow(limits.state_bytes, pages, &bytes) ||
      __builtin_add_overflow(
          bytes, PageBytes(limits.max_source, limits.source_kv_bytes_per_position), &bytes) ||
      __builtin_add_overflow(
          bytes, static_cast<int64_t>(limits.vocab_size * kHistoryEntryBytes) + kRest, &bytes)) {
    return INT64_MAX;
  }
  return bytes;
}

}  // namespace t2r
