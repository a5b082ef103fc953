#include "engine/sessions/session_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "absl/strings/str_cat.h"
#include "engine/ops/batch.h"
#include "testing/temporary_directory.h"

namespace t2r {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::SizeIs;

using Code = absl::StatusCode;

constexpr absl::Duration kDefault = absl::ZeroDuration();

ExecutorLimits Limits() {
  ExecutorLimits limits;
  limits.vocab_size = 100;
  limits.state_bytes = 10000;
  return limits;
}

std::shared_ptr<const SessionState> StateAt(int64_t position, size_t extra = 0) {
  auto state = std::make_shared<SessionState>();
  state->slot.positions = position - 1;
  state->slot.state.resize(10000 + extra);
  state->last_token = 7;
  return state;
}

// A time that stands still until it is put on, for any thread.
class TestClock {
 public:
  absl::Time operator()() const { return absl::FromUnixSeconds(seconds_); }
  void operator+=(absl::Duration time) { seconds_ += absl::ToInt64Seconds(time); }

 private:
  std::atomic<int64_t> seconds_ = 1'700'000'000;
};

class SessionStoreTest : public ::testing::Test {
 protected:
  SessionStoreOptions Options(int64_t bytes = 1 << 20) {
    SessionStoreOptions options;
    options.memory_bytes = bytes;
    options.ttl = absl::Minutes(10);
    options.clock = [this] { return now_(); };
    return options;
  }
  // A turn that leaves the session at `position`.
  static void Advance(SessionStore& store, const std::string& id, int64_t position) {
    auto turn = store.Begin({.id = id, .create = true});
    ASSERT_TRUE(turn.ok()) << turn.status();
    EXPECT_TRUE(turn->Commit(StateAt(position)).ok());
  }
  static std::vector<std::string> Ids(const std::vector<SessionInfo>& sessions) {
    std::vector<std::string> ids;
    for (const SessionInfo& session : sessions) ids.push_back(session.id);
    return ids;
  }

