// From listening over loading to the end: statuses, health, drain, device failure.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "tests/server/testing/test_server.h"

namespace t2r::server {
namespace {

using grpc::health::v1::HealthCheckRequest;
using grpc::health::v1::HealthCheckResponse;
using ::testing::HasSubstr;

constexpr const char* kService = "t2r.v1.Generation";

HealthCheckResponse::ServingStatus Check(TestServer& server,
                                         const std::string& service = kService) {
  grpc::ClientContext context;
  HealthCheckRequest request;
  request.set_service(service);
  HealthCheckResponse response;
  EXPECT_TRUE(server.health->Check(&context, request, &response).ok());
  return response.status();
}

TEST(LoadingTest, IsUnavailableUntilLoaded) {
  TestServerOptions options;
  options.load = false;
  TestServer server(std::move(options));
  EXPECT_EQ(Check(server), HealthCheckResponse::NOT_SERVING);
  EXPECT_EQ(Check(server, ""), HealthCheckResponse::SERVING);  // it lives, though it is not ready
  EXPECT_FALSE(server.server->serving());
  const grpc::Status status = server.Generate(TokenRequest({1}, 1))->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(status.error_message(), HasSubstr("not loaded"));
  EXPECT_THAT(status.error_details(), HasSubstr("google.rpc.RetryInfo"));
  grpc::ClientContext score, model, tokenize;
  v1::ScoreResponse scored;
  EXPECT_EQ(server.stub->Score(&score, {}, &scored).error_code(), grpc::StatusCode::UNAVAILABLE);
  v1::GetModelResponse described;
  EXPECT_EQ(server.stub->GetModel(&model, {}, &described).error_code(),
            grpc::StatusCode::UNAVAILABLE);
  v1::TokenizeResponse tokens;
  EXPECT_EQ(server.stub->Tokenize(&tokenize, {}, &tokens).error_code(),
            grpc::StatusCode::UNAVAILABLE);

  server.Load();
  EXPECT_EQ(Check(server), HealthCheckResponse::SERVING);
  EXPECT_EQ(Check(server, ""), HealthCheckResponse::SERVING);
  EXPECT_TRUE(server.Generate(TokenRequest({1}, 1))->Finish().ok());
}

TEST(HealthTest, UnknownServices) {
  TestServer server;
  HealthCheckRequest request;
  request.set_service("no.such.Service");
  HealthCheckResponse response;
  grpc::ClientContext check;
  EXPECT_EQ(server.health->Check(&check, request, &response).error_code(),
            grpc::StatusCode::NOT_FOUND);
  grpc::ClientContext watch;
  const auto reader = server.health->Watch(&watch, request);
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::SERVICE_UNKNOWN);
  watch.TryCancel();
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
}

TEST(HealthTest, WatchTellsChangesAndEndsAtShutdown) {
  TestServerOptions options;
  options.load = false;
  TestServer server(std::move(options));
  grpc::ClientContext context;
  HealthCheckRequest request;
  request.set_service(kService);
  const auto reader = server.health->Watch(&context, request);
  HealthCheckResponse response;
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::NOT_SERVING);
  server.Load();
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::SERVING);
  server.server->StopTaking();
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::NOT_SERVING);
  // An open Watch does not use up the grace.
  const absl::Time start = absl::Now();
  server.server->Shutdown(absl::Minutes(5));
  EXPECT_LT(absl::Now() - start, absl::Minutes(4));
  EXPECT_FALSE(reader->Read(&response));
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST(DrainTest, LetsStreamsEndAndRefusesNewOnes) {
  TestServer server;
  server.executor.Hold();
  const auto stream = server.Generate(TokenRequest({1}, 5));
  ASSERT_TRUE(WaitUntil([&] { return server.Metric("t2r_num_requests_running") == 1; }));
  std::thread drain([&] { server.Drain(absl::Seconds(60)); });
  ASSERT_TRUE(WaitUntil([&] { return !server.server->serving(); }));
  const grpc::Status refused = server.Generate(TokenRequest({1}, 5))->Finish();
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(refused.error_details(), HasSubstr("google.rpc.RetryInfo"));
  EXPECT_EQ(Check(server), HealthCheckResponse::NOT_SERVING);
  EXPECT_EQ(Check(server, ""), HealthCheckResponse::NOT_SERVING);
  server.executor.AllowAll();
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_EQ(stream->ids.size(), 5u);
  drain.join();
}

