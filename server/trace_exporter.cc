#include "server/trace_exporter.h"

#include <grpcpp/client_context.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>

#include <algorithm>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "engine/io/mutex.h"
#include "opentelemetry/trace_service.grpc.pb.h"
#include "server/batch_queue.h"

namespace t2r::server {
namespace {

constexpr size_t kMaxWaiting = 2048;
constexpr size_t kBatch = 256;
constexpr absl::Duration kInterval = absl::Seconds(1);
constexpr absl::Duration kTimeout = absl::Seconds(10);
constexpr absl::Duration kLastTimeout = absl::Milliseconds(500);

template <typename Bytes>
std::string Text(const Bytes& bytes) {
  return {bytes.begin(), bytes.end()};
}

std::string NewSpanId() {
  uint64_t bits = RandomBits() | 1;  // not all zero
  std::string id;
  for (size_t i = 0; i < sizeof(bits); ++i, bits >>= 8) id += static_cast<char>(bits & 0xff);
  return id;
}

void AddText(otlp::Span* span, const char* key, const std::string& value) {
  otlp::KeyValue* attribute = span->add_attributes();
  attribute->set_key(key);
  attribute->mutable_value()->set_string_value(value);
}

void AddNumber(otlp::Span* span, const char* key, int64_t value) {
  otlp::KeyValue* attribute = span->add_attributes();
  attribute->set_key(key);
  attribute->mutable_value()->set_int_value(value);
}

// The clock may be set back: no span ends before it begins.
void SetTimes(absl::Time begin, absl::Time end, otlp::Span* span) {
  span->set_start_time_unix_nano(static_cast<uint64_t>(absl::ToUnixNanos(begin)));
  span->set_end_time_unix_nano(static_cast<uint64_t>(absl::ToUnixNanos(std::max(begin, end))));
}

}  // namespace

void AddSpans(const CallFacts& facts, otlp::ScopeSpans* to) {
  otlp::Span* call = to->add_spans();
  const std::string trace = Text(facts.trace.trace_id);
  call->set_trace_id(trace);
  const std::string call_id = NewSpanId();
  call->set_span_id(call_id);
  const std::string parent = Text(facts.trace.parent_span_id);
  if (parent != std::string(parent.size(), '\0')) call->set_parent_span_id(parent);
  const std::string method = facts.method;
  call->set_name(method);
  call->set_kind(otlp::Span::SPAN_KIND_SERVER);
  SetTimes(facts.begun, facts.ended, call);
  AddText(call, "rpc.system", "grpc");
  AddText(call, "rpc.service", method.substr(0, method.find('/')));
  AddText(call, "rpc.method", method.substr(method.find('/') + 1));
  AddNumber(call, "rpc.grpc.status_code", static_cast<int64_t>(facts.code));
  AddText(call, "t2r.request_id", facts.request_id);
  if (!facts.tenant.empty()) AddText(call, "t2r.tenant", facts.tenant);
  if (facts.ran()) {
    AddNumber(call, "gen_ai.usage.input_tokens", facts.prompt_tokens);
    AddNumber(call, "gen_ai.usage.output_tokens", facts.completion_tokens);
    AddNumber(call, "t2r.cached_tokens", facts.cached_tokens);
  }
  if (facts.code != absl::StatusCode::kOk) {
    call->mutable_status()->set_code(otlp::Status::STATUS_CODE_ERROR);
    call->mutable_status()->set_message(absl::StatusCodeToString(facts.code));
  }
  const auto part = [&](const char* name, absl::Time begin, absl::Time end) {
    otlp::Span* span = to->add_spans();
    span->set_trace_id(trace);
    span->set_span_id(NewSpanId());
    span->set_parent_span_id(call_id);
    span->set_name(name);
    span->set_kind(otlp::Span::SPAN_KIND_INTERNAL);
    SetTimes(begin, end, span);
  };
  if (facts.tokenise_ended != absl::InfiniteFuture()) {
    part("tokenise", facts.tokenise_begun, facts.tokenise_ended);
  }
  if (!facts.ran()) return;
  const absl::Time opened = facts.submitted + facts.queue_time;
  const absl::Time first = opened + facts.prefill_time;
  part("queue", facts.submitted, opened);
  if (facts.prefill_time > absl::ZeroDuration()) part("prefill", opened, first);
  if (facts.decode_time > absl::ZeroDuration()) part("decode", first, first + facts.decode_time);
}

struct TraceExporter::State {
  explicit State(const std::string& endpoint) {
    absl::string_view target = endpoint;
    const bool tls = absl::ConsumePrefix(&target, "https://");
    absl::ConsumePrefix(&target, "http://");
    stub = otlp::TraceService::NewStub(grpc::CreateChannel(
        std::string(target), tls ? grpc::SslCredentials(grpc::SslCredentialsOptions())
                                 : grpc::InsecureChannelCredentials()));
  }

  void Send(const std::vector<CallFacts>& batch) {
    otlp::ExportTraceServiceRequest request;
    otlp::ResourceSpans* spans = request.add_resource_spans();
    otlp::KeyValue* service = spans->mutable_resource()->add_attributes();
    service->set_key("service.name");
    service->mutable_value()->set_string_value("t2r-server");
    otlp::ScopeSpans* scope = spans->add_scope_spans();
    scope->mutable_scope()->set_name("t2r");
    scope->mutable_scope()->set_version(T2R_VERSION);
    for (const CallFacts& facts : batch) AddSpans(facts, scope);
    grpc::ClientContext context;
    otlp::ExportTraceServiceResponse response;
    {
      const MutexLock lock(mutex);
      const absl::Duration timeout = stopping ? kLastTimeout : kTimeout;
      context.set_deadline(absl::ToChronoTime(absl::Now() + timeout));
      if (!stopping) sending = &context;
    }
    const bool taken = stub->Export(&context, request, &response).ok();
    const MutexLock lock(mutex);
    sending = nullptr;
    (taken ? sent : lost) += static_cast<int64_t>(batch.size());
  }

  void Run() {
    std::vector<CallFacts> batch;
    while (waiting.Take(&batch)) Send(batch);
  }

  std::unique_ptr<otlp::TraceService::Stub> stub;
  BatchQueue<CallFacts> waiting{kMaxWaiting, kBatch, kInterval};
  Mutex mutex;
  int64_t sent ABSL_GUARDED_BY(mutex) = 0;
  int64_t lost ABSL_GUARDED_BY(mutex) = 0;  // that the collector did not take
  bool stopping ABSL_GUARDED_BY(mutex) = false;
  grpc::ClientContext* sending ABSL_GUARDED_BY(mutex) = nullptr;  // to be cancelled at the end
  std::thread thread;
};

TraceExporter::TraceExporter(const std::string& endpoint)
    : state_(std::make_unique<State>(endpoint)) {
  state_->thread = std::thread([state = state_.get()] { state->Run(); });
}

TraceExporter::~TraceExporter() {
  {
    const MutexLock lock(state_->mutex);
    state_->stopping = true;
    if (state_->sending != nullptr) state_->sending->TryCancel();
  }
  state_->waiting.Close();
  state_->thread.join();
}

void TraceExporter::Write(CallFacts facts) {
  facts.prompt.clear();
  state_->waiting.Push(std::move(facts));
}

int64_t TraceExporter::sent() const {
  const MutexLock lock(state_->mutex);
  return state_->sent;
}

int64_t TraceExporter::dropped() const {
  const MutexLock lock(state_->mutex);
  return state_->waiting.dropped() + state_->lost;
}

}  // namespace t2r::server
