// What is known of one RPC once it is over: a line of the access log, and a trace's spans.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "server/call_ids.h"

namespace t2r::server {

struct CallFacts {
  const char* method = "";  // "t2r.v1.Generation/Generate"
  std::string tenant;
  std::string request_id;
  std::string peer;     // its address, as gRPC writes it; only where that is asked for
  std::string session;  // that it names, or made
  TraceContext trace;
  absl::StatusCode code = absl::StatusCode::kUnknown;
  absl::Time begun;
  absl::Time ended;  // its status was given to gRPC
  int64_t prompt_tokens = 0;
  int64_t cached_tokens = 0;  // of these, not run
  int64_t completion_tokens = 0;
  // Of a text that a worker tokenised.
  absl::Time tokenise_begun = absl::InfiniteFuture();
  absl::Time tokenise_ended = absl::InfiniteFuture();
  // Of a request that the scheduler took; InfiniteFuture: it did not.
  absl::Time submitted = absl::InfiniteFuture();
  // FinishEvent's. A part that was not reached is zero.
  absl::Duration queue_time, prefill_time, decode_time;
  std::string prompt;  // only with --log-prompts

  bool ran() const { return submitted != absl::InfiniteFuture(); }
  // From its begin; zero where no token came.
  absl::Duration first_token_time() const {
    return ran() && completion_tokens > 0 ? submitted - begun + queue_time + prefill_time
                                          : absl::ZeroDuration();
  }
};

}  // namespace t2r::server