TEST(DrainTest, EndsWhatIsLeftWithAReason) {
  TestServerOptions options;
  options.executor.slots = 1;
  TestServer server(std::move(options));
  const auto running = server.Generate(TokenRequest({1}, 1 << 20));
  ASSERT_TRUE(running->WaitForDelta());
  const auto queued = server.Generate(TokenRequest({1}, 1 << 20));
  ASSERT_TRUE(WaitUntil([&] { return server.Metric("t2r_num_requests_waiting") == 1; }));
  std::thread drain([&] { server.Drain(absl::Milliseconds(50)); });
  for (const auto& stream : {running.get(), queued.get()}) {
    const grpc::Status status = stream->Finish();
    EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
    EXPECT_THAT(status.error_message(), HasSubstr("shutting down"));
    ASSERT_TRUE(stream->finished);
    EXPECT_EQ(stream->finished->reason(), v1::FINISH_REASON_DRAINED);
    EXPECT_EQ(stream->finished->usage().generated_tokens(), stream->ids.size());
  }
  drain.join();
  EXPECT_EQ(server.Metric("t2r_request_success_total{finished_reason=\"drained\"}"), 2);
}

TEST(DeviceTest, FailureEndsRequestsAndServing) {
  TestServerOptions options;
  options.executor.slots = 1;
  TestServer server(std::move(options));
  server.executor.Hold();
  const auto running = server.Generate(TokenRequest({1}, 5));
  ASSERT_TRUE(WaitUntil([&] { return server.Metric("t2r_num_requests_running") == 1; }));
  const auto queued = server.Generate(TokenRequest({1}, 5));
  ASSERT_TRUE(WaitUntil([&] { return server.Metric("t2r_num_requests_waiting") == 1; }));
  server.executor.FailSteps();
  server.executor.AllowAll();
  for (const auto& stream : {running.get(), queued.get()}) {
    const grpc::Status status = stream->Finish();
    EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
    EXPECT_THAT(status.error_message(), HasSubstr("the fake device is broken"));
  }
  // It was NOT_SERVING before the streams ended.
  EXPECT_FALSE(server.server->serving());
  EXPECT_TRUE(server.server->failed());
  EXPECT_EQ(Check(server), HealthCheckResponse::NOT_SERVING);
  EXPECT_EQ(Check(server, ""), HealthCheckResponse::NOT_SERVING);
  const grpc::Status later = server.Generate(TokenRequest({1}, 5))->Finish();
  EXPECT_EQ(later.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(later.error_message(), HasSubstr("device failed"));
}

TEST(DeviceTest, FailureBesideAGoodEndTurnsHealthToo) {
  TestServer server;
  server.executor.FailCloses();
  EXPECT_TRUE(server.Generate(TokenRequest({1}, 5))->Finish().ok());
  ASSERT_TRUE(WaitUntil([&] { return !server.server->serving(); }));
  EXPECT_EQ(Check(server), HealthCheckResponse::NOT_SERVING);
}

TEST(ListenTest, APortThatIsTakenIsAnError) {
  TestServer server;
  Metrics metrics;
  GrpcServerOptions options;
  options.address = server.server->address();
  const auto second = GrpcServer::Start(options, metrics);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(second.status().message()), HasSubstr(options.address));
}

TEST(ListenTest, RefusesMessagesBeyondTheLimit) {
  TestServerOptions options;
  options.grpc.max_request_bytes = 4096;
  TestServer server(std::move(options));
  const grpc::Status status = server.Generate(TextRequest(std::string(5000, 'x'), 5))->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_TRUE(server.Generate(TextRequest("x", 5))->Finish().ok());
}

}  // namespace
}  // namespace t2r::server
