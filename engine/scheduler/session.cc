#include "engine/scheduler/session.h"

#include <algorithm>
#include <cassert>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"

namespace t2r {
namespace {

bool Contains(const std::vector<int32_t>& ids, int32_t id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

}  // namespace

Session::Session(Request request, std::shared_ptr<EventSink> sink, const Tokenizer* tokenizer,
                 const std::vector<int32_t>& eos_token_ids, absl::Time submitted,
                 std::unique_ptr<BeamGroup> beams)
    : tokenizer_(tokenizer),
      eos_token_ids_(eos_token_ids),
      beams_(std::move(beams)),
      sink_(std::move(sink)),
      request_(std::move(request)),
      submitted_(submitted) {
  prompt_rows_ = static_cast<int64_t>(request_.prompt.size()) - (request_.score ? 1 : 0);
  if (request_.score) {
    scores_.reserve(static_cast<size_t>(prompt_rows_));
    return;
  }
  const SessionState* from = request_.from.get();
  if (from != nullptr) base_ = from->slot.positions;
  if (tokenizer == nullptr) return;
  if (!request_.stop.empty()) matcher_.emplace(request_.stop, request_.include_stop);
  if (from == nullptr) {
    decoder_.emplace(*tokenizer, request_.prompt);
    return;
  }
  // The text of the last token has been made already.
  decoder_.emplace(*tokenizer, std::span(request_.prompt).subspan(1), from->decoder);
  const bool goes_on = request_.prompt.size() == 1 && request_.stop == from->stop &&
                       request_.include_stop == from->include_stop;
  if (matcher_ && goes_on) matcher_->Resume(from->held);
}

SessionSize Session::size() const {
  SessionSize size;
  size.positions = request_.positions();
  size.source = request_.from != nullptr ? request_.from->slot.source : source_rows();
  size.lasting = request_.keep;
  return size;
}

bool Session::HasRoom(absl::Time now) {
  if (beams_ != nullptr) return true;
  const EventSink::Room room = sink_->RoomFor(undelivered_ ? 2 : 1);
  stall_.Update(room.fits, room.taken_bytes, now);
  return room.fits;
}

int64_t Session::prompt_rows_to_stop() const {
  for (size_t i = next_stop_; i < prefix_.stops.size(); ++i) {
    const PrefixStop& stop = prefix_.stops[i];
    if (!stop.spare && stop.position > consumed_) return stop.position - consumed_;
  }
  return prompt_rows_left();
}

void Session::StartFrom(PrefixCache::Start start) {
  prefix_ = std::move(start);
  consumed_ = prefix_.cached;
}

std::optional<PrefixStop> Session::TakeStop() {
  while (next_stop_ < prefix_.stops.size()) {
    const PrefixStop& stop = prefix_.stops[next_stop_];
    if (stop.position > consumed_) return std::nullopt;
    ++next_stop_;
    if (stop.position == consumed_) return stop;
  }
  return std::nullopt;
}

void Session::NextChunk(int64_t rows, int64_t beam, ScheduledChunk* chunk) const {
  chunk->slot = slot_;
  chunk->sample = Yields(rows);
  if (chunk->sample) chunk->top_logprobs = request_.top_logprobs;
  if (beams_ != nullptr && chunk->sample) *chunk = beams_->NextChunk(beam);
  chunk->position = base_ + consumed_;
  if (!prefilling()) {
    if (beams_ == nullptr) chunk->tokens = std::span(&next_token_, 1);
    return;
  }
  if (consumed_ == 0) chunk->source = request_.source;
  const std::span<const int32_t> prompt(request_.prompt);
  const auto first = static_cast<size_t>(consumed_);
  const auto count = static_cast<size_t>(rows);
  chunk->tokens = prompt.subspan(first, count);
  if (request_.score) chunk->targets = prompt.subspan(first + 1, count);
}

std::optional<FinishReason> Session::Accept(int64_t rows, ChunkResult&& result, absl::Time now) {
  const bool sampled = Yields(rows);
  if (result.not_finite >= 0) {
    fault_ = absl::InternalError(absl::StrCat(
        "the model's logits after position ", result.not_finite,
        " are not finite (NaN or infinity): its weights, or what they make of this request, are "
        "beyond the range of its numbers"));
    return FinishReason::kError;
  }
  if (sampled && beams_ != nullptr) return AcceptBeams(rows, std::move(result), now);
  consumed_ += rows;
  if (request_.score) {
    scores_.insert(scores_.end(), result.scores.begin(), result.scores.end());
    if (prefilling()) return std::nullopt;
    return FinishReason::kScored;
  }
  if (!sampled) return std::nullopt;
  return AcceptToken(std::move(result), now);
}

std::optional<FinishReason> Session::AcceptBeams(int64_t rows, ChunkResult&& result,
                                                 absl::Time now) {
  if (!beams_->Accept(std::move(result))) return std::nullopt;
  ++rounds_;
  consumed_ += rows;
  first_token_ = std::min(first_token_, now);
  if (!beams_->done()) return std::nullopt;
  if (beams_->hypotheses().empty()) return FinishReason::kError;
  return ReasonOf(beams_->hypotheses().front());
}

std::optional<FinishReason> Session::AcceptToken(ChunkResult&& result, absl::Time now) {
  assert(!undelivered_);
  ++generated_;
  if (generated_ == 1) first_token_ = now;
  undelivered_since_ = generated_ == 1 ? submitted_ : last_token_;
  last_token_ = now;
  next_token_ = result.sampled.token;

  undelivered_ = true;
  event_.token = result.sampled.token;
  event_.logprob = result.sampled.logprob;
  event_.top = std::move(result.top);
  event_.text.clear();
  std::optional<FinishReason> reason = CheckStops(event_.token);
  if (!reason && generated_ >= request_.max_tokens) reason = FinishReason::kLength;
  return reason;
}

std::optional<FinishReason> Session::CheckStops(int32_t token) {
  text_due_ = false;
  if (!request_.ignore_eos && Contains(eos_token_ids_, token)) return FinishReason::kEos;
  if (Contains(request_.stop_token_ids, token)) return FinishReason::kStop;
  if (!decoder_) return std::nullopt;
  text_due_ = !matcher_;
  if (text_due_) return std::nullopt;
  std::string text;
  decoder_->Append(token, &text);
  StopMatcher::Result matched = tokenizer_->IsSpecial(token)
                                    ? matcher_->AppendName(tokenizer_->TokenText(token))
                                    : matcher_->Append(text);
  event_.text = std::move(matched.text);
  if (!matched.stopped) return std::nullopt;
  text_closed_ = true;
  matched_stop_ = request_.stop[static_cast<size_t>(matched.stop_index)];
  return FinishReason::kStop;
}

void Session::Deliver(size_t together) {
  MakeText();
  event_.together = together;
  undelivered_ = false;
  sink_->OnToken(event_);
}

void Session::MakeText() {
  if (text_due_) decoder_->Append(event_.token, &event_.text);
  text_due_ = false;
}

std::shared_ptr<const SessionState> Session::MakeCheckpoint(SlotState slot) {
  MakeText();
  return MakeState(std::move(slot), /*holds=*/true);
}

std::string Session::FlushText(bool* stopped) {
  if (text_closed_ || !decoder_) return "";
  std::string text = decoder_->Finish();
  if (!matcher_) return text;
  StopMatcher::Result matched = matcher_->Append(text);
  if (matched.stopped) {
    *stopped = true;
    matched_stop_ = request_.stop[static_cast<size_t>(matched.stop_index)];
    return std::move(matched.text);
  }
  return matched.text + matcher_->Finish();
}

std::shared_ptr<const SessionState> Session::MakeState(SlotState slot, bool holds) {
  auto state = std::make_shared<SessionState>();
  state->slot = std::move(slot);
  state->last_token = next_token_;
  state->sampling = request_.sampling;
  state->stop = request_.stop;
  state->include_stop = request_.include_stop;
  if (decoder_) state->decoder = decoder_->state();
  if (holds && matcher_) state->held = matcher_->held();
  if (!holds) state->decoder.code_point.clear();
  return state;
}

FinishReason Session::ReasonOf(const BeamSearch::Hypothesis& hypothesis) const {
  const int32_t last = hypothesis.tokens.back();
  if (!request_.ignore_eos && Contains(eos_token_ids_, last)) return FinishReason::kEos;
  if (Contains(request_.stop_token_ids, last)) return FinishReason::kStop;
  return FinishReason::kLength;
}

std::vector<Hypothesis> Session::MakeHypotheses() {
  std::vector<Hypothesis> made;
  for (const BeamSearch::Hypothesis& from : beams_->hypotheses()) {
    if (static_cast<int>(made.size()) == request_.beams.num_return) break;
    Hypothesis& to = made.emplace_back();
    to.tokens = from.tokens;
    to.score = static_cast<float>(from.score);
    to.reason = ReasonOf(from);
    generated_ += static_cast<int64_t>(to.tokens.size());
    if (!decoder_) continue;
    IncrementalDecoder decoder = *decoder_;
    const size_t without_text = to.reason == FinishReason::kLength ? 0 : 1;
    for (size_t i = 0; i + without_text < to.tokens.size(); ++i) {
      decoder.Append(to.tokens[i], &to.text);
    }
    to.text += decoder.Finish();
  }
  return made;
}

FinishEvent Session::MakeFinish(FinishReason reason, absl::Status status, absl::Time now) {
  FinishEvent event;
  bool stopped = false;
  const bool holds = slot_state_.has_value() &&
                     (reason == FinishReason::kLength || reason == FinishReason::kDrained);
  if (beams_ != nullptr) {
    event.hypotheses = MakeHypotheses();
  } else if (!holds) {
    event.text = FlushText(&stopped);
  }
  if (slot_state_.has_value()) {
    event.state = MakeState(*std::move(slot_state_), holds);
    event.held_text = event.state->held.text;
  }
  // An unfinished code point at the end became U+FFFD, which a stop string may name.
  if (stopped && status.ok()) reason = FinishReason::kStop;
  event.reason = reason;
  event.status = std::move(status);
  event.matched_stop = std::move(matched_stop_);
  event.prompt_tokens = request_.prompt_tokens();
  event.cached_prompt_tokens = prefix_.cached;
  event.generated_tokens = generated_;
  event.decoded_tokens = beams_ == nullptr ? generated_ : rounds_ * request_.slots();
  event.scores = std::move(scores_);
  const absl::Time opened = std::min(opened_, now);
  const absl::Time first = std::min(first_token_, now);
  // The clock may be set back.
  event.queue_time = std::max(opened - submitted_, absl::ZeroDuration());
  event.prefill_time = std::max(first - opened, absl::ZeroDuration());
  event.decode_time = std::max(now - first, absl::ZeroDuration());
  return event;
}

}  // namespace t2r
