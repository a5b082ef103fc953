#include "engine/snapshot/snapshot.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <string>

#include "engine/ops/batch.h"
#include "engine/snapshot/crc32c.h"
#include "engine/snapshot/fingerprint.h"

namespace t2r {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr char kClass[] = "model 00ff, cpu AVX2, weights float32";

ExecutorLimits Limits() {
  ExecutorLimits limits;
  limits.vocab_size = 50;
  limits.position_limit = 300;
  limits.kv_pages = 8;
  limits.state_bytes = 24;
  limits.kv_bytes_per_position = 2;
  limits.max_source = 100;
  limits.source_kv_bytes_per_position = 1;
  return limits;
}

// Bytes that are finite numbers, whatever their type.
std::vector<std::byte> Pattern(size_t size, int salt) {
  std::vector<std::byte> bytes(size);
  for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>((i * 7 + salt) & 0x7e);
  return bytes;
}

SessionState State() {
  SessionState state;
  state.slot.positions = 70;
  state.slot.source = 9;
  state.slot.history = {{3, 2, 0, true}, {17, 0, 0, true}, {49, 1, 0, false}};
  state.slot.state = Pattern(24, 1);
  state.slot.pages = Pattern(2 * kKvPageSize * 2, 2);
  state.slot.source_pages = Pattern(kKvPageSize, 3);
  state.last_token = 49;
  state.sampling.temperature = 0.5F;
  state.sampling.top_k = 7;
  state.sampling.top_p = 0.75F;
  state.sampling.min_p = 0.125F;
  state.sampling.repetition_penalty = 1.5F;
  state.sampling.frequency_penalty = -0.5F;
  state.sampling.presence_penalty = 0.25F;
  state.sampling.seed = 0xFEDCBA9876543210;
  state.sampling.sequence = 3;
  state.sampling.logit_bias = {{4, -100.0F}, {8, 2.5F}};
  state.stop = {"END", "x<e>y"};
  state.include_stop = true;
  state.decoder.start = {false, false};
  state.decoder.code_point = "\xE2\x82";
  state.held = {"EN", "", ""};
  return state;
}

// `bytes` with another value at `at`, and the CRC that belongs to that.
template <typename T>
std::string With(std::string bytes, size_t at, T value) {
  std::memcpy(bytes.data() + at, &value, sizeof value);
  const uint32_t crc = Crc32c(std::string_view(bytes).substr(0, bytes.size() - 4));
  std::memcpy(bytes.data() + bytes.size() - 4, &crc, sizeof crc);
  return bytes;
}

absl::Status Read(const std::string& bytes, const ExecutorLimits& limits = Limits()) {
  return ReadSnapshot(bytes, kClass, limits).status();
}

// Where the fields begin: magic, version, length, the class with its length.
constexpr size_t kFields = 8 + 4 + 8 + 8 + sizeof kClass - 1;

TEST(SnapshotTest, BringsBackAllThatWasWritten) {
  const SessionState state = State();
  const std::string bytes = WriteSnapshot(state, kClass);
  const absl::StatusOr<SessionState> read = ReadSnapshot(bytes, kClass, Limits());
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->position(), 71);
  EXPECT_EQ(read->slot.source, 9);
  EXPECT_EQ(read->slot.state, state.slot.state);
  EXPECT_EQ(read->slot.pages, state.slot.pages);
  EXPECT_EQ(read->slot.source_pages, state.slot.source_pages);
  ASSERT_EQ(read->slot.history.size(), 3U);
  EXPECT_EQ(read->slot.history[0].generated, 2);
  EXPECT_TRUE(read->slot.history[1].seen);
  EXPECT_FALSE(read->slot.history[2].seen);
  EXPECT_EQ(read->last_token, 49);
  EXPECT_EQ(read->sampling.temperature, 0.5F);
  EXPECT_EQ(read->sampling.seed, 0xFEDCBA9876543210);
  EXPECT_EQ(read->sampling.logit_bias, state.sampling.logit_bias);
  EXPECT_EQ(read->stop, state.stop);
  EXPECT_TRUE(read->include_stop);
  EXPECT_EQ(read->decoder.code_point, "\xE2\x82");
  EXPECT_EQ(read->held.text, "EN");
  // Nothing was left out: what was read writes the same bytes.
  EXPECT_EQ(WriteSnapshot(*read, kClass), bytes);
  EXPECT_LE(static_cast<int64_t>(bytes.size()), MaxSnapshotBytes(Limits(), 71));
}

