// Claims and changes of a shared store, by a real redis-server; where there is none the tests skip.
// What whole servers do with one is in tests/suites/sessions_shared.py.
#include "engine/sessions/redis/redis_tier.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/engine/sessions/redis_process.h"

namespace t2r {
namespace {

using ::testing::IsEmpty;
using ::testing::SizeIs;
using Code = absl::StatusCode;

class RedisTierTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!redis_.installed()) GTEST_SKIP() << "redis-server is not installed";
    ASSERT_TRUE(redis_.Answers());
  }

  RedisTier Tier(absl::Duration lease = absl::Hours(1)) {
    ExecutorLimits limits;
    limits.vocab_size = 100;
    limits.state_bytes = 1000;
    return RedisTier(redis_.options(), {limits, "class"}, lease);
  }

  static std::shared_ptr<const SessionState> State() {
    auto state = std::make_shared<SessionState>();
    state->slot.positions = 3;
    state->slot.state.resize(1000);
    return state;
  }

  static SessionRecord Record(const std::string& id) {
    SessionRecord record;
    record.info.owner = kKey.owner;
    record.info.id = id;
    record.info.created = record.info.used = absl::Now();
    record.info.ttl = absl::Hours(1);
    record.info.expires = absl::Now() + absl::Hours(1);
    return record;
  }

  // Any command.
  absl::StatusOr<RedisReply> Ask(const std::vector<std::string_view>& command) {
    return RedisPool(redis_.options()).Call(command);
  }

  static inline const SessionKey kKey = {"tenant", "story"};
  static constexpr char kHash[] = "t2r:{tenant}:s:story";
  const RedisProcess redis_;
};

TEST_F(RedisTierTest, AClaimThatWasReleasedIsNotRenewed) {
  RedisTier one = Tier();
  RedisTier two = Tier();
  ASSERT_TRUE(one.Create({Record("story")}, nullptr).ok());
  for (const bool change : {false, true}) {
    const auto mine = one.Claim(kKey, false);
    ASSERT_TRUE(mine.ok()) << mine.status();
    EXPECT_EQ(two.Claim(kKey, false).status().code(), Code::kAborted);
    ASSERT_TRUE(one.Renew({mine->claim}).ok());
    SessionChange last;
    last.record = mine->record;
    last.release = true;
    ASSERT_TRUE((change ? one.Change(mine->claim, last) : one.Release(mine->claim)).ok());
    // The one who renews may have looked before.
    ASSERT_TRUE(one.Renew({mine->claim}).ok());
    const auto theirs = two.Claim(kKey, false);
    ASSERT_TRUE(theirs.ok()) << theirs.status();
    ASSERT_TRUE(two.Release(theirs->claim).ok());
  }
}

TEST_F(RedisTierTest, RenewsManyOfSeveralTenants) {
  RedisTier one = Tier(absl::Milliseconds(1));
  RedisTier two = Tier();
  std::vector<SessionClaim> claims;
  for (const char* owner : {"a", "b"}) {
    for (int i = 0; i < 300; ++i) {
      SessionRecord record = Record("s" + std::to_string(i));
      record.info.owner = owner;
      ASSERT_TRUE(one.Create({record}, nullptr).ok());
      const auto claimed = one.Claim(record.info.key(), false);
      ASSERT_TRUE(claimed.ok()) << claimed.status();
      claims.push_back(claimed->claim);
    }
  }
  // Under the second's lease the claims of the first, which have lapsed, hold again.
  ASSERT_TRUE(two.Renew(claims).ok());
  for (const SessionClaim& claim : claims) {
    EXPECT_EQ(two.Claim(claim.key, false).status().code(), Code::kAborted) << claim.key.id;
  }
}

TEST_F(RedisTierTest, StatesThatNoRecordNamesGo) {
  RedisTier tier = Tier();
  ASSERT_TRUE(tier.Create({Record("story")}, nullptr).ok());
  const auto mine = tier.Claim(kKey, false);
  ASSERT_TRUE(mine.ok());
  SessionChange change;
  change.record = mine->record;
  change.state = State();
  // As after a change whose answer was lost: the next one does not know of its state.
  for (const StateName name : {1, 2}) {
    change.record.state = change.name = name;
    ASSERT_TRUE(tier.Change(mine->claim, change).ok());
  }
  EXPECT_TRUE(tier.State(kKey, 2, false).ok());
  EXPECT_EQ(tier.State(kKey, 1, false).status().code(), Code::kDataLoss);
}

TEST_F(RedisTierTest, ADamagedRecordIsLeftOutAndCanBeDeleted) {
  RedisTier tier = Tier();
  for (const char* id : {"a", "story", "z"}) ASSERT_TRUE(tier.Create({Record(id)}, nullptr).ok());
  ASSERT_TRUE(Ask({"HSET", kHash, "r", "junk", "i", "junk"}).ok());
  EXPECT_EQ(tier.Get(kKey).status().code(), Code::kDataLoss);
  EXPECT_EQ(tier.Claim(kKey, false).status().code(), Code::kDataLoss);
  EXPECT_THAT(*tier.List("tenant", "", 2), SizeIs(2));
  EXPECT_THAT(*tier.List("tenant", "a", 2), SizeIs(1));
  EXPECT_TRUE(tier.Delete(kKey).ok());
  EXPECT_TRUE(tier.Delete(kKey).ok());
  EXPECT_EQ(tier.Get(kKey).status().code(), Code::kNotFound);
  EXPECT_TRUE(tier.Create({Record("story")}, nullptr).ok());
}

TEST_F(RedisTierTest, AFullStoreTakesWhatRunsAndLetsSessionsGo) {
  RedisTier tier = Tier();
  RedisTier other = Tier();
  for (const char* id : {"a", "story"}) ASSERT_TRUE(tier.Create({Record(id)}, nullptr).ok());
  const auto mine = tier.Claim(kKey, false);
  ASSERT_TRUE(mine.ok());
  ASSERT_TRUE(Ask({"CONFIG", "SET", "maxmemory", "1"}).ok());
  const absl::Status full = tier.Create({Record("b")}, nullptr);
  EXPECT_EQ(full.code(), Code::kResourceExhausted);
  EXPECT_THAT(std::string(full.message()), ::testing::HasSubstr("memory is full"));
  EXPECT_TRUE(tier.Renew({mine->claim}).ok());
  EXPECT_EQ(other.Delete(kKey).code(), Code::kAborted);
  SessionChange change;
  change.record = mine->record;
  change.record.state = change.name = 1;
  change.state = State();
  EXPECT_TRUE(tier.Change(mine->claim, change).ok());
  EXPECT_TRUE(tier.Release(mine->claim).ok());
  for (const char* id : {"a", "story"}) EXPECT_TRUE(other.Delete({"tenant", id}).ok());
  EXPECT_THAT(*tier.List("tenant", "", 10), IsEmpty());
}

TEST_F(RedisTierTest, OneCallMakesNoMoreThanTheStoreBears) {
  RedisTier tier = Tier();
  std::vector<SessionRecord> records;
  for (int i = 0; i < 1024; ++i) records.push_back(Record("s" + std::to_string(i)));
  auto state = std::make_shared<SessionState>();
  state->slot.state.resize(size_t{1} << 20);
  const absl::Status refused = tier.Create(records, state);
  EXPECT_EQ(refused.code(), Code::kInvalidArgument);
  EXPECT_THAT(std::string(refused.message()), ::testing::HasSubstr("count: 1024"));
}

}  // namespace
}  // namespace t2r
