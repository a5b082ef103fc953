// What ties a call to what is said of it elsewhere: x-request-id and W3C's traceparent.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"

namespace t2r::server {

// Whether a client's x-request-id is taken: 1 to 128 letters, digits and . _ : / + = @ -
bool IsRequestId(absl::string_view text);
// A new one: 128 random bits in hexadecimal.
std::string NewRequestId();

// Where a call stands in a trace.
struct TraceContext {
  std::array<uint8_t, 16> trace_id = {};       // all zero: none
  std::array<uint8_t, 8> parent_span_id = {};  // all zero: this call is the trace's first span
  bool sampled = false;
};

// W3C Trace Context: "00-" 32 hexadecimal digits "-" 16 of them "-" 2 of flags; of later versions
// what begins like that. Nothing where it is not one: the call then begins a trace.
std::optional<TraceContext> ParseTraceParent(absl::string_view text);
// A new trace, sampled with probability `ratio`.
TraceContext NewTrace(double ratio);

// Random bits, not fit for secrets.
uint64_t RandomBits();

}  // namespace t2r::server
