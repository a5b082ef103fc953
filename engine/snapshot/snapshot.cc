#include "engine/snapshot/snapshot.h"

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstring>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/ops/batch.h"
#include "engine/snapshot/crc32c.h"
#include "engine/text/utf8.h"

namespace t2r {
namespace {

static_assert(std::endian::native == std::endian::little);

constexpr std::string_view kMagic("T2RSNAP\0", 8);
constexpr size_t kCrcBytes = sizeof(uint32_t);
// Magic, version, length, CRC: what every version begins and ends with.
constexpr size_t kFrameBytes = 8 + sizeof(uint32_t) + sizeof(uint64_t) + kCrcBytes;
constexpr size_t kHistoryEntryBytes = 9;

// Bounds of what a request may have left behind, above any server's own.
constexpr uint64_t kMaxClassBytes = 1024;
constexpr uint64_t kMaxBiases = 65536;
constexpr uint64_t kMaxStops = 256;
constexpr uint64_t kMaxStopBytes = 4096;
// Positions are counted on from here without overflow, and exact in any client's numbers.
constexpr int64_t kMaxPosition = int64_t{1} << 53;

class Writer {
 public:
  template <typename T>
  void Number(T value) {
    static_assert(std::is_arithmetic_v<T>);
    out_.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  // With its length before it.
  void Bytes(const void* data, size_t size) {
    Number<uint64_t>(size);
    if (size > 0) out_.append(static_cast<const char*>(data), size);
  }
  void Bytes(std::string_view text) { Bytes(text.data(), text.size()); }
  void Raw(std::string_view text) { out_.append(text); }
  void Reserve(size_t size) { out_.reserve(size); }
  std::string& out() { return out_; }

 private:
  std::string out_;
};

// Reads what Writer wrote; after the first thing that is not there everything is zero or empty, and
// fault() says what it was.
class Reader {
 public:
  explicit Reader(std::string_view bytes) : bytes_(bytes) {}

  template <typename T>
  T Number(const char* field) {
    T value = {};
    const std::string_view raw = Take(field, sizeof value);
    if (!raw.empty()) std::memcpy(&value, raw.data(), sizeof value);
    return value;
  }
  bool Flag(const char* field) {
    const auto value = Number<uint8_t>(field);
    if (value > 1) Refuse(field, absl::StrCat("is ", int{value}, ", neither 0 nor 1"));
    return value == 1;
  }
  // The length of a list of entries of at least `entry_bytes` each: no more than there is room for.
  size_t Count(const char* field, uint64_t most, size_t entry_bytes) {
    const auto count = Number<uint64_t>(field);
    if (count > most) {
      Refuse(field, absl::StrCat("has the length ", count, ", more than ", most));
    } else if (count > bytes_.size() / entry_bytes) {
      Refuse(field, absl::StrCat("has the length ", count, ", more than what is left holds"));
    }
    return fault_.ok() ? static_cast<size_t>(count) : 0;
  }
  std::string_view Bytes(const char* field, uint64_t most) {
    const size_t size = Count(field, most, 1);
    return Take(field, size);
  }
  void Exactly(const char* field, size_t size, std::vector<std::byte>* out) {
    const auto count = Number<uint64_t>(field);
    if (fault_.ok() && count != size) {
      Refuse(field, absl::StrCat("has ", count, " bytes; this model's has ", size));
    }
    const std::string_view raw = Take(field, size);
    if (!fault_.ok()) return;
    const auto* data = reinterpret_cast<const std::byte*>(raw.data());
    out->assign(data, data + raw.size());
  }
  void Refuse(const char* field, const std::string& why) {
    if (!fault_.ok()) return;
    fault_ = absl::InvalidArgumentError(absl::StrCat("the snapshot's ", field, " ", why));
  }
  bool ok() const { return fault_.ok(); }
  const absl::Status& fault() const { return fault_; }
  size_t left() const { return bytes_.size(); }

 private:
  std::string_view Take(const char* field, size_t size) {
    if (size > bytes_.size()) Refuse(field, "is not there: the snapshot ends before");
    if (!fault_.ok()) return {};
    const std::string_view taken = bytes_.substr(0, size);
    bytes_.remove_prefix(size);
    return taken;
  }