TEST(SnapshotTest, EveryCutAndEveryFlippedBitIsSeen) {
  const std::string bytes = WriteSnapshot(State(), kClass);
  for (size_t size = 0; size < bytes.size(); ++size) {
    const absl::Status status = Read(bytes.substr(0, size));
    EXPECT_EQ(status.code(),
              size < 8 ? absl::StatusCode::kInvalidArgument : absl::StatusCode::kDataLoss)
        << size;
  }
  EXPECT_EQ(Read(bytes + "x").code(), absl::StatusCode::kDataLoss);
  for (size_t bit = 0; bit < 8 * bytes.size(); ++bit) {
    std::string flipped = bytes;
    flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ 1 << bit % 8);
    EXPECT_FALSE(Read(flipped).ok()) << bit;
  }
}

TEST(SnapshotTest, OtherVersionsAndFilesAreRefusedByName) {
  const std::string bytes = WriteSnapshot(State(), kClass);
  const absl::Status version = Read(With<uint32_t>(bytes, 8, 7));
  EXPECT_EQ(version.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(version.message(), AllOf(HasSubstr("version is 7"), HasSubstr("version 1")));
  EXPECT_EQ(Read("{\"a\": 1}").code(), absl::StatusCode::kInvalidArgument);
}

TEST(SnapshotTest, AnotherClassIsRefusedNamingBoth) {
  const std::string bytes = WriteSnapshot(State(), "model 00ff, cuda sm_90, weights float32");
  const absl::Status status = Read(bytes);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(status.message(), AllOf(HasSubstr("cuda sm_90"), HasSubstr("cpu AVX2")));
}

// Whoever forges a snapshot computes its CRC as well.
TEST(SnapshotTest, ForgedValuesAreRefusedByName) {
  const std::string bytes = WriteSnapshot(State(), kClass);
  const struct {
    const char* named;
    std::string bytes;
  } forged[] = {
      {"position", With<int64_t>(bytes, kFields, 0)},
      {"position", With<int64_t>(bytes, kFields, -5)},
      {"position", With<int64_t>(bytes, kFields, INT64_MAX)},
      {"position", With<int64_t>(bytes, kFields, 301)},
      {"pages", With<int64_t>(bytes, kFields, 300)},
      {"source", With<int64_t>(bytes, kFields + 8, 0)},
      {"source", With<int64_t>(bytes, kFields + 8, 101)},
      {"last token", With<int32_t>(bytes, kFields + 16, 50)},
      {"last token", With<int32_t>(bytes, kFields + 16, -1)},
      {"exactness class", With<uint64_t>(bytes, 20, uint64_t{1} << 60)},
      {"logit_bias", With<uint64_t>(bytes, kFields + 64, uint64_t{1} << 61)},
      {"logit_bias", With<uint64_t>(bytes, kFields + 64, 60000)},
  };
  for (const auto& each : forged) {
    const absl::Status status = Read(each.bytes);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << each.named;
    EXPECT_THAT(status.message(), HasSubstr(each.named));
  }
}

// Reading refuses the state that `change` makes of State(), and names `named`.
template <typename Change>
void ExpectRefused(const char* named, const Change& change) {
  SessionState state = State();
  change(state);
  const absl::Status status = Read(WriteSnapshot(state, kClass));
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << named;
  EXPECT_THAT(status.message(), HasSubstr(named));
}

TEST(SnapshotTest, WhatNoSessionCanHoldIsRefused) {
  ExpectRefused("history", [](SessionState& s) { s.slot.history[1].token = 3; });
  ExpectRefused("history", [](SessionState& s) { s.slot.history[2].token = 50; });
  ExpectRefused("history", [](SessionState& s) { s.slot.history[0].generated = -1; });
  ExpectRefused("state", [](SessionState& s) { s.slot.state.pop_back(); });
  ExpectRefused("pages", [](SessionState& s) { s.slot.pages.resize(kKvPageSize * 2); });
  ExpectRefused("source pages", [](SessionState& s) { s.slot.source_pages.clear(); });
  ExpectRefused("code point", [](SessionState& s) { s.decoder.code_point = "a"; });
  ExpectRefused("code point", [](SessionState& s) { s.decoder.code_point = "\x82"; });
  ExpectRefused("code point", [](SessionState& s) { s.decoder.code_point = "\xE2\x82\xAC\xE2"; });
  ExpectRefused("held text", [](SessionState& s) { s.held.text = "ENE"; });
  ExpectRefused("held text", [](SessionState& s) { s.held.text = "END"; });
  ExpectRefused("held text", [](SessionState& s) { s.held.named = "x<e>"; });
  ExpectRefused("held text", [](SessionState& s) { s.held = {"", "x<", std::string("\0\1", 2)}; });
  ExpectRefused("stop", [](SessionState& s) { s.stop.assign(1000, "a"); });
}

// They would end every turn with a fault that looks like the server's own.
TEST(SnapshotTest, NumbersThatAreNoneAreRefused) {
  const auto put = [](std::vector<std::byte>& bytes, size_t at, float value) {
    std::memcpy(bytes.data() + at, &value, sizeof value);
  };
  ExpectRefused("state has a number that is not finite",
                [&](SessionState& s) { put(s.slot.state, 20, NAN); });
  ExpectRefused("state has a number that is not finite",
                [&](SessionState& s) { put(s.slot.state, 0, -INFINITY); });
  ExpectRefused("pages has a number", [&](SessionState& s) { put(s.slot.pages, 64, INFINITY); });
  ExpectRefused("source pages has a number",
                [&](SessionState& s) { put(s.slot.source_pages, 60, NAN); });
  ExpectRefused("temperature", [](SessionState& s) { s.sampling.temperature = NAN; });
  ExpectRefused("temperature", [](SessionState& s) { s.sampling.temperature = -1; });
  ExpectRefused("top_k", [](SessionState& s) { s.sampling.top_k = -1; });
  ExpectRefused("top_p", [](SessionState& s) { s.sampling.top_p = 0; });
  ExpectRefused("min_p", [](SessionState& s) { s.sampling.min_p = NAN; });
  ExpectRefused("repetition_penalty",
                [](SessionState& s) { s.sampling.repetition_penalty = INFINITY; });
  ExpectRefused("frequency_penalty", [](SessionState& s) { s.sampling.frequency_penalty = 3; });
  ExpectRefused("presence_penalty", [](SessionState& s) { s.sampling.presence_penalty = NAN; });
  ExpectRefused("logit_bias", [](SessionState& s) { s.sampling.logit_bias[1].second = NAN; });
  ExpectRefused("logit_bias", [](SessionState& s) { s.sampling.logit_bias[0].first = 50; });
}

// A name that a stop string goes on behind is part of where the matcher stands.
TEST(SnapshotTest, KeepsNamesOfSpecialTokens) {
  StopMatcher matcher({"x<e>y"}, false);
  EXPECT_EQ(matcher.Append("ax").text, "a");
  EXPECT_EQ(matcher.AppendName("<e>").text, "");
  SessionState state = State();
  state.stop = {"x<e>y"};
  state.include_stop = false;
  state.held = matcher.held();
  const absl::StatusOr<SessionState> read =
      ReadSnapshot(WriteSnapshot(state, kClass), kClass, Limits());
  ASSERT_TRUE(read.ok()) << read.status();
  StopMatcher other({"x<e>y"}, false);
  ASSERT_TRUE(other.Resume(read->held));
  EXPECT_TRUE(other.Append("y").stopped);
}

TEST(FingerprintTest, TellsContentsAndBordersApart) {
  const auto of = [](std::initializer_list<std::string_view> parts) {
    Fingerprint print;
    for (const std::string_view part : parts) print.Add(part);
    return print.Hex();
  };
  const std::string zeros(100, '\0');
  EXPECT_EQ(of({"ab", "c"}), of({"ab", "c"}));
  EXPECT_EQ(of({"ab", "c"}).size(), 32U);
  EXPECT_NE(of({"ab", "c"}), of({"a", "bc"}));
  EXPECT_NE(of({"ab", "c"}), of({"c", "ab"}));
  EXPECT_NE(of({zeros}), of({std::string_view(zeros).substr(1)}));
  for (size_t i = 0; i < zeros.size(); ++i) {
    std::string other = zeros;
    other[i] = 1;
    EXPECT_NE(of({other}), of({zeros})) << i;
  }
}

}  // namespace
}  // namespace t2r
