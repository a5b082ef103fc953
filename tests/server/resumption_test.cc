// Turns whose streams broke, gone on with: the rest is what an unbroken run gives.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <functional>

#include "engine/sessions/watched_tier.h"
#include "testing/temporary_directory.h"
#include "tests/server/testing/drain.h"
#include "tests/server/testing/test_server.h"

namespace t2r::server {
namespace {

using ::testing::HasSubstr;
using Code = grpc::StatusCode;

TestServerOptions WithSessions() {
  TestServerOptions options;
  options.executor.kv_pages = 256;
  options.executor.kv_bytes_per_position = sizeof(int32_t);
  options.sessions.memory_bytes = 4 << 20;
  return options;
}

v1::GenerateRequest Turn(const std::string& id, const std::vector<uint32_t>& ids,
                         uint32_t max_tokens) {
  v1::GenerateRequest request = TokenRequest(ids, max_tokens);
  request.mutable_session()->set_id(id);
  request.mutable_session()->set_create(true);
  return request;
}

v1::GenerateRequest ResumeAt(const std::string& id, uint64_t position) {
  v1::GenerateRequest request;
  request.mutable_session()->set_id(id);
  request.mutable_session()->set_resume_at(position);
  return request;
}

std::vector<int32_t> Expected(const std::vector<int32_t>& prompt, int64_t n, int64_t from = 0) {
  std::vector<int32_t> tokens = ExpectedTokens(prompt, n, ByteTokenizer::kVocab);
  tokens.erase(tokens.begin(), tokens.begin() + from);
  return tokens;
}

// A turn that is cancelled on its way, once `when` holds.
std::unique_ptr<Stream> Break(
    TestServer& server, const v1::GenerateRequest& request,
    const std::function<bool()>& when = [] { return true; }) {
  server.executor.Hold();
  auto stream = server.Generate(request);
  server.executor.Allow(20);
  while (stream->ids.size() < 10 && stream->WaitForDelta()) {
  }
  EXPECT_TRUE(WaitUntil(when));
  stream->Cancel();
  static_cast<void>(stream->Finish());
  EXPECT_TRUE(WaitUntil([&] {
    server.executor.Allow(1);
    return server.executor.open_slots() == 0;
  }));
  server.executor.AllowAll();
  return stream;
}

// The turn's rest, once the server has given the broken one up.
std::unique_ptr<Stream> GoOn(TestServer& server, const v1::GenerateRequest& request) {
  std::unique_ptr<Stream> stream;
  EXPECT_TRUE(WaitUntil([&] {
    stream = server.Generate(request);
    const grpc::Status status = stream->Finish();
    return status.ok() || status.error_code() != Code::ABORTED;
  }));
  return stream;
}

TEST(ResumptionTest, ABrokenTurnIsGoneOnWith) {
  TestServer server(WithSessions());
  ASSERT_TRUE(server.Generate(Turn("a", {5, 6, 7}, 4))->Finish().ok());
  const auto broken = Break(server, Turn("a", {9, 8}, 60));
  ASSERT_GE(broken->ids.size(), 10U);
  const uint64_t at = broken->positions.back();
  EXPECT_EQ(at, 9 + broken->ids.size());
  const auto rest = GoOn(server, ResumeAt("a", at));
  ASSERT_TRUE(rest->finished);
  EXPECT_EQ(rest->started->session_position(), at);
  EXPECT_EQ(rest->started->prompt_tokens(), 2U);
  EXPECT_EQ(rest->started->max_tokens(), 60U);
  EXPECT_EQ(rest->positions.back(), 9U + 60U);
  EXPECT_EQ(rest->finished->session_position(), 69U);
  EXPECT_EQ(rest->finished->usage().generated_tokens(), 60U);
  std::vector<int32_t> history = {5, 6, 7};
  for (const int32_t token : Expected({5, 6, 7}, 4)) history.push_back(token);
  history.insert(history.end(), {9, 8});
  std::vector<int32_t> ids = broken->ids;
  ids.insert(ids.end(), rest->ids.begin(), rest->ids.end());
  EXPECT_EQ(ids, Expected(history, 60));
  EXPECT_EQ(server.model->sessions->Get("a")->position, 69);
}

TEST(ResumptionTest, ATurnWhoseEndWasLostIsGivenAgain) {
  TestServer server(WithSessions());
  ASSERT_TRUE(server.Generate(Turn("a", {5, 6, 7}, 30))->Finish().ok());
  for (const int64_t behind : {0, 12, 30}) {
    const auto again = server.Generate(ResumeAt("a", static_cast<uint64_t>(3 + behind)));
    const grpc::Status status = again->Finish();
    ASSERT_TRUE(status.ok()) << status.error_message();
    EXPECT_EQ(again->ids, Expected({5, 6, 7}, 30, behind));
    EXPECT_EQ(again->finished->reason(), v1::FINISH_REASON_LENGTH);
    EXPECT_EQ(again->finished->session_position(), 33U);
    EXPECT_EQ(server.model->sessions->Get("a")->position, 33);
  }
  // The session goes on as ever.
  const auto further = server.Generate(Turn("a", {}, 10));
  ASSERT_TRUE(further->Finish().ok());
  EXPECT_EQ(further->ids, Expected({5, 6, 7}, 40, 30));
}

TEST(ResumptionTest, WhatCannotBeGoneOnWithIsRefused) {
  TestServer server(WithSessions());
  const auto refused = [&](const std::string& id, uint64_t at, Code code, const char* named) {
    const grpc::Status status = server.Generate(ResumeAt(id, at))->Finish();
    EXPECT_EQ(status.error_code(), code) << status.error_message();
    EXPECT_THAT(status.error_message(), HasSubstr(named));
  };
  refused("none", 3, Code::NOT_FOUND, "none");
  refused("a b", 3, Code::INVALID_ARGUMENT, "session.id");
  ASSERT_TRUE(server.model->sessions->Create("empty", absl::ZeroDuration()).ok());
  refused("empty", 0, Code::FAILED_PRECONDITION, "no turn");
  ASSERT_TRUE(server.Generate(Turn("a", {5, 6, 7}, 10))->Finish().ok());
  ASSERT_TRUE(server.Generate(Turn("a", {1}, 10))->Finish().ok());
  refused("a", 12, Code::ABORTED, "from position 13 to 24");
  refused("a", 25, Code::ABORTED, "resume_at is 25");
  refused("a", UINT64_MAX, Code::ABORTED, "resume_at");
}

// In a directory, after every fourth token.
TestServerOptions WithCheckpoints(const testing::TemporaryDirectory& directory,
                                  SessionObserver* observer) {
  TestServerOptions options = WithSessions();
  options.sessions.directory = directory.path() + "/sessions";
  options.sessions.observer = observer;
  options.grpc.checkpoint_tokens = 4;
  return options;
}

// Counts states that reached the disk.
struct Moves : SessionObserver {
  std::atomic<int> stored = 0;
  void OnSessionMove(const char*, bool to_tier, absl::Duration) override { stored += to_tier; }
  void OnSessionStoreError(const char*) override {}
};

TEST(ResumptionTest, CheckpointsInADirectorySpareWork) {
  const testing::TemporaryDirectory directory;
  Moves moves;  // checkpoints are stored beside the stream
  const TestServerOptions options = WithCheckpoints(directory, &moves);
  constexpr int kTokens = 2000;  // far more than are made until the break is seen
  {
    TestServer server(options);
    Break(server, Turn("a", {5, 6, 7}, kTokens), [&] { return moves.stored > 0; });
  }
  TestServer server(options);
  // The turn may have run on, and been stored, behind what its client had read when it broke; no
  // checkpoint is behind the last token.
  const auto rest = server.Generate(ResumeAt("a", 3 + kTokens - 1));
  const grpc::Status status = rest->Finish();
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(rest->ids, Expected({5, 6, 7}, kTokens, kTokens - 1));
  EXPECT_EQ(rest->finished->usage().generated_tokens(), kTokens);
  // The last state before the break was gone on from.
  EXPECT_LT(server.Metric("t2r_generation_tokens_total"), kTokens);
}

// A store that takes the second checkpoint and then hangs, so that it stays the last one.
struct TwoMoves : SessionObserver {
  std::atomic<int> stored = 0;
  std::atomic<bool> hangs = true;
  void OnSessionMove(const char*, bool to_tier, absl::Duration) override {
    if (to_tier && ++stored == 2) hangs.wait(true);
  }
  void OnSessionStoreError(const char*) override {}
  void Release() {
    hangs = false;
    hangs.notify_all();
  }
};

TEST(ResumptionTest, AClientBehindTheLastCheckpointGoesOnFromTheOneBefore) {
  const testing::TemporaryDirectory directory;
  TwoMoves moves;
  const TestServerOptions options = WithCheckpoints(directory, &moves);
  constexpr int kTokens = 2000;  // far more than are made until the break is seen
  {
    TestServer server(options);
    Break(server, Turn("a", {5, 6, 7}, kTokens), [&] {
      // The turn goes on until it has a second one to store.
      if (moves.stored == 1) server.executor.Allow(1);
      return moves.stored == 2;
    });
    // No further one comes behind its end.
    ASSERT_TRUE(WaitUntil([&] { return server.Finishes() == 1; }));
    moves.Release();
  }
  TestServer server(options);
  const auto rest = server.Generate(ResumeAt("a", 3 + 5));
  const grpc::Status status = rest->Finish();
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(rest->ids, Expected({5, 6, 7}, kTokens, 5));
  EXPECT_EQ(server.Metric("t2r_generation_tokens_total"), kTokens - 4);
}

TEST(ResumptionTest, DrainedTurnsGoOnInTheNextProcess) {
  const testing::TemporaryDirectory directory;
  TestServerOptions options = WithSessions();
  options.sessions.directory = directory.path() + "/sessions";
  std::unique_ptr<Stream> running;
  {
    TestServer server(options);
    server.executor.Hold();
    running = server.Generate(Turn("a", {5, 6, 7}, 200));
    server.executor.Allow(5);
    ASSERT_TRUE(running->WaitForDelta());
    DrainWhileRunning(server);
    EXPECT_EQ(running->Finish().error_code(), Code::UNAVAILABLE);
  }
  const uint64_t at = running->finished->session_position();
  EXPECT_EQ(at, 3 + running->ids.size());
  TestServer server(options);
  const auto rest = server.Generate(ResumeAt("a", at));
  ASSERT_TRUE(rest->Finish().ok());
  std::vector<int32_t> ids = running->ids;
  ids.insert(ids.end(), rest->ids.begin(), rest->ids.end());
  EXPECT_EQ(ids, Expected({5, 6, 7}, 200));
  // From where it was, not from its beginning.
  EXPECT_EQ(server.Metric("t2r_generation_tokens_total"), 203.0 - static_cast<double>(at));
}

TEST(ResumptionTest, StreamsWithoutASessionGetOneWhereTheServerSaysSo) {
  TestServerOptions options = WithSessions();
  options.grpc.resumable_streams = true;
  TestServer server(options);
  const auto broken = Break(server, TokenRequest({5, 6, 7}, 60));
  EXPECT_EQ(broken->started->session_id().size(), 32U);
  const auto rest = GoOn(server, ResumeAt(broken->started->session_id(), broken->positions.back()));
  ASSERT_TRUE(rest->finished);
  std::vector<int32_t> ids = broken->ids;
  ids.insert(ids.end(), rest->ids.begin(), rest->ids.end());
  EXPECT_EQ(ids, Expected({5, 6, 7}, 60));
  // Where there is no room for one it runs without.
  TestServerOptions small = options;
  small.sessions.memory_bytes = 100;
  TestServer full(small);
  const auto plain = full.Generate(TokenRequest({5, 6, 7}, 10));
  ASSERT_TRUE(plain->Finish().ok());
  EXPECT_EQ(plain->started->session_id(), "");
  EXPECT_EQ(plain->ids, Expected({5, 6, 7}, 10));
}

}  // namespace
}  // namespace t2r::server
