// Any bytes as what clients and operators say of calls: the first byte chooses a file of tenants'
// limits, a traceparent or an x-request-id. They are refused with a reason, or what is made of them
// keeps its bounds.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "server/call_ids.h"
#include "server/tenant_limits.h"

namespace {

using t2r::server::TenantFile;
using t2r::server::TenantLimits;

void CheckLimits(const TenantLimits& limits) {
  for (const int64_t number :
       {limits.max_requests, limits.requests_per_minute, limits.tokens_per_minute,
        limits.max_sessions, limits.max_session_bytes}) {
    if (number < 0) std::abort();
  }
  if (limits.weight < 1 || limits.weight > 1000) std::abort();
  if (!(limits.queue_share > 0 && limits.queue_share <= 1)) std::abort();
  if (static_cast<size_t>(limits.priority) >= t2r::kPriorities) std::abort();
}

void CheckFile(const std::string& text) {
  const auto file = TenantFile::Parse(text);
  if (!file.ok()) {
    if (file.status().message().empty()) std::abort();
    return;
  }
  CheckLimits(file->Of("alice"));
  CheckLimits(file->Of(""));
}

void CheckTrace(const std::string& text) {
  const auto context = t2r::server::ParseTraceParent(text);
  if (!context) return;
  const auto zero = [](uint8_t byte) { return byte == 0; };
  if (text.size() < 55 || std::all_of(context->trace_id.begin(), context->trace_id.end(), zero) ||
      std::all_of(context->parent_span_id.begin(), context->parent_span_id.end(), zero)) {
    std::abort();
  }
}

void CheckId(const std::string& text) {
  if (!t2r::server::IsRequestId(text)) return;
  if (text.empty() || text.size() > 128) std::abort();
  // Nothing that could end a line or a header, or begin an escape.
  if (text.find_first_of(std::string("\0\r\n\"\\ <>%;,", 11)) != std::string::npos) std::abort();
}

}  // namespace

std::vector<std::string> FuzzSeeds() {
  return {
      R"(0{"default": {"max_requests": 4, "queue_share": 0.5, "priority": "low"},
            "tenants": {"alice": {"weight": 3, "tokens_per_minute": 1000, "priority": "high"},
                        "b": {"max_sessions": 2, "max_session_bytes": 3, "requests_per_minute": 9}}})",
      "1"
      "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
      "1"
      "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00-more",
      "2"
      "3f2b8c1e-aa00.b_c:d/e+f=g@h",
  };
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string text(reinterpret_cast<const char*>(data) + 1, size - 1);
  switch (data[0] % 3) {
    case 0:
      CheckFile(text);
      break;
    case 1:
      CheckTrace(text);
      break;
    default:
      CheckId(text);
  }
  return 0;
}