  TestClock now_;
};

TEST_F(SessionStoreTest, MakesFindsAndDeletes) {
  SessionStore store(Limits(), "class", Options());
  const auto made = store.Create("a", kDefault);
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_EQ(made->position, 0);
  EXPECT_EQ(made->created, now_());
  EXPECT_EQ(made->expires, now_() + absl::Minutes(10));
  EXPECT_EQ(store.Create("a", kDefault).status().code(), Code::kAlreadyExists);
  EXPECT_EQ(store.Get("a")->id, "a");
  EXPECT_EQ(store.Get("b").status().code(), Code::kNotFound);
  EXPECT_TRUE(store.Delete("a").ok());
  EXPECT_EQ(store.Delete("a").code(), Code::kNotFound);
  EXPECT_EQ(store.kept().sessions, 0);
  EXPECT_EQ(store.in_memory().bytes, 0);
}

TEST_F(SessionStoreTest, IdsAreCheckedOrMadeUp) {
  SessionStore store(Limits(), "class", Options());
  for (const char* id : {"a b", "a/b", "\xC3\xA9", "a\n"}) {
    EXPECT_EQ(store.Create(id, kDefault).status().code(), Code::kInvalidArgument) << id;
    EXPECT_EQ(store.Begin({.id = id, .create = true}).status().code(), Code::kInvalidArgument);
    EXPECT_EQ(store.Get(id).status().code(), Code::kInvalidArgument);
  }
  EXPECT_FALSE(store.Create(std::string(129, 'a'), kDefault).ok());
  EXPECT_TRUE(store.Create(std::string(128, 'a'), kDefault).ok());
  const auto one = store.Create("", kDefault);
  const auto two = store.Create("", kDefault);
  EXPECT_THAT(one->id, SizeIs(32));
  EXPECT_NE(one->id, two->id);
  EXPECT_EQ(store.Create("t", absl::Seconds(-1)).status().code(), Code::kInvalidArgument);
  EXPECT_EQ(store.Create("t", absl::InfiniteDuration()).status().code(), Code::kInvalidArgument);
}

TEST_F(SessionStoreTest, ATurnMovesItsSessionOrLeavesIt) {
  SessionStore store(Limits(), "class", Options());
  Advance(store, "a", 20);
  EXPECT_EQ(store.Get("a")->position, 20);
  {
    const auto turn = store.Begin({.id = "a"});
    ASSERT_TRUE(turn.ok());
    EXPECT_EQ(turn->position(), 20);
    EXPECT_EQ(turn->state()->last_token, 7);
  }
  EXPECT_EQ(store.Get("a")->position, 20);
  Advance(store, "a", 25);
  EXPECT_EQ(store.Get("a")->position, 25);
}

TEST_F(SessionStoreTest, OneTurnAtATime) {
  SessionStore store(Limits(), "class", Options());
  auto turn = store.Begin({.id = "a", .create = true});
  ASSERT_TRUE(turn.ok());
  const absl::Status busy = store.Begin({.id = "a"}).status();
  EXPECT_EQ(busy.code(), Code::kAborted);
  EXPECT_THAT(busy.message(), HasSubstr("busy"));
  EXPECT_EQ(store.Delete("a").code(), Code::kAborted);
  EXPECT_TRUE(turn->Commit(StateAt(3)).ok());
  EXPECT_TRUE(store.Begin({.id = "a"}).ok());
  EXPECT_TRUE(store.Delete("a").ok());
}

TEST_F(SessionStoreTest, ExpectedPositionsAreHeldTo) {
  SessionStore store(Limits(), "class", Options());
  EXPECT_EQ(store.Begin({.id = "a", .create = true, .expected_position = 5}).status().code(),
            Code::kAborted);
  EXPECT_EQ(store.kept().sessions, 0);
  EXPECT_TRUE(store.Begin({.id = "a", .create = true, .expected_position = 0}).ok());
  Advance(store, "a", 20);
  const absl::Status other = store.Begin({.id = "a", .expected_position = 12}).status();
  EXPECT_EQ(other.code(), Code::kAborted);
  EXPECT_THAT(other.message(), AllOf(HasSubstr("position 20"), HasSubstr("position 12")));
  EXPECT_TRUE(store.Begin({.id = "a", .expected_position = 20}).ok());
  EXPECT_EQ(store.Begin({.id = "b"}).status().code(), Code::kNotFound);
}

TEST_F(SessionStoreTest, WhatIsNotUsedExpires) {
  SessionStore store(Limits(), "class", Options());
  Advance(store, "a", 5);
  ASSERT_TRUE(store.Create("b", absl::Hours(1)).ok());
  now_ += absl::Minutes(9);
  Advance(store, "a", 6);  // a use
  now_ += absl::Minutes(9);
  EXPECT_TRUE(store.Get("a").ok());  // being asked for is none
  now_ += absl::Minutes(2);
  EXPECT_EQ(store.Get("a").status().code(), Code::kNotFound);
  EXPECT_EQ(Ids(*store.List("", 10)), std::vector<std::string>{"b"});
  // A turn may change how long; one that runs is not dropped.
  auto turn = store.Begin({.id = "b", .ttl = absl::Minutes(1)});
  now_ += absl::Hours(2);
  EXPECT_TRUE(store.Get("b").ok());
  EXPECT_TRUE(turn->Commit(StateAt(2)).ok());
  EXPECT_EQ(store.Get("b")->expires, now_() + absl::Minutes(1));
  now_ += absl::Minutes(1);
  EXPECT_FALSE(store.Get("b").ok());
  EXPECT_EQ(store.in_memory().bytes, 0);
}

TEST_F(SessionStoreTest, ListsByPage) {
  SessionStore store(Limits(), "class", Options());
  for (const char* id : {"d", "b", "a", "c"}) ASSERT_TRUE(store.Create(id, kDefault).ok());
  EXPECT_EQ(Ids(*store.List("", 3)), (std::vector<std::string>{"a", "b", "c"}));
  EXPECT_EQ(Ids(*store.List("c", 3)), std::vector<std::string>{"d"});
  EXPECT_THAT(*store.List("d", 3), SizeIs(0));
}

TEST_F(SessionStoreTest, ForksStandWhereTheirOriginStood) {
  SessionStore store(Limits(), "class", Options());
  Advance(store, "a", 30);
  auto running = store.Begin({.id = "a"});
  const auto forks = store.Fork("a", "f", 3);
  ASSERT_TRUE(forks.ok()) << forks.status();
  EXPECT_EQ(Ids(*forks), (std::vector<std::string>{"f-1", "f-2", "f-3"}));
  for (const SessionInfo& fork : *forks) EXPECT_EQ(fork.position, 30);
  EXPECT_TRUE(running->Commit(StateAt(40)).ok());
  Advance(store, "f-2", 31);
  EXPECT_EQ(store.Get("a")->position, 40);
  EXPECT_EQ(store.Get("f-1")->position, 30);
  EXPECT_EQ(store.Get("f-2")->position, 31);
  EXPECT_EQ(store.Fork("a", "one", 1)->front().id, "one");
  EXPECT_THAT(store.Fork("a", "", 2)->front().id, SizeIs(32));
  EXPECT_EQ(store.Fork("a", "x", 0).status().code(), Code::kInvalidArgument);
  EXPECT_EQ(store.Fork("a", "x", 1025).status().code(), Code::kInvalidArgument);
  // All or none: y-2 is there already.
  ASSERT_TRUE(store.Create("y-2", kDefault).ok());
  const int64_t before = store.kept().sessions;
  EXPECT_EQ(store.Fork("a", "y", 3).status().code(), Code::kAlreadyExists);
  EXPECT_EQ(store.kept().sessions, before);
}

TEST_F(SessionStoreTest, NothingIsDroppedToMakeRoom) {
  SessionStore store(Limits(), "class", Options(40000));
  Advance(store, "a", 5);
  Advance(store, "b", 5);
  EXPECT_GT(store.in_memory().bytes, 2 * 10000);
  const absl::Status full = store.Fork("a", "c", 2).status();
  EXPECT_EQ(full.code(), Code::kResourceExhausted);
  EXPECT_THAT(full.message(), HasSubstr("--session-memory-mib"));
  EXPECT_EQ(store.kept().sessions, 2);
  // A turn has to have room for what it will leave before it does any work.
  auto turn = store.Begin({.id = "d", .create = true});
  ASSERT_TRUE(turn.ok());
  EXPECT_TRUE(turn->Reserve(50).ok());
  EXPECT_TRUE(turn->Reserve(50).ok());
  const int64_t reserved = store.in_memory().bytes;
  EXPECT_EQ(store.Begin({.id = "e", .create = true})->Reserve(50).code(), Code::kResourceExhausted);
  EXPECT_TRUE(turn->Commit(StateAt(50)).ok());
  EXPECT_LE(store.in_memory().bytes, reserved);
  // Room that expires is room.
  EXPECT_FALSE(store.Fork("a", "c", 1).ok());
  now_ += absl::Hours(1);
  Advance(store, "f", 5);
  EXPECT_EQ(store.kept().sessions, 1);
}

TEST_F(SessionStoreTest, PagesOfTheLongestTurnAreReserved) {
  ExecutorLimits limits = Limits();
  limits.kv_bytes_per_position = 100;
  SessionStore store(limits, "class", Options(200000));
  auto turn = store.Begin({.id = "a", .create = true});
  // Not even without all others.
  EXPECT_EQ(turn->Reserve(2000).code(), Code::kFailedPrecondition);
  EXPECT_EQ(turn->Reserve(INT64_MAX).code(), Code::kFailedPrecondition);
  EXPECT_TRUE(turn->Reserve(1000).ok());
  EXPECT_GE(store.in_memory().bytes, 1000 * 100 + 10000);
  auto other = store.Begin({.id = "b", .create = true});
  EXPECT_EQ(other->Reserve(1000).code(), Code::kResourceExhausted);
}

TEST_F(SessionStoreTest, WhoGoesOnWithATurnEndsItsRequest) {
  SessionStore store(Limits(), "class", Options());
  auto turn = store.Begin({.id = "a", .create = true});
  ASSERT_TRUE(turn.ok());
  int cuts = 0;
  turn->OnTakeOver([&cuts] { ++cuts; });
  EXPECT_EQ(store.Begin({.id = "a"}).status().code(), Code::kAborted);
  EXPECT_EQ(store.Delete("a").code(), Code::kAborted);
  EXPECT_EQ(cuts, 0);
  EXPECT_EQ(store.Begin({.id = "a", .resume_at = 0}).status().code(), Code::kAborted);
  EXPECT_EQ(cuts, 1);
}

TEST_F(SessionStoreTest, SnapshotsGoOutAndIn) {
  SessionStore store(Limits(), "class", Options());
  ASSERT_TRUE(store.Create("empty", kDefault).ok());
  EXPECT_EQ(store.Export("empty").status().code(), Code::kFailedPrecondition);
  EXPECT_EQ(store.Export("none").status().code(), Code::kNotFound);
  Advance(store, "a", 77);
  const auto snapshot = store.Export("a");
  ASSERT_TRUE(snapshot.ok()) << snapshot.status();
  EXPECT_LE(static_cast<int64_t>(snapshot->size()), store.max_snapshot_bytes());
  EXPECT_EQ(store.Import("a", kDefault, *snapshot).status().code(), Code::kAlreadyExists);
  SessionStore other(Limits(), "class", Options());
  const auto made = other.Import("b", absl::Hours(3), *snapshot);
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_EQ(made->position, 77);
  EXPECT_EQ(made->ttl, absl::Hours(3));
  SessionStore foreign(Limits(), "another class", Options());
  EXPECT_EQ(foreign.Import("b", kDefault, *snapshot).status().code(), Code::kFailedPrecondition);
  EXPECT_EQ(other.Import("c", kDefault, snapshot->substr(0, 100)).status().code(), Code::kDataLoss);
  EXPECT_EQ(other.kept().sessions, 1);
}

// ---- With a directory ----

class SessionDirectoryTest : public SessionStoreTest {
 protected:
  std::unique_ptr<SessionStore> Open(int64_t bytes = 1 << 20,
                                     absl::Duration purge_pause = absl::Hours(1)) {
    SessionStoreOptions options = Options(bytes);
    options.purge_pause = purge_pause;
    options.directory = directory_.path() + "/sessions";
    auto store = SessionStore::Open(Limits(), "class", options);
    EXPECT_TRUE(store.ok()) << store.status();
    return store.ok() ? *std::move(store) : nullptr;
  }

