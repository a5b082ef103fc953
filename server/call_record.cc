#include "server/call_record.h"

#include <optional>
#include <utility>

#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "server/call_ids.h"
#include "server/identity.h"
#include "server/refusals.h"

namespace t2r::server {
namespace {

constexpr size_t kMaxPromptBytes = 4096;
constexpr size_t kMaxSessionBytes = 128;

absl::string_view HeaderOf(const grpc::CallbackServerContext& rpc, const char* name) {
  const auto found = rpc.client_metadata().find(name);
  return found == rpc.client_metadata().end()
             ? absl::string_view()
             : absl::string_view(found->second.data(), found->second.size());
}

}  // namespace

CallRecord::CallRecord(CallContext& context, grpc::CallbackServerContext& rpc, const char* method)
    : context_(context) {
  facts_.method = method;
  if (context.peers.limit() > 0 || context.access_log != nullptr) facts_.peer = rpc.peer();
  facts_.begun = absl::Now();
  facts_.tenant = TenantOf(context, rpc);
  limits_ = context.tenants.LimitsOf(facts_.tenant);
  const absl::string_view id = HeaderOf(rpc, "x-request-id");
  facts_.request_id = IsRequestId(id) ? std::string(id) : NewRequestId();
  // Not with the initial metadata: a refusal would no longer be trailers alone, which is what
  // proxies send again elsewhere.
  rpc.AddTrailingMetadata("x-request-id", facts_.request_id);
  const std::optional<TraceContext> parent = ParseTraceParent(HeaderOf(rpc, "traceparent"));
  if (parent) {
    facts_.trace = *parent;
  } else if (context.traces != nullptr) {
    facts_.trace = NewTrace(context.trace_ratio);
  }
}

CallRecord::~CallRecord() {
  const bool named = !context_.access.options().api_keys.empty();
  context_.metrics.OnCall(context_.tenants.LabelOf(facts_.tenant, named), facts_);
  if (context_.traces != nullptr && facts_.trace.sampled) {
    context_.traces->Write(facts_);
  }
  if (context_.access_log != nullptr) context_.access_log->Write(std::move(facts_));
}

absl::Status CallRecord::Enter() {
  if (!context_.peers.Take(facts_.peer, &share_)) return TooManyOf(context_.peers);
  return context_.tenants.Take(facts_.tenant, &lease_);
}

void CallRecord::OnSession(const std::string& id) {
  facts_.session = id.substr(0, kMaxSessionBytes);
}

void CallRecord::KeepPrompt(const std::string& text) {
  if (context_.log_prompts) facts_.prompt = text.substr(0, kMaxPromptBytes);
}

void CallRecord::OnTokenise(absl::Time begun, absl::Time ended) {
  facts_.tokenise_begun = begun;
  facts_.tokenise_ended = ended;
}

void CallRecord::OnSubmit(const Request& request) {
  facts_.submitted = absl::Now();
  facts_.prompt_tokens = request.prompt_tokens();
  context_.tenants.UseTokens(facts_.tenant, facts_.prompt_tokens);
}

void CallRecord::OnFinished(const FinishEvent& event) {
  facts_.cached_tokens = event.cached_prompt_tokens;
  facts_.completion_tokens = event.generated_tokens;
  facts_.queue_time = event.queue_time;
  facts_.prefill_time = event.prefill_time;
  facts_.decode_time = event.decode_time;
  context_.tenants.UseTokens(facts_.tenant, event.decoded_tokens);
}

void CallRecord::OnEnd(const grpc::Status& status) {
  facts_.code = static_cast<absl::StatusCode>(status.error_code());
  facts_.ended = absl::Now();
}

}  // namespace t2r::server
