// What a turn whose stream broke goes on from, in every kind of lowest tier.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/sessions/redis/redis_tier.h"
#include "engine/sessions/session_store.h"
#include "engine/snapshot/crc32c.h"
#include "testing/temporary_directory.h"
#include "tests/engine/sessions/redis_process.h"

namespace t2r {
namespace {

using ::testing::IsEmpty;
using ::testing::SizeIs;

// Of the session "a": it stands at kBegin, and its turn has positions up to kEnd.
constexpr int64_t kBegin = 20;
constexpr int64_t kEnd = 123;
const SessionKey kKey = {"", "a"};

ExecutorLimits Limits() {
  ExecutorLimits limits;
  limits.vocab_size = 100;
  limits.state_bytes = 1000;
  return limits;
}

std::shared_ptr<const SessionState> StateAt(int64_t position) {
  auto state = std::make_shared<SessionState>();
  state->slot.positions = position - 1;
  state->slot.state.resize(1000);
  return state;
}

// A turn that has begun, or is gone on with, and has stored what it had at `positions`.
SessionTurn Turn(SessionStore& store, const std::vector<int64_t>& positions,
                 std::optional<int64_t> resume_at = std::nullopt) {
  SessionTurn turn = store.Begin({.id = kKey.id, .resume_at = resume_at}).value();
  TurnParameters parameters;
  parameters.start = kBegin;
  parameters.prompt = {1, 2, 3};
  parameters.max_tokens = kEnd - parameters.begin();
  EXPECT_TRUE(turn.Start(std::move(parameters), kEnd).ok());
  for (const int64_t position : positions) {
    EXPECT_TRUE(turn.Checkpointer()(StateAt(position)).ok());
  }
  return turn;
}

// Where the turn is gone on from for a client that has it up to `position`.
int64_t Origin(SessionStore& store, int64_t position) {
  return store.Begin({.id = kKey.id, .resume_at = position}).value().position();
}

// Version 2 of the record had one checkpoint, in place of the list: its name, 0 for none, and its
// position.
TEST(CheckpointRecordTest, OneOfTheVersionBeforeIsRead) {
  for (const StateName name : {StateName{0}, StateName{9}}) {
    SessionRecord record;
    record.state = 7;
    record.checkpoints = {{name, 64}};
    std::string bytes = EncodeRecord(record);
    bytes[0] = 2;
    bytes.erase(bytes.size() - sizeof(uint32_t) - 3 * sizeof(uint64_t), sizeof(uint64_t));
    const uint32_t crc = Crc32c(std::string_view(bytes).substr(0, bytes.size() - sizeof crc));
    std::memcpy(bytes.data() + bytes.size() - sizeof crc, &crc, sizeof crc);
    const auto read = DecodeRecord(kKey, bytes);
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_EQ(read->state, 7U);
    ASSERT_THAT(read->checkpoints, SizeIs(name == 0 ? 0 : 1));
    if (name == 0) continue;
    EXPECT_EQ(read->checkpoints[0].name, name);
    EXPECT_EQ(read->checkpoints[0].position, 64);
  }
}

void MakeSession(SessionStore& store) {
  SessionTurn turn = store.Begin({.id = kKey.id, .create = true}).value();
  ASSERT_TRUE(turn.Commit(StateAt(kBegin)).ok());
}

TEST(CheckpointsTest, MemoryAloneKeepsNone) {
  SessionStore store(Limits(), "class", {});
  MakeSession(store);
  Turn(store, {30, 40});
  for (const int64_t at : {kBegin, int64_t{35}, kEnd}) EXPECT_EQ(Origin(store, at), kBegin);
}

class KeptCheckpointsTest : public ::testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    if (GetParam()) {
      redis_.emplace();
      if (!redis_->installed()) GTEST_SKIP() << "redis-server is not installed";
      ASSERT_TRUE(redis_->Answers());
    }
    MakeSession(*Open());
  }

