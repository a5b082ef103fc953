// One accepted request, from the queue to its end.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "engine/executor/executor.h"
#include "engine/prefix/prefix_cache.h"
#include "engine/scheduler/beam_group.h"
#include "engine/scheduler/request.h"
#include "engine/scheduler/stall_meter.h"
#include "engine/tokenizer/incremental_decoder.h"
#include "engine/tokenizer/tokenizer.h"

namespace t2r {

// What is left to run, what a step's result means, and when to stop. Made by any thread, then owned
// and called by the engine thread. Does not touch the executor: EngineLoop opens and closes slots.
class Session {
 public:
  // tokenizer may be null (no text); it and eos_token_ids must outlive the session. beams: of a
  // request with beams, else null.
  Session(Request request, std::shared_ptr<EventSink> sink, const Tokenizer* tokenizer,
          const std::vector<int32_t>& eos_token_ids, absl::Time submitted,
          std::unique_ptr<BeamGroup> beams = nullptr);

  RequestId id() const { return id_; }
  void set_id(RequestId id) { id_ = id; }
  const Request& request() const { return request_; }
  EventSink& sink() { return *sink_; }
  absl::Time submitted() const { return submitted_; }

  // Null for most. A session with beams has several slots, slot() being the first.
  BeamGroup* beams() { return beams_.get(); }
  // -1: no slot.
  int slot() const { return slot_; }
  void Open(int slot, absl::Time now) {
    slot_ = slot;
    opened_ = now;
  }
  void ClearSlot() { slot_ = -1; }

  // Whether rows of the prompt are still to run (for a Score, all but its last id).
  bool prefilling() const { return consumed_ < prompt_rows_; }
  int64_t generated() const { return generated_; }  // tokens
  // Tokens of the source that the next chunk takes along.
  int64_t source_rows() const {
    return consumed_ == 0 ? static_cast<int64_t>(request_.source.size()) : 0;
  }
  // What its slot has to hold.
  SessionSize size() const;
  int64_t prompt_rows_left() const { return prompt_rows_ - consumed_; }
  // Of these, the ones to run before the state of the prompt's beginning is to be kept.
  int64_t prompt_rows_to_stop() const;
  // A state had the prompt's first `start.cached` tokens. Before the first chunk.
  void StartFrom(PrefixCache::Start start);
  // Where the session stands, if its state there is to be kept. Forgets the stops before.
  std::optional<PrefixStop> TakeStop();
  // Rows to run while decoding, before anything else can: one, or one of every beam.
  int64_t decode_rows() const { return beams_ == nullptr ? 1 : beams_->due(); }
  // Whether running `rows` more rows yields a token.
  bool Yields(int64_t rows) const { return !request_.score && consumed_ + rows >= prompt_rows_; }
  // How slow its client may be; before the first HasRoom.
  void set_stall_meter(const StallMeter& meter) { stall_ = meter; }
  // Asks the sink, and keeps account of a client that leaves no room. Beams yield nothing on the
  // way, so there is room always.
  bool HasRoom(absl::Time now);
  // When its client will have stalled; InfiniteFuture: had room when last asked.
  absl::Time stall_deadline() const { return stall_.deadline(); }

  // The next `rows` rows (prefilling: at most prompt_rows_left(); decoding: 1, of the beam-th beam
  // that is due), in a new *chunk: made in its place, since a copy of what was just written in
  // small parts stalls. Valid until the next non-const call.
  void NextChunk(int64_t rows, int64_t beam, ScheduledChunk* chunk) const;
  // Takes the result of NextChunk(rows): keeps the scores, or the token until Deliver. The reason
  // when this ends the request; kError where a row's logits were not finite, which fault() says.
  // This is all that must happen before the next step is formed: text is made here only where a
  // stop string may be in it.
  std::optional<FinishReason> Accept(int64_t rows, ChunkResult&& result, absl::Time now);
  // Why Accept gave kError; OK: it was a beam search without a finite log probability.
  const absl::Status& fault() const { return fault_; }
  // Whether a token waits for Deliver.
  bool undelivered() const { return undelivered_; }
  // When the one before it came, or, of the first, when it was submitted.
  absl::Time undelivered_since() const { return undelivered_since_; }
  // Hands the token to the sink. together: see EventSink.
  void Deliver(size_t together);

  // Whether the tokens so far are to be checkpointed.
  bool CheckpointDue() const {
    const int64_t every = request_.checkpoint_tokens;
    return request_.keep && every > 0 && generated_ > 0 && generated_ % every == 0;
  }
  // The state that goes with what its slot holds, with the token that Accept has just taken.
  std::shared_ptr<const SessionState> MakeCheckpoint(SlotState slot);

  // What its slot held when it ended, for a request that is kept; before MakeFinish.
  void set_slot_state(SlotState state) { slot_state_ = std::move(state); }
  // The last event, text still held back included. May turn the reason into kStop when that text
  // completes a stop string. Call once, with nothing undelivered.
  FinishEvent MakeFinish(FinishReason reason, absl::Status status, absl::Time now);

 private:
  std::optional<FinishReason> AcceptToken(ChunkResult&& result, absl::Time now);
  std::optional<FinishReason> AcceptBeams(int64_t rows, ChunkResult&& result, absl::Time now);
  FinishReason ReasonOf(const BeamSearch::Hypothesis& hypothesis) const;
  // The hypotheses to report, and their tokens' count in generated_.
  std::vector<Hypothesis> MakeHypotheses();
  // The reason why `token`, which event_ holds, ends the request.
  std::optional<FinishReason> CheckStops(int32_t token);
  std::string FlushText(bool* stopped);
  // The token's text, where it is still to be made.
  void MakeText();
  // What a turn leaves behind. holds: its text may go on where it ended.
  std::shared_ptr<const SessionState> MakeState(SlotState slot, bool holds);

  RequestId id_ = 0;
  const Tokenizer* tokenizer_;  // null: no text
  const std::vector<int32_t>& eos_token_ids_;
  std::unique_ptr<BeamGroup> beams_;

  // ---- What every step looks at, in few cache lines ----
  std::shared_ptr<EventSink> sink_;
  int slot_ = -1;
  int32_t next_token_ = 0;  // sampled last, not yet consumed
  int64_t prompt_rows_ = 0;
  int64_t base_ = 0;      // tokens that had gone through the model before
  int64_t consumed_ = 0;  // tokens that went through the model since, of every beam
  int64_t generated_ = 0;
  bool undelivered_ = false;
  bool text_due_ = false;     // the undelivered token's text is still to be made
  bool text_closed_ = false;  // a stop string ended the text
  absl::Time last_token_ = absl::InfiniteFuture();
  absl::Time undelivered_since_;
  StallMeter stall_;
  TokenEvent event_;  // the undelivered token
  std::optional<IncrementalDecoder> decoder_;
  Request request_;

  // ---- What few do ----
  std::optional<StopMatcher> matcher_;
  absl::Status fault_;
  PrefixCache::Start prefix_;
  size_t next_stop_ = 0;  // in prefix_.stops
  int64_t rounds_ = 0;    // of a search
  std::string matched_stop_;
  std::vector<float> scores_;
  std::optional<SlotState> slot_state_;
  absl::Time submitted_;
  absl::Time opened_ = absl::InfiniteFuture();
  absl::Time first_token_ = absl::InfiniteFuture();
};

}  // namespace t2r
