#include "server/outbox.h"

namespace t2r::server {
namespace {

// Wire bytes of a token beside its text: its id, its log probability, their tags and lengths.
constexpr int64_t kTokenBytes = 24;
constexpr int64_t kAlternativeBytes = 12;

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

void Outbox::PushToken(const TokenEvent& event) {
  delta_.mutable_text()->append(event.text);
  delta_.add_token_ids(static_cast<uint32_t>(event.token));
  v1::TokenLogprobs* logprobs = delta_.add_logprobs();
  SetLogprob({event.token, event.logprob}, logprobs->mutable_chosen());
  for (const TokenLogprob& other : event.top) SetLogprob(other, logprobs->add_top());
  bytes_ += static_cast<int64_t>(event.text.size()) + kTokenBytes +
            kAlternativeBytes * static_cast<int64_t>(event.top.size());
}

void Outbox::PushFinished(const FinishEvent& event) {
  ended_ = true;
  delta_.mutable_text()->append(event.text);
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
  for (const Hypothesis& hypothesis : event.hypotheses) {
    v1::Hypothesis& to = *finished.add_hypotheses();
    to.set_text(hypothesis.text);
    to.mutable_token_ids()->Assign(hypothesis.tokens.begin(), hypothesis.tokens.end());
    to.set_score(hypothesis.score);
    to.set_reason(ToProto(hypothesis.reason));
  }
  v1::Usage& usage = *finished.mutable_usage();
  usage.set_prompt_tokens(static_cast<uint32_t>(event.prompt_tokens));
  usage.set_generated_tokens(static_cast<uint64_t>(event.generated_tokens));
  SetDuration(event.queue_time, usage.mutable_queue_time());
  SetDuration(event.prefill_time, usage.mutable_prefill_time());
  SetDuration(event.decode_time, usage.mutable_decode_time());
}

bool Outbox::HasRoom(int64_t tokens) const {
  return delta_.token_ids_size() + tokens <= limits_.tokens && bytes_ < limits_.bytes;
}

bool Outbox::empty() const {
  return !started_ && !ended_ && delta_.token_ids().empty() && delta_.text().empty();
}

Outbox::Next Outbox::Pop(v1::GenerateResponse* message) {
  message->Clear();
  if (started_) {
    *message->mutable_started() = *started_;
    started_.reset();
    return Next::kMessage;
  }
  if (!delta_.token_ids().empty() || !delta_.text().empty()) {
    message->mutable_delta()->Swap(&delta_);
    delta_.Clear();
    bytes_ = 0;
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