  const testing::TemporaryDirectory directory_;
};

TEST_F(SessionDirectoryTest, SessionsOutliveTheStore) {
  {
    const auto store = Open();
    Advance(*store, "a", 20);
    Advance(*store, "a", 25);
    ASSERT_TRUE(store->Create("empty", absl::Hours(3)).ok());
    ASSERT_TRUE(store->Fork("a", "f", 2).ok());
    ASSERT_TRUE(store->Delete("f-1").ok());
    EXPECT_EQ(store->on_disk().sessions, 3);
  }
  const auto store = Open();
  EXPECT_EQ(Ids(*store->List("", 10)), (std::vector<std::string>{"a", "empty", "f-2"}));
  EXPECT_EQ(store->in_memory().sessions, 0);
  EXPECT_EQ(store->Get("empty")->ttl, absl::Hours(3));
  EXPECT_EQ(store->Get("a")->used, now_());
  auto turn = store->Begin({.id = "a", .expected_position = 25});
  ASSERT_TRUE(turn.ok()) << turn.status();
  EXPECT_EQ(turn->state()->last_token, 7);
  EXPECT_EQ(turn->state()->slot.state, StateAt(25)->slot.state);
  EXPECT_TRUE(turn->Commit(StateAt(31)).ok());
  EXPECT_TRUE(store->Export("f-2").ok());
  EXPECT_EQ(store->Get("a")->position, 31);
}

TEST_F(SessionDirectoryTest, ATurnThatDoesNotEndLeavesWhatWasThere) {
  {
    const auto store = Open();
    Advance(*store, "a", 20);
    const auto turn = store->Begin({.id = "a", .ttl = absl::Hours(9)});
    ASSERT_TRUE(turn.ok());
  }
  const auto store = Open();
  EXPECT_EQ(store->Get("a")->position, 20);
  EXPECT_EQ(store->Get("a")->ttl, absl::Minutes(10));
}

TEST_F(SessionDirectoryTest, MemoryIsTakenFromTheLeastRecentlyUsed) {
  const auto store = Open(40000);
  const auto id = [](int i) { return absl::StrCat("s", i); };
  for (int i = 0; i < 20; ++i) {
    now_ += absl::Seconds(1);
    Advance(*store, id(i), 5 + i);
  }
  EXPECT_EQ(store->kept().sessions, 20);
  EXPECT_EQ(store->on_disk().sessions, 20);
  for (int i = 0; i < 20; ++i) {
    const auto turn = store->Begin({.id = id(i)});
    ASSERT_TRUE(turn.ok()) << turn.status();
    EXPECT_EQ(turn->position(), 5 + i);
    EXPECT_LE(store->in_memory().bytes, 40000);
    EXPECT_LE(store->in_memory().sessions, 3);
  }
  // States of turns that run cannot go.
  std::vector<absl::StatusOr<SessionTurn>> turns;
  for (int i = 0; i < 4; ++i) turns.push_back(store->Begin({.id = id(i)}));
  EXPECT_EQ(turns.back().status().code(), Code::kResourceExhausted);
  turns.clear();
  EXPECT_TRUE(store->Begin({.id = "s3"}).ok());
}

TEST_F(SessionDirectoryTest, WhatExpiresLeavesTheDiskToo) {
  {
    const auto store = Open();
    Advance(*store, "a", 5);
    Advance(*store, "b", 5);
    now_ += absl::Minutes(9);
    Advance(*store, "b", 6);
    now_ += absl::Minutes(9);
    EXPECT_EQ(store->Get("a").status().code(), Code::kNotFound);
    EXPECT_EQ(store->on_disk().sessions, 1);
    // The id is free, and what it stands for then is its own.
    Advance(*store, "a", 3);
  }
  {
    const auto store = Open();
    EXPECT_EQ(store->Get("a")->position, 3);
    EXPECT_EQ(store->Get("b")->position, 6);
  }
  now_ += absl::Hours(1);
  EXPECT_EQ(Open()->kept().sessions, 0);
}

TEST_F(SessionDirectoryTest, WhatExpiresLeavesTheDiskWithoutACall) {
  const auto store = Open(1 << 20, absl::Milliseconds(1));
  Advance(*store, "a", 5);
  ASSERT_TRUE(store->Fork("a", "f", 600).ok());  // more than it removes at once
  now_ += absl::Hours(1);
  const absl::Time deadline = absl::Now() + absl::Seconds(60);
  while (store->on_disk().sessions > 0 && absl::Now() < deadline) std::this_thread::yield();
  EXPECT_EQ(store->on_disk().sessions, 0);
}

TEST_F(SessionDirectoryTest, WhatIsBeingRemovedIsNeitherThereNorBusy) {
  const auto store = Open();
  Advance(*store, "a", 5);
  ASSERT_TRUE(store->Fork("a", "f", kMaxForks).ok());
  now_ += absl::Hours(1);
  std::vector<std::thread> threads;
  for (int i = 1; i <= 4; ++i) {
    threads.emplace_back([&store, i] {
      for (int k = i; k <= kMaxForks; k += 4) {
        const std::string id = absl::StrCat("f-", k);
        EXPECT_EQ(store->Get(id).status().code(), Code::kNotFound) << id;
        EXPECT_EQ(store->Begin({.id = id}).status().code(), Code::kNotFound) << id;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

// Their states are more than what is written at once.
TEST_F(SessionDirectoryTest, ManyForksAreThereOrNone) {
  {
    const auto store = Open();
    Advance(*store, "a", 5);
    ASSERT_TRUE(store->Create("g-1000", kDefault).ok());
    ASSERT_TRUE(store->Fork("a", "f", kMaxForks).ok());
    EXPECT_EQ(store->Fork("a", "g", kMaxForks).status().code(), Code::kAlreadyExists);
  }
  const auto store = Open();
  EXPECT_EQ(store->on_disk().sessions, kMaxForks + 2);
  for (const char* id : {"f-1", "f-840", "f-1024"}) {
    const auto turn = store->Begin({.id = id});
    ASSERT_TRUE(turn.ok()) << turn.status();
    EXPECT_EQ(turn->state()->slot.state, StateAt(5)->slot.state);
  }
  EXPECT_EQ(store->Get("g-1").status().code(), Code::kNotFound);
}

// More than one call removes.
TEST_F(SessionDirectoryTest, ManyThatExpireTogetherAreNotThere) {
  {
    const auto store = Open();
    Advance(*store, "a", 5);
    ASSERT_TRUE(store->Fork("a", "f", kMaxForks).ok());
  }
  now_ += absl::Hours(1);
  {
    const auto store = Open();
    EXPECT_GT(store->on_disk().sessions, 1);
    EXPECT_EQ(store->Get("f-999").status().code(), Code::kNotFound);
    EXPECT_EQ(store->Begin({.id = "f-998"}).status().code(), Code::kNotFound);
    EXPECT_EQ(store->List("f-5", 10)->size(), 0U);
    ASSERT_TRUE(store->Create("f-999", kDefault).ok());
    for (int i = 0; i < 10; ++i) EXPECT_TRUE(store->Get("f-999").ok());
    EXPECT_EQ(store->on_disk().sessions, 1);
  }
  EXPECT_EQ(Ids(*Open()->List("", 10)), std::vector<std::string>{"f-999"});
}

TEST_F(SessionDirectoryTest, OfAnotherClassAreRefusedNamingBoth) {
  { Advance(*Open(), "a", 5); }
  SessionStoreOptions options = Options();
  options.directory = directory_.path() + "/sessions";
  const auto store = SessionStore::Open(Limits(), "another class", options);
  ASSERT_TRUE(store.ok());
  const absl::Status refused = (*store)->Begin({.id = "a"}).status();
  EXPECT_EQ(refused.code(), Code::kFailedPrecondition);
  EXPECT_THAT(refused.message(), AllOf(HasSubstr("\"class\""), HasSubstr("another class")));
  // It is not busy for that.
  EXPECT_TRUE((*store)->Delete("a").ok());
}

TEST_F(SessionDirectoryTest, ADirectoryHasOneOwner) {
  const auto store = Open();
  SessionStoreOptions options = Options();
  options.directory = directory_.path() + "/sessions";
  const absl::Status taken = SessionStore::Open(Limits(), "class", options).status();
  EXPECT_EQ(taken.code(), Code::kUnavailable);
  EXPECT_THAT(taken.message(), HasSubstr("--session-dir"));
}

// Of many threads that want a turn of the same few sessions, each turn has its session alone.
TEST_F(SessionStoreTest, TurnsOfManyThreads) {
  SessionStore store(Limits(), "class", Options());
  constexpr int kThreads = 4;
  constexpr int kTurns = 200;
  std::atomic<int> done{0};
  std::vector<std::thread> threads;
  threads.reserve(kThreads);
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&store, &done, i] {
      for (int k = 0; k < kTurns;) {
        auto turn = store.Begin(
            {.id = std::string(1, static_cast<char>('a' + (i + k) % 3)), .create = true});
        if (!turn.ok()) {
          std::this_thread::yield();
          continue;
        }
        if (!turn->Commit(StateAt(turn->position() + 2)).ok()) continue;
        ++done;
        ++k;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  int64_t positions = 0;
  const auto sessions = store.List("", 10);
  for (const SessionInfo& session : *sessions) positions += session.position;
  EXPECT_EQ(positions, 2 * done);
}

}  // namespace
}  // namespace t2r
