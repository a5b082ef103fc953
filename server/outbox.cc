#include "server/outbox.h"

#include <google/protobuf/io/coded_stream.h>

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace t2r::server {
namespace {

// Wire bytes of a token beside its text: its id, its log probability, their tags and lengths.
constexpr int64_t kTokenBytes = 24;
constexpr int64_t kAlternativeBytes = 12;
// A Delta that has as much takes no more: how fast a slow client reads is seen by whole messages.
constexpr int64_t kDeltaBytes = 16 << 10;

void SetDuration(absl::Duration from, google::protobuf::Duration* to) {
  to->set_seconds(absl::ToInt64Seconds(from));
  to->set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(from % absl::Seconds(1))));
}

void SetLogprob(const TokenLogprob& from, v1::Logprob* to) {
  to->set_token_id(static_cast<uint32_t>(from.token));
  to->set_logprob(from.logprob);
}

// The reasons that the client hears of in a Finished; the others are the RPC's status alone.
v1::FinishReason ToProto(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return v1::FINISH_REASON_STOP;
    case FinishReason::kLength:
      return v1::FINISH_REASON_LENGTH;
    case FinishReason::kEos:
      return v1::FINISH_REASON_EOS;
    case FinishReason::kDrained:
      return v1::FINISH_REASON_DRAINED;
    case FinishReason::kCancelled:
    case FinishReason::kDeadline:
    case FinishReason::kStalled:
    case FinishReason::kError:
    case FinishReason::kScored:
      break;
  }
  return v1::FINISH_REASON_UNSPECIFIED;
}

}  // namespace

void Outbox::PushStarted(const v1::Started& started) { started_ = started; }

Outbox::Part& Outbox::Open() {
  if (parts_.empty() || parts_.back().bytes >= kDeltaBytes) parts_.emplace_back();
  return parts_.back();
}

void Outbox::PushToken(const TokenEvent& event) {
  if (position_ && ++*position_ <= known_) return;
  Part& part = Open();
  part.delta.mutable_text()->append(event.text);
  part.delta.add_token_ids(static_cast<uint32_t>(event.token));
  v1::TokenLogprobs* logprobs = part.delta.add_logprobs();
  SetLogprob({event.token, event.logprob}, logprobs->mutable_chosen());
  for (const TokenLogprob& other : event.top) SetLogprob(other, logprobs->add_top());
  if (position_) part.delta.set_position(*position_);
  const int64_t bytes = static_cast<int64_t>(event.text.size()) + kTokenBytes +
                        kAlternativeBytes * static_cast<int64_t>(event.top.size());
  part.bytes += bytes;
  bytes_ += bytes;
  ++tokens_;
}

void Outbox::PushFinished(const FinishEvent& event) {
  ended_ = true;
  if (!event.text.empty()) {
    v1::Delta& delta = Open().delta;
    delta.mutable_text()->append(event.text);
    if (position_) delta.set_position(*position_);
  }
  status_ = event.status;
  if (event.reason == FinishReason::kDrained && status_.ok()) {
    status_ = absl::UnavailableError("the server is shutting down");
  }
  const v1::FinishReason reason = ToProto(event.reason);
  if (reason == v1::FINISH_REASON_UNSPECIFIED) {
    if (status_.ok()) status_ = absl::InternalError("the request ended without a reason");
    return;
  }
  v1::Finished& finished = finished_.emplace();
  finished.set_reason(reason);
  finished.set_stop(event.matched_stop);
  finished.set_held_text(event.held_text);
  if (position_) finished.set_session_position(std::max(*position_, known_));
  for (const Hypothesis& hypothesis : event.hypotheses) {
    v1::Hypothesis& to = *finished.add_hypotheses();
    to.set_text(hypothesis.text);
    to.mutable_token_ids()->Assign(hypothesis.tokens.begin(), hypothesis.tokens.end());
    to.set_score(hypothesis.score);
    to.set_reason(ToProto(hypothesis.reason));
  }
  v1::Usage& usage = *finished.mutable_usage();
  usage.set_prompt_tokens(static_cast<uint32_t>(event.prompt_tokens));
  usage.set_cached_prompt_tokens(static_cast<uint32_t>(event.cached_prompt_tokens));
  usage.set_generated_tokens(static_cast<uint64_t>(event.generated_tokens));
  SetDuration(event.queue_time, usage.mutable_queue_time());
  SetDuration(event.prefill_time, usage.mutable_prefill_time());
  SetDuration(event.decode_time, usage.mutable_decode_time());
  // With its tag and its length, as the message's only field.
  size_t size = finished.ByteSizeLong();
  size += 1 + google::protobuf::io::CodedOutputStream::VarintSize64(size);
  if (limits_.message_bytes > 0 && size > static_cast<size_t>(limits_.message_bytes)) {
    finished_.reset();
    status_ = absl::InvalidArgumentError(absl::StrCat(
        "the hypotheses have ", size, " bytes, more than this server's limit of ",
        limits_.message_bytes, " (--max-response-bytes); lower max_tokens or beams.num_return"));
  }
}

bool Outbox::HasRoom(int64_t tokens) const {
  return tokens_ + tokens <= limits_.tokens && bytes_ < limits_.bytes;
}

bool Outbox::empty() const { return !started_ && !ended_ && parts_.empty(); }

Outbox::Next Outbox::Pop(v1::GenerateResponse* message) {
  message->Clear();
  if (started_) {
    *message->mutable_started() = *started_;
    started_.reset();
    return Next::kMessage;
  }
  if (!parts_.empty()) {
    Part& part = parts_.front();
    tokens_ -= part.delta.token_ids_size();
    bytes_ -= part.bytes;
    message->mutable_delta()->Swap(&part.delta);
    parts_.pop_front();
    return Next::kMessage;
  }
  if (finished_) {
    *message->mutable_finished() = *finished_;
    finished_.reset();
    // With a status that is not OK the message could be dropped: it goes out on its own.
    return status_.ok() ? Next::kLastMessage : Next::kMessage;
  }
  return ended_ ? Next::kEnd : Next::kNothing;
}

}  // namespace t2r::server