  // Anew, so that nothing comes from memory. One at a time.
  std::unique_ptr<SessionStore> Open() const {
    SessionStoreOptions options;
    if (redis_) {
      options.shared = redis_->options().address;
    } else {
      options.directory = directory_.path();
    }
    return SessionStore::Open(Limits(), "class", options).value();
  }
  // What the store is over.
  std::unique_ptr<SessionTier> Tier() const {
    const StateCodec codec = {Limits(), "class"};
    if (redis_) {
      return std::make_unique<RedisTier>(redis_->options(), codec, absl::Seconds(10));
    }
    return DiskTier::Open(directory_.path(), codec, [] { return absl::Now(); }).value();
  }
  SessionRecord Record() const { return Tier()->Get(kKey).value(); }
  bool Has(StateName name) const { return Tier()->State(kKey, name, false).ok(); }

  const testing::TemporaryDirectory directory_;
  std::optional<RedisProcess> redis_;
};

TEST_P(KeptCheckpointsTest, TheLastTwoAreGoneOnFrom) {
  Turn(*Open(), {30, 40});
  const auto store = Open();
  EXPECT_EQ(Origin(*store, kBegin), kBegin);
  EXPECT_EQ(Origin(*store, 29), kBegin);
  EXPECT_EQ(Origin(*store, 30), 30);
  EXPECT_EQ(Origin(*store, 39), 30);
  EXPECT_EQ(Origin(*store, 40), 40);
  EXPECT_EQ(Origin(*store, kEnd), 40);
}

TEST_P(KeptCheckpointsTest, AThirdTakesTheFirstsPlace) {
  Turn(*Open(), {30, 40});
  const SessionRecord before = Record();
  ASSERT_THAT(before.checkpoints, SizeIs(2));
  Turn(*Open(), {50}, 40);
  EXPECT_FALSE(Has(before.checkpoints[0].name));
  EXPECT_TRUE(Has(before.checkpoints[1].name));
  EXPECT_TRUE(Has(before.state));
  const auto store = Open();
  EXPECT_EQ(Origin(*store, 39), kBegin);
  EXPECT_EQ(Origin(*store, 49), 40);
  EXPECT_EQ(Origin(*store, 50), 50);
}

TEST_P(KeptCheckpointsTest, ATurnThatIsGoneOnWithReplacesWhatLiesBeforeIt) {
  Turn(*Open(), {30, 40});
  const SessionRecord before = Record();
  // The one that it went on from stays, for a stream that breaks once more.
  Turn(*Open(), {40}, 35);
  EXPECT_TRUE(Has(before.checkpoints[0].name));
  EXPECT_FALSE(Has(before.checkpoints[1].name));
  EXPECT_EQ(Origin(*Open(), 39), 30);
  EXPECT_EQ(Origin(*Open(), 40), 40);
  Turn(*Open(), {25}, kBegin);
  EXPECT_FALSE(Has(before.checkpoints[0].name));
  EXPECT_EQ(Origin(*Open(), kEnd), 25);
}

TEST_P(KeptCheckpointsTest, WhereATurnIsParkedIsOne) {
  ASSERT_TRUE(Turn(*Open(), {30, 40}).Park(StateAt(45)).ok());
  const auto store = Open();
  EXPECT_EQ(Origin(*store, 39), kBegin);
  EXPECT_EQ(Origin(*store, 44), 40);
  EXPECT_EQ(Origin(*store, 45), 45);
}

TEST_P(KeptCheckpointsTest, TheEndOfTheTurnDropsThem) {
  Turn(*Open(), {30, 40});
  const SessionRecord before = Record();
  ASSERT_TRUE(Turn(*Open(), {}, 40).Commit(StateAt(kEnd)).ok());
  for (const auto& checkpoint : before.checkpoints) EXPECT_FALSE(Has(checkpoint.name));
  EXPECT_TRUE(Has(before.state));
  EXPECT_THAT(Record().checkpoints, IsEmpty());
  EXPECT_EQ(Origin(*Open(), kEnd), kBegin);
}

INSTANTIATE_TEST_SUITE_P(, KeptCheckpointsTest, ::testing::Bool(),
                         [](const auto& shared) { return shared.param ? "Shared" : "Directory"; });

}  // namespace
}  // namespace t2r
