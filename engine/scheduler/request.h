// A request as the scheduler sees it, and what comes back. Plain structs; no gRPC, no Protobuf.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/model/executor.h"
#include "engine/sampling/params.h"

namespace t2r {

enum class FinishReason : uint8_t {
  kStop,       // a stop string or stop token
  kLength,     // max_tokens reached
  kEos,        // the model's end of sequence
  kCancelled,  // the client went away or cancelled
  kDeadline,   // the request's deadline passed
  kDrained,    // the server is shutting down
  kStalled,    // the client did not take its tokens for too long
  kError,      // the device failed
  kScored,     // a Score request is complete
};
inline constexpr int kFinishReasons = 9;

struct Request {
  std::vector<int32_t> prompt;  // ≥ 1 ids (BOS included)
  // Generate when score is false:
  int64_t max_tokens = 0;  // ≥ 1
  SamplingParams sampling;
  std::vector<std::string> stop;
  bool include_stop = false;  // the matched stop string is part of the text
  std::vector<int32_t> stop_token_ids;
  bool ignore_eos = false;
  int top_logprobs = 0;  // alternatives a token
  // Score: log p(prompt[i+1] | prompt[0..i]) for all i; nothing is generated.
  bool score = false;
  absl::Time deadline = absl::InfiniteFuture();

  // Positions it needs: prompt + max_tokens − 1 (Score: prompt − 1).
  int64_t positions() const;
};

// One generated token as it goes to the client.
struct TokenEvent {
  int32_t token = 0;
  float logprob = 0;
  std::vector<TokenLogprob> top;
  std::string text;  // whole code points that became final; may be empty
};

struct FinishEvent {
  FinishReason reason = FinishReason::kStop;
  absl::Status status;       // not OK for cancelled, deadline, drained, stalled, error
  std::string text;          // what was still held back
  std::string matched_stop;  // the stop string, when one ended it
  int64_t prompt_tokens = 0;
  int64_t generated_tokens = 0;
  std::vector<float> scores;  // Score
  absl::Duration queue_time, prefill_time, decode_time;
};

// Where a request's events go. Called by the engine thread only; must not block.
class EventSink {
 public:
  virtual ~EventSink() = default;
  // The session has its slot and starts.
  virtual void OnStarted() = 0;
  // False while the client lags and its bounded outbox is full: the session then sits out steps.
  // When room appears the owner calls Scheduler::Wake.
  virtual bool HasRoom() = 0;
  virtual void OnToken(TokenEvent event) = 0;
  // Always the last call, exactly once for every submitted request.
  virtual void OnFinished(FinishEvent event) = 0;
};

}  // namespace t2r
