// Sessions as clients see them: turns of Generate, and the service that keeps, copies and moves
// them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "t2r/v1/sessions.grpc.pb.h"
#include "tests/server/testing/drain.h"
#include "tests/server/testing/test_server.h"

namespace t2r::server {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using Code = grpc::StatusCode;

TestServerOptions WithSessions(int64_t bytes = 1 << 20) {
  TestServerOptions options;
  options.executor.kv_pages = 64;
  options.executor.kv_bytes_per_position = sizeof(int32_t);
  options.sessions.memory_bytes = bytes;
  return options;
}

v1::GenerateRequest Turn(const std::string& id, const std::vector<uint32_t>& ids,
                         uint32_t max_tokens) {
  v1::GenerateRequest request = TokenRequest(ids, max_tokens);
  if (ids.empty()) request.clear_tokens();
  request.mutable_session()->set_id(id);
  request.mutable_session()->set_create(true);
  return request;
}

std::vector<int32_t> Expected(const std::vector<int32_t>& prompt, int64_t n) {
  return ExpectedTokens(prompt, n, ByteTokenizer::kVocab);
}

// Asks the service and waits.
class Sessions {
 public:
  explicit Sessions(TestServer& server) : stub_(v1::Sessions::NewStub(server.channel)) {}

  template <typename Request, typename Response>
  grpc::Status Call(grpc::Status (v1::Sessions::Stub::*method)(grpc::ClientContext*, const Request&,
                                                               Response*),
                    const Request& request, Response* response) {
    grpc::ClientContext context;
    context.set_deadline(absl::ToChronoTime(absl::Now() + absl::Seconds(60)));
    return (stub_.get()->*method)(&context, request, response);
  }
  grpc::Status Create(const std::string& id) {
    v1::CreateSessionRequest request;
    request.set_id(id);
    return Call(&v1::Sessions::Stub::CreateSession, request, &session);
  }
  grpc::Status Get(const std::string& id) {
    v1::GetSessionRequest request;
    request.set_id(id);
    return Call(&v1::Sessions::Stub::GetSession, request, &session);
  }
  grpc::Status Delete(const std::string& id) {
    v1::DeleteSessionRequest request;
    request.set_id(id);
    v1::DeleteSessionResponse response;
    return Call(&v1::Sessions::Stub::DeleteSession, request, &response);
  }
  grpc::Status Fork(const std::string& id, const std::string& new_id, uint32_t count,
                    v1::ForkSessionResponse* response) {
    v1::ForkSessionRequest request;
    request.set_id(id);
    request.set_new_id(new_id);
    request.set_count(count);
    return Call(&v1::Sessions::Stub::ForkSession, request, response);
  }
  grpc::Status Export(const std::string& id, std::string* snapshot) {
    grpc::ClientContext context;
    v1::ExportSessionRequest request;
    request.set_id(id);
    const auto reader = stub_->ExportSession(&context, request);
    v1::SnapshotChunk chunk;
    while (reader->Read(&chunk)) snapshot->append(chunk.data());
    return reader->Finish();
  }
  grpc::Status Import(const std::string& id, const std::string& snapshot, size_t piece) {
    grpc::ClientContext context;
    const auto writer = stub_->ImportSession(&context, &session);
    v1::ImportSessionRequest request;
    request.set_id(id);
    for (size_t at = 0; at < snapshot.size(); at += piece) {
      request.set_data(snapshot.substr(at, piece));
      if (!writer->Write(request)) break;
      request.Clear();
    }
    writer->WritesDone();
    return writer->Finish();
  }

  v1::Session session;  // the last answer