  std::string_view bytes_;
  absl::Status fault_;
};

void WriteSampling(const SamplingParams& sampling, Writer* out) {
  out->Number(sampling.temperature);
  out->Number(sampling.top_k);
  out->Number(sampling.top_p);
  out->Number(sampling.min_p);
  out->Number(sampling.repetition_penalty);
  out->Number(sampling.frequency_penalty);
  out->Number(sampling.presence_penalty);
  out->Number(sampling.seed);
  out->Number(sampling.sequence);
  out->Number<uint64_t>(sampling.logit_bias.size());
  for (const auto& [token, bias] : sampling.logit_bias) {
    out->Number(token);
    out->Number(bias);
  }
}

// Their ranges are checked with every request, whatever it takes over from the session.
SamplingParams ReadSampling(Reader& in) {
  SamplingParams sampling;
  sampling.temperature = in.Number<float>("temperature");
  sampling.top_k = in.Number<int32_t>("top_k");
  sampling.top_p = in.Number<float>("top_p");
  sampling.min_p = in.Number<float>("min_p");
  sampling.repetition_penalty = in.Number<float>("repetition_penalty");
  sampling.frequency_penalty = in.Number<float>("frequency_penalty");
  sampling.presence_penalty = in.Number<float>("presence_penalty");
  sampling.seed = in.Number<uint64_t>("seed");
  sampling.sequence = in.Number<uint64_t>("sequence");
  const size_t biases = in.Count("logit_bias", kMaxBiases, sizeof(int32_t) + sizeof(float));
  for (size_t i = 0; i < biases; ++i) {
    const auto token = in.Number<int32_t>("logit_bias");
    sampling.logit_bias.emplace_back(token, in.Number<float>("logit_bias"));
  }
  return sampling;
}

void WriteText(const SessionState& state, Writer* out) {
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

void ReadText(Reader& in, SessionState* state) {
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

void WriteHistory(const std::vector<TokenAdjustment>& history, Writer* out) {
  out->Number<uint64_t>(history.size());
  for (const TokenAdjustment& entry : history) {
    out->Number(entry.token);
    out->Number(entry.generated);
    out->Number<uint8_t>(entry.seen ? 1 : 0);
  }
}

std::vector<TokenAdjustment> ReadHistory(Reader& in, int vocab_size) {
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

void CheckSize(Reader& in, const SlotState& slot, const ExecutorLimits& limits) {
  int64_t most = limits.position_limit > 0 ? limits.position_limit : kMaxPosition;
  if (limits.kv_pages > 0) most = std::min(most, limits.kv_pages * kKvPageSize);
  if (slot.positions < 1 || slot.positions > most) {
    in.Refuse("position", absl::StrCat("is ", slot.positions, ", outside [1, ", most, "]"));
  }
  const int64_t least = limits.max_source > 0 ? 1 : 0;
  if (slot.source < least || slot.source > limits.max_source) {
    in.Refuse("source", absl::StrCat("has ", slot.source, " tokens, outside [", least, ", ",
                                     limits.max_source, "]"));
  }
}

SessionState ReadState(Reader& in, const ExecutorLimits& limits) {
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
  ReadText(in, &state);
  slot.history = ReadHistory(in, limits.vocab_size);
  if (!in.ok()) return state;
  in.Exactly("state", static_cast<size_t>(limits.state_bytes), &slot.state);
  in.Exactly("pages", static_cast<size_t>(PageBytes(slot.positions, limits.kv_bytes_per_position)),
             &slot.pages);
  in.Exactly("source pages",
             static_cast<size_t>(PageBytes(slot.source, limits.source_kv_bytes_per_position)),
             &slot.source_pages);
  if (in.left() > 0) in.Refuse("end", absl::StrCat("is followed by ", in.left(), " bytes"));
  return state;
}

}  // namespace

std::string WriteSnapshot(const SessionState& state, const std::string& exactness_class) {
  const SlotState& slot = state.slot;
  Writer out;
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
                                          const ExecutorLimits& limits) {
  if (bytes.substr(0, kMagic.size()) != kMagic) {
    return absl::InvalidArgumentError("this is no snapshot of a session: it does not begin as one");
  }
  if (bytes.size() < kFrameBytes) return absl::DataLossError("the snapshot is cut off");
  Reader frame(bytes.substr(kMagic.size()));
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
  const auto crc = Reader(bytes.substr(covered.size())).Number<uint32_t>("CRC");
  if (crc != Crc32c(covered)) {
    return absl::DataLossError("the snapshot is damaged: its CRC-32C is not that of its bytes");
  }
  Reader in(covered.substr(kFrameBytes - kCrcBytes));
  const std::string_view its_class = in.Bytes("exactness class", kMaxClassBytes);
  if (in.ok() && its_class != exactness_class) {
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
