// A request as the scheduler sees it, and what comes back. Plain structs; no gRPC, no Protobuf.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/executor/executor.h"
#include "engine/sampling/params.h"
#include "engine/scheduler/beam_search.h"
#include "engine/snapshot/session_state.h"

namespace t2r {

using RequestId = uint64_t;

// Whose turn it is among requests that wait; see FairQueue.
enum class Priority : uint8_t { kHigh, kNormal, kLow };
inline constexpr size_t kPriorities = 3;

enum class FinishReason : uint8_t {
  kStop,       // a stop string or stop token
  kLength,     // max_tokens reached
  kEos,        // the model's end of sequence
  kCancelled,  // the client went away or cancelled
  kDeadline,   // the request's deadline passed
  kDrained,    // the server is shutting down
  kStalled,    // the client did not take its tokens for too long
  kError,      // the device failed, memory ran out, or the model's logits are not finite
  kScored,     // a Score request is complete
};

// For metrics and logs.
constexpr const char* NameOf(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kEos:
      return "eos";
    case FinishReason::kCancelled:
      return "cancelled";
    case FinishReason::kDeadline:
      return "deadline";
    case FinishReason::kDrained:
      return "drained";
    case FinishReason::kStalled:
      return "stalled";
    case FinishReason::kError:
      return "error";
    case FinishReason::kScored:
      return "scored";
  }
  return "";
}

struct Request {
  std::vector<int32_t> prompt;  // ≥ 1 ids (BOS, or the decoder's start token, included)
  // Encoder-decoders: what the encoder reads, ≥ 1 ids. Empty for other models.
  std::vector<int32_t> source;
  // Generate when score is false:
  int64_t max_tokens = 0;  // ≥ 1
  SamplingParams sampling;
  std::vector<std::string> stop;
  bool include_stop = false;  // the matched stop string is part of the text
  std::vector<int32_t> stop_token_ids;
  bool ignore_eos = false;
  int top_logprobs = 0;  // alternatives a token
  // Beam search when beams.count > 0: no tokens are reported, only hypotheses, at the end.
  BeamParams beams;
  // Score: log p(prompt[i+1] | prompt[0..i]) for all i; nothing is generated.
  bool score = false;
  // A turn of a session: one that is kept beyond the request, whose state FinishEvent then has.
  bool keep = false;
  // What the turn goes on from; null: nothing, it is the session's first. `prompt` then begins with
  // from->last_token, and source is empty: the encoder's work is in the state.
  std::shared_ptr<const SessionState> from;
  // Whose it is; empty: nobody named. Prompts' beginnings are shared within a tenant.
  std::string tenant;
  // Of a turn: after every so many of its tokens EventSink::OnCheckpoint gets its state; 0: never.
  int64_t checkpoint_tokens = 0;
  // Every id of prompt and source is known to be of its vocabulary: Validate need not look again.
  bool ids_checked = false;
  absl::Time deadline = absl::InfiniteFuture();
  // How FairQueue treats its tenant, and this request.
  int weight = 1;  // ≥ 1
  Priority priority = Priority::kNormal;

  // Positions it needs: those of `from`, prompt + max_tokens − 1 (Score: prompt − 1), since the
  // last token is not run through the model. At most INT64_MAX.
  int64_t positions() const;
  // Prompt and source: what counts against the queue while it waits, and what a finish reports.
  int64_t queue_tokens() const;
  // What it takes of its tenant's turns: queue_tokens, and 64 for each of its slots.
  int64_t queue_cost() const { return queue_tokens() + int64_t{64} * slots(); }
  // Of these, the ones that the client gave.
  int64_t prompt_tokens() const { return queue_tokens() - (from == nullptr ? 0 : 1); }
  // Slots that it takes: one for each beam.
  int slots() const { return beams.count > 0 && !score ? beams.count : 1; }
  // What ends a sequence: the end-of-sequence tokens, unless ignored, and its own stop tokens, each
  // once.
  std::vector<int32_t> TerminalIds(const std::vector<int32_t>& eos_token_ids) const;
};

// One generated token as it goes to the client. Every sampled token is reported once, with all its
// log probabilities, the one that ends the request included: an end-of-sequence token or stop token
// without text, the token that completes a stop string with the text before (or, with include_stop,
// up to the end of) the match.
struct TokenEvent {
  int32_t token = 0;
  float logprob = 0;
  std::vector<TokenLogprob> top;
  std::string text;     // whole code points that became final; may be empty
  size_t together = 1;  // see EventSink
};

// One result of a beam search.
struct Hypothesis {
  std::vector<int32_t> tokens;  // the end-of-sequence or stop token included
  std::string text;             // of them; an end-of-sequence or stop token has none
  float score = 0;              // see BeamSearch
  FinishReason reason = FinishReason::kLength;  // kEos, kStop or kLength
};

struct FinishEvent {
  FinishReason reason = FinishReason::kStop;
  // OK for stop, length, eos and scored. CANCELLED, DEADLINE_EXCEEDED; ABORTED when stalled;
  // UNAVAILABLE when drained or after a device failure; RESOURCE_EXHAUSTED or INTERNAL after a
  // fault that is not the device's.
  absl::Status status;
  std::string text;           // what was still held back
  std::string matched_stop;   // the stop string, when one ended it
  int64_t prompt_tokens = 0;  // Request::prompt_tokens
  int64_t cached_prompt_tokens =
      0;                         // of these, not run: a state of the prompt's beginning had them
  int64_t generated_tokens = 0;  // of all hypotheses, for a beam search
  int64_t decoded_tokens = 0;    // that decoding ran; of a beam search those of every beam
  std::vector<float> scores;     // Score
  std::vector<Hypothesis> hypotheses;  // beam search: what had ended by then, best first
  // Request::keep, where the reason is stop, length or eos, or where it is drained and has tokens;
  // else null: a turn that ends otherwise leaves its session as it was. Text that may go on (an
  // unfinished code point, the beginning of a stop string) is then held back in it when the reason
  // is length or drained; held_text shows the latter.
  std::shared_ptr<const SessionState> state;
  std::string held_text;
  // Submit to slot, slot to first token (Score: to the end), first token to the end.
  absl::Duration queue_time, prefill_time, decode_time;
};

// Where a request's events go. Called by the engine thread only; must not block. `together`: events
// that the engine hands out in this turn, of all requests. What a sink does with each of a few may
// take some microseconds.
class EventSink {
 public:
  virtual ~EventSink() = default;
  // The session has its slot and starts. Not called for what ends while queued, nor for a Score of
  // one id, which needs no slot.
  virtual void OnStarted(size_t together) = 0;
  struct Room {
    bool fits = true;
    int64_t taken_bytes = 0;  // by the client so far; looked at where a least rate is set
  };
  // Does not fit while the client lags and its bounded outbox is full: the session then sits out
  // steps. Asked before every step that would yield a token; what fits is `tokens` OnTokens: that
  // one, and the one before it if it has not been handed out yet. Once there is room that is worth
  // a step the owner calls Scheduler::Wake.
  virtual Room RoomFor(int64_t tokens) = 0;
  virtual void OnToken(const TokenEvent& event) = 0;
  // As Request::checkpoint_tokens says. NOLINTNEXTLINE(performance-unnecessary-value-param)
  virtual void OnCheckpoint(std::shared_ptr<const SessionState> /*state*/) {}
  // Always the last call, exactly once for every submitted request, room or not. The slot is free.
  virtual void OnFinished(FinishEvent event) = 0;
};

}  // namespace t2r
