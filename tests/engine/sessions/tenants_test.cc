// Whose sessions are whose, and how many a tenant may have.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <thread>
#include <vector>

#include "engine/sessions/session_store.h"
#include "testing/temporary_directory.h"

namespace t2r {
namespace {

using ::testing::HasSubstr;
using ::testing::SizeIs;
using Code = absl::StatusCode;

constexpr absl::Duration kDefault = absl::ZeroDuration();

std::shared_ptr<const SessionState> StateAt(int64_t position) {
  auto state = std::make_shared<SessionState>();
  state->slot.positions = position - 1;
  state->slot.state.resize(1000);
  return state;
}

class TenantsTest : public ::testing::TestWithParam<bool> {
 protected:
  TenantsTest() {
    ExecutorLimits limits;
    limits.vocab_size = 100;
    limits.state_bytes = 1000;
    SessionStoreOptions options;
    if (GetParam()) options.directory = directory_.path() + "/sessions";
    auto opened = SessionStore::Open(limits, "class", options);
    if (opened.ok()) store_ = *std::move(opened);
  }

  const testing::TemporaryDirectory directory_;
  std::unique_ptr<SessionStore> store_;
};

TEST_P(TenantsTest, AnothersSessionIsNotThere) {
  const SessionOwner alice = {"alice", {}};
  const SessionOwner bob = {"bob", {}};
  ASSERT_TRUE(store_->Create("s", kDefault, alice).ok());
  EXPECT_EQ(store_->Get("s", alice)->owner, "alice");
  for (const SessionOwner& other : {bob, SessionOwner(), SessionOwner{"alic", {}}}) {
    EXPECT_EQ(store_->Get("s", other).status().code(), Code::kNotFound);
    EXPECT_EQ(store_->Begin({.id = "s", .owner = other}).status().code(), Code::kNotFound);
    EXPECT_EQ(store_->Fork("s", "f", 1, other).status().code(), Code::kNotFound);
    EXPECT_EQ(store_->Export("s", other).status().code(), Code::kNotFound);
    EXPECT_EQ(store_->Delete("s", other).code(), Code::kNotFound);
    EXPECT_THAT(*store_->List("", 10, other), SizeIs(0));
  }
  // The same id is each one's own.
  auto turn = store_->Begin({.id = "s", .create = true, .owner = bob});
  ASSERT_TRUE(turn.ok()) << turn.status();
  EXPECT_TRUE(store_->Begin({.id = "s", .owner = alice}).ok());
  EXPECT_TRUE(turn->Commit(StateAt(9)).ok());
  EXPECT_EQ(store_->Get("s", bob)->position, 9);
  EXPECT_EQ(store_->Get("s", alice)->position, 0);
  EXPECT_TRUE(store_->Delete("s", alice).ok());
  EXPECT_THAT(*store_->List("", 10, bob), SizeIs(1));
}

TEST_P(TenantsTest, AQuotaBoundsNumberAndBytes) {
  const SessionOwner few = {"few", {.max_sessions = 2, .max_bytes = 0}};
  ASSERT_TRUE(store_->Create("a", kDefault, few).ok());
  EXPECT_EQ(store_->Fork("a", "f", 2, few).status().code(), Code::kResourceExhausted);
  ASSERT_TRUE(store_->Create("b", kDefault, few).ok());
  const absl::Status third = store_->Begin({.id = "c", .create = true, .owner = few}).status();
  EXPECT_EQ(third.code(), Code::kResourceExhausted);
  EXPECT_THAT(std::string(third.message()), HasSubstr("quota is 2"));
  ASSERT_TRUE(store_->Delete("a", few).ok());
  EXPECT_TRUE(store_->Create("c", kDefault, few).ok());
  EXPECT_TRUE(store_->Create("d", kDefault, {"other", few.quota}).ok());

  const SessionOwner small = {"small", {.max_sessions = 0, .max_bytes = 6000}};
  {
    auto turn = store_->Begin({.id = "a", .create = true, .owner = small});
    ASSERT_TRUE(turn.ok()) << turn.status();
    ASSERT_TRUE(turn->Start({}, 10).ok());
    ASSERT_TRUE(turn->Commit(StateAt(10)).ok());
  }
  ASSERT_TRUE(store_->Fork("a", "f", 1, small).ok());
  EXPECT_EQ(store_->Fork("a", "g", 2, small).status().code(), Code::kResourceExhausted);
  // A turn counts what it may add.
  EXPECT_EQ(store_->Begin({.id = "f", .owner = small})->Start({}, 10).code(), Code::kOk);
}

TEST_P(TenantsTest, ManyAtOnceKeepToTheQuota) {
#ifdef __SANITIZE_THREAD__
  // One thread writes what others have put together, under locks of RocksDB that TSan does not
  // know.
  if (GetParam()) GTEST_SKIP() << "RocksDB is built without ThreadSanitizer";
#endif
  const SessionOwner few = {"few", {.max_sessions = 3, .max_bytes = 0}};
  for (int round = 0; round < 20; ++round) {
    std::vector<std::thread> threads;
    for (int i = 0; i < 8; ++i) {
      threads.emplace_back(
          [&, i] { static_cast<void>(store_->Create("s" + std::to_string(i), kDefault, few)); });
    }
    for (std::thread& thread : threads) thread.join();
    const auto made = store_->List("", 10, few);
    ASSERT_TRUE(made.ok()) << made.status();
    // Those that look at the same time may make way for each other.
    EXPECT_LE(made->size(), 3U);
    EXPECT_GE(made->size(), 1U);
    for (const SessionInfo& session : *made) ASSERT_TRUE(store_->Delete(session.id, few).ok());
  }
}

INSTANTIATE_TEST_SUITE_P(Tiers, TenantsTest, ::testing::Bool());

}  // namespace
}  // namespace t2r