 private:
  std::unique_ptr<v1::Sessions::Stub> stub_;
};

TEST(SessionsTest, TurnsGoOnWhereTheSessionStands) {
  TestServer server(WithSessions());
  const auto first = server.Generate(Turn("a", {5, 6, 7}, 10));
  grpc::Status status = first->Finish();
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(first->ids, Expected({5, 6, 7}, 10));
  EXPECT_EQ(first->started->session_id(), "a");
  EXPECT_EQ(first->started->session_position(), 3U);
  EXPECT_EQ(first->positions.back(), 13U);
  EXPECT_EQ(first->finished->session_position(), 13U);

  // Without a prompt: where it stopped.
  const auto second = server.Generate(Turn("a", {}, 20));
  ASSERT_TRUE(second->Finish().ok());
  std::vector<int32_t> both = first->ids;
  both.insert(both.end(), second->ids.begin(), second->ids.end());
  EXPECT_EQ(both, Expected({5, 6, 7}, 30));
  EXPECT_EQ(second->started->prompt_tokens(), 0U);
  EXPECT_EQ(second->started->session_position(), 13U);
  EXPECT_EQ(second->finished->session_position(), 33U);
  EXPECT_EQ(second->finished->usage().prompt_tokens(), 0U);

  // With one: behind all that there is.
  const auto third = server.Generate(Turn("a", {9, 8}, 4));
  ASSERT_TRUE(third->Finish().ok());
  std::vector<int32_t> history = {5, 6, 7};
  history.insert(history.end(), both.begin(), both.end());
  history.insert(history.end(), {9, 8});
  EXPECT_EQ(third->ids, Expected(history, 4));
  EXPECT_EQ(third->started->prompt_tokens(), 2U);
  EXPECT_EQ(third->finished->session_position(), 39U);
  EXPECT_EQ(server.executor.open_slots(), 0);
  EXPECT_EQ(server.Metric("t2r_sessions{tier=\"memory\"}"), 1);
  EXPECT_GT(server.Metric("t2r_sessions_bytes{tier=\"memory\"}"), 39 * sizeof(int32_t));
}

TEST(SessionsTest, TextGetsABosOnlyWhereTheSessionBegins) {
  TestServer server(WithSessions());
  v1::GenerateRequest request = TextRequest("ab", 3);
  request.mutable_session()->set_id("a");
  request.mutable_session()->set_create(true);
  const auto first = server.Generate(request);
  ASSERT_TRUE(first->Finish().ok());
  EXPECT_EQ(first->started->session_position(), 3U);
  request.set_text("cd");
  const auto second = server.Generate(request);
  ASSERT_TRUE(second->Finish().ok());
  std::vector<int32_t> history = {ByteTokenizer::kBos, 'a', 'b'};
  history.insert(history.end(), first->ids.begin(), first->ids.end());
  history.insert(history.end(), {'c', 'd'});
  EXPECT_EQ(second->ids, Expected(history, 3));
  // An empty text is no prompt.
  request.set_text("");
  const auto third = server.Generate(request);
  ASSERT_TRUE(third->Finish().ok());
  history.insert(history.end(), second->ids.begin(), second->ids.end());
  EXPECT_EQ(third->ids, Expected(history, 3));
}

TEST(SessionsTest, TheSeedIsTheSessions) {
  TestServer server(WithSessions());
  v1::GenerateRequest request = Turn("a", {5}, 2);
  request.mutable_sampling()->set_seed(42);
  request.mutable_sampling()->set_temperature(0.5);
  ASSERT_TRUE(server.Generate(request)->Finish().ok());
  request.clear_tokens();
  request.mutable_sampling()->clear_seed();
  const auto second = server.Generate(request);
  ASSERT_TRUE(second->Finish().ok());
  EXPECT_EQ(second->started->seed(), 42U);
  request.clear_sampling();
  const auto third = server.Generate(request);
  ASSERT_TRUE(third->Finish().ok());
  EXPECT_EQ(third->started->seed(), 42U);
}

TEST(SessionsTest, ARetriedTurnIsNeverAppendedTwice) {
  TestServer server(WithSessions());
  v1::GenerateRequest request = Turn("a", {5, 6, 7}, 10);
  request.mutable_session()->set_expected_position(0);
  ASSERT_TRUE(server.Generate(request)->Finish().ok());
  const grpc::Status again = server.Generate(request)->Finish();
  EXPECT_EQ(again.error_code(), Code::ABORTED);
  EXPECT_THAT(again.error_message(), AllOf(HasSubstr("position 13"), HasSubstr("position 0")));
  request.mutable_session()->set_expected_position(13);
  EXPECT_TRUE(server.Generate(request)->Finish().ok());
}

TEST(SessionsTest, OneTurnAtATimeAndACancelledOneLeavesNoTrace) {
  TestServer server(WithSessions());
  Sessions sessions(server);
  ASSERT_TRUE(server.Generate(Turn("a", {5, 6, 7}, 10))->Finish().ok());
  server.executor.Hold();
  const auto running = server.Generate(Turn("a", {1}, 4000));
  server.executor.Allow(3);
  ASSERT_TRUE(running->WaitForDelta());
  const grpc::Status busy = server.Generate(Turn("a", {}, 1))->Finish();
  EXPECT_EQ(busy.error_code(), Code::ABORTED);
  EXPECT_THAT(busy.error_message(), HasSubstr("busy"));
  EXPECT_EQ(sessions.Delete("a").error_code(), Code::ABORTED);
  running->Cancel();
  EXPECT_EQ(running->Finish().error_code(), Code::CANCELLED);
  // Step by step, until the cancellation has come.
  ASSERT_TRUE(WaitUntil([&] {
    server.executor.Allow(1);
    return server.executor.open_slots() == 0;
  }));
  server.executor.AllowAll();
  ASSERT_TRUE(sessions.Get("a").ok());
  EXPECT_EQ(sessions.session.position(), 13U);
  v1::GenerateRequest next = Turn("a", {}, 5);
  // The turn is given up soon after its slot.
  std::unique_ptr<Stream> stream;
  ASSERT_TRUE(WaitUntil([&] {
    stream = server.Generate(next);
    return stream->Finish().ok();
  }));
  std::vector<int32_t> whole = Expected({5, 6, 7}, 15);
  EXPECT_EQ(stream->ids, std::vector<int32_t>(whole.begin() + 10, whole.end()));
}

TEST(SessionsTest, ADrainedTurnLeavesItsSessionWhereItWas) {
  TestServer server(WithSessions());
  ASSERT_TRUE(server.Generate(Turn("a", {5, 6, 7}, 10))->Finish().ok());
  server.executor.Hold();
  const auto running = server.Generate(Turn("a", {}, 4000));
  server.executor.Allow(3);
  ASSERT_TRUE(running->WaitForDelta());
  DrainWhileRunning(server);
  EXPECT_EQ(running->Finish().error_code(), Code::UNAVAILABLE);
  EXPECT_EQ(running->finished->reason(), v1::FINISH_REASON_DRAINED);
  // What its client has: a resumption goes on from there.
  EXPECT_EQ(running->finished->session_position(), 13U + running->ids.size());
  EXPECT_EQ(server.model->sessions->Get("a")->position, 13);
}

TEST(SessionsTest, WhatTurnsCannotBeIsRefusedByName) {
  TestServer server(WithSessions());
  const auto refused = [&](const v1::GenerateRequest& request, Code code, const char* named) {
    const grpc::Status status = server.Generate(request)->Finish();
    EXPECT_EQ(status.error_code(), code) << status.error_message();
    EXPECT_THAT(status.error_message(), HasSubstr(named));
  };
  refused(Turn("a", {}, 5), Code::INVALID_ARGUMENT, "prompt");
  refused(Turn("a b", {1}, 5), Code::INVALID_ARGUMENT, "session.id");
  v1::GenerateRequest request = Turn("none", {1}, 5);
  request.mutable_session()->set_create(false);
  refused(request, Code::NOT_FOUND, "none");
  request = Turn("a", {1}, 5);
  request.mutable_session()->mutable_ttl()->set_seconds(-4);
  refused(request, Code::INVALID_ARGUMENT, "ttl");
  request = Turn("a", {1}, 5);
  request.clear_sampling();
  request.mutable_beams()->set_count(2);
  refused(request, Code::INVALID_ARGUMENT, "session");
  // Where the pages of the cache end.
  ASSERT_TRUE(server.Generate(Turn("a", {1, 2}, 4000))->Finish().ok());
  refused(Turn("a", {}, 200), Code::INVALID_ARGUMENT, "session of 4002 tokens");
  EXPECT_TRUE(server.Generate(Turn("a", {}, 90))->Finish().ok());
}

TEST(SessionsTest, ATurnWithoutRoomIsRefusedBeforeItRuns) {
  TestServer server(WithSessions(8000));
  EXPECT_TRUE(server.Generate(Turn("a", {1, 2}, 50))->Finish().ok());
  const grpc::Status full = server.Generate(Turn("a", {}, 3000))->Finish();
  // Nothing that goes would make room for it.
  EXPECT_EQ(full.error_code(), Code::FAILED_PRECONDITION);
  EXPECT_THAT(full.error_message(), HasSubstr("--session-memory-mib"));
  EXPECT_TRUE(server.Generate(Turn("a", {}, 50))->Finish().ok());
}

TEST(SessionsTest, AServerWithoutSessionsSaysSo) {
  TestServer server;
  EXPECT_EQ(server.Generate(Turn("a", {1}, 5))->Finish().error_code(), Code::FAILED_PRECONDITION);
  Sessions sessions(server);
  EXPECT_EQ(sessions.Create("a").error_code(), Code::FAILED_PRECONDITION);
  EXPECT_EQ(sessions.Import("a", "x", 1).error_code(), Code::FAILED_PRECONDITION);
}

TEST(SessionsTest, AreMadeListedForkedAndDeleted) {
  TestServer server(WithSessions());
  Sessions sessions(server);
  ASSERT_TRUE(sessions.Create("s2").ok());
  EXPECT_EQ(sessions.session.position(), 0U);
  EXPECT_EQ(sessions.Create("s2").error_code(), Code::ALREADY_EXISTS);
  ASSERT_TRUE(server.Generate(Turn("s1", {5, 6, 7}, 10))->Finish().ok());
  v1::ForkSessionResponse forks;
  ASSERT_TRUE(sessions.Fork("s1", "f", 3, &forks).ok());
  ASSERT_EQ(forks.sessions_size(), 3);
  EXPECT_EQ(forks.sessions(2).id(), "f-3");
  EXPECT_EQ(forks.sessions(2).position(), 13U);
  const auto fork = server.Generate(Turn("f-2", {}, 5));
  ASSERT_TRUE(fork->Finish().ok());
  const std::vector<int32_t> whole = Expected({5, 6, 7}, 15);
  EXPECT_EQ(fork->ids, std::vector<int32_t>(whole.begin() + 10, whole.end()));

  v1::ListSessionsRequest request;
  request.set_page_size(2);
  std::vector<std::string> ids;
  do {
    v1::ListSessionsResponse page;
    ASSERT_TRUE(sessions.Call(&v1::Sessions::Stub::ListSessions, request, &page).ok());
    EXPECT_LE(page.sessions_size(), 2);
    for (const v1::Session& session : page.sessions()) ids.push_back(session.id());
    request.set_page_token(page.next_page_token());
  } while (!request.page_token().empty());
  EXPECT_EQ(ids, (std::vector<std::string>{"f-1", "f-2", "f-3", "s1", "s2"}));
  request.set_page_size(1001);
  v1::ListSessionsResponse page;
  EXPECT_EQ(sessions.Call(&v1::Sessions::Stub::ListSessions, request, &page).error_code(),
            Code::INVALID_ARGUMENT);

  EXPECT_TRUE(sessions.Delete("s1").ok());
  EXPECT_EQ(sessions.Get("s1").error_code(), Code::NOT_FOUND);
  ASSERT_TRUE(sessions.Get("f-2").ok());
  EXPECT_EQ(sessions.session.position(), 18U);
  EXPECT_EQ(sessions.session.expire_time().seconds() - sessions.session.use_time().seconds(),
            sessions.session.ttl().seconds());
}

TEST(SessionsTest, GoOutOfOneServerAndIntoAnother) {
  std::string snapshot;
  {
    TestServer server(WithSessions());
    ASSERT_TRUE(server.Generate(Turn("a", {5, 6, 7}, 1000))->Finish().ok());
    Sessions sessions(server);
    ASSERT_TRUE(sessions.Export("a", &snapshot).ok());
    std::string nothing;
    EXPECT_EQ(sessions.Export("b", &nothing).error_code(), Code::NOT_FOUND);
  }
  TestServer server(WithSessions());
  Sessions sessions(server);
  for (const size_t piece : {size_t{100}, snapshot.size()}) {
    const std::string id = "b" + std::to_string(piece);
    const grpc::Status status = sessions.Import(id, snapshot, piece);
    ASSERT_TRUE(status.ok()) << status.error_message();
    EXPECT_EQ(sessions.session.position(), 1003U);
    const auto turn = server.Generate(Turn(id, {}, 5));
    ASSERT_TRUE(turn->Finish().ok());
    const std::vector<int32_t> whole = Expected({5, 6, 7}, 1005);
    EXPECT_EQ(turn->ids, std::vector<int32_t>(whole.begin() + 1000, whole.end()));
  }
  EXPECT_EQ(sessions.Import("c", snapshot.substr(0, 999), 100).error_code(), Code::DATA_LOSS);
  snapshot[700] = static_cast<char>(snapshot[700] ^ 1);
  EXPECT_EQ(sessions.Import("c", snapshot, 100).error_code(), Code::DATA_LOSS);
  EXPECT_EQ(sessions.Import("c", "no snapshot", 100).error_code(), Code::INVALID_ARGUMENT);
  // More than any session of the model has.
  EXPECT_EQ(sessions.Import("c", std::string(8 << 20, 'x'), 1 << 20).error_code(),
            Code::INVALID_ARGUMENT);
  EXPECT_EQ(sessions.Get("c").error_code(), Code::NOT_FOUND);
}

TEST(SessionsTest, OnlyTheFirstPieceOfASnapshotNamesTheSession) {
  TestServer server(WithSessions());
  const auto stub = v1::Sessions::NewStub(server.channel);
  grpc::ClientContext context;
  v1::Session made;
  const auto writer = stub->ImportSession(&context, &made);
  v1::ImportSessionRequest request;
  request.set_id("a");
  request.set_data("x");
  writer->Write(request);
  writer->Write(request);
  writer->WritesDone();
  const grpc::Status status = writer->Finish();
  EXPECT_EQ(status.error_code(), Code::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("only the first message"));
}

// Snapshots on their way in leave half of the buffers to everybody else.
TEST(SessionsTest, SnapshotsHaveAPartOfTheBuffers) {
  const auto import_of = [](size_t kib) {
    TestServerOptions options = WithSessions();
    options.grpc.max_buffer_bytes = 2 << 20;
    TestServer server(options);
    return Sessions(server).Import("a", std::string(kib << 10, 'x'), 64 << 10);
  };
  const grpc::Status status = import_of(1100);
  EXPECT_EQ(status.error_code(), Code::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("half of --max-buffer-mib"));
  EXPECT_THAT(import_of(900).error_message(), HasSubstr("this is no snapshot"));
}

// However often a piece comes, a client that sends less than the rate is cut.
TEST(SessionsTest, SnapshotsThatDripAreCut) {
  TestServerOptions options = WithSessions();
  options.grpc.reading = {.stall_timeout = absl::Milliseconds(300), .min_read_rate = 1 << 30};
  TestServer server(options);
  const auto stub = v1::Sessions::NewStub(server.channel);
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + absl::Seconds(60)));
  v1::Session made;
  const auto writer = stub->ImportSession(&context, &made);
  v1::ImportSessionRequest request;
  request.set_data("x");
  while (writer->Write(request)) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_EQ(writer->Finish().error_code(), Code::CANCELLED);
}

}  // namespace
}  // namespace t2r::server
