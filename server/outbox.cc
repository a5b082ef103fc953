#include "server/outbox.h"

#include <google/protobuf/io/coded_stream.h>

#include <algorithm>
#include <cstddef>
#include <utility>

#include "absl/strings/str_cat.h"

namespace t2r::server {
namespace {

// A Delta that has as much takes no more: how fast a slow client reads is seen by whole messages.
constexpr int64_t kDeltaBytes = 16 << 10;

void SetDuration(absl::Duration from, google::protobuf::Duration* to) {
  to->set_seconds(absl::ToInt64Seconds(from));
  to->set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(from % absl::Seconds(1))));
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
  if (position_ && ++*position_ <= known_) return;
  const OutboxMessage::Token& token = waiting_.tokens.emplace_back(
      OutboxMessage::Token{.chosen = {event.token, event.logprob},
                           .text_bytes = static_cast<uint32_t>(event.text.size()),
                           .tops = static_cast<uint32_t>(event.top.size())});
  waiting_.tops.insert(waiting_.tops.end(), event.top.begin(), event.top.end());
  waiting_.text += event.text;
  bytes_ += token.bytes();
}

void Outbox::PushFinished(const FinishEvent& event) {
  ended_ = true;
  waiting_.text += event.text;
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

bool Outbox::empty() const { return !started_ && !ended_ && waiting_.empty(); }

void Outbox::TakeDelta(OutboxMessage* message) {
  OutboxMessage::Tokens& taken = message->delta_;
  size_t count = 0;
  size_t tops = 0;
  size_t text = 0;
  const size_t most =
      limits_.message_tokens > 0
          ? std::min(waiting_.tokens.size(), static_cast<size_t>(limits_.message_tokens))
          : waiting_.tokens.size();
  for (; count < most && message->bytes_ < kDeltaBytes; ++count) {
    const OutboxMessage::Token& token = waiting_.tokens[count];
    tops += token.tops;
    text += token.text_bytes;
    message->bytes_ += token.bytes();
  }
  bytes_ -= message->bytes_;
  const size_t left = waiting_.tokens.size() - count;
  if (position_) message->position_ = *position_ - left;
  if (left == 0 && message->bytes_ < kDeltaBytes) {
    std::swap(taken, waiting_);
    message->bytes_ += static_cast<int64_t>(taken.text.size() - text);
    return;
  }
  const auto move = [](auto& from, size_t number, auto& to) {
    const auto end = from.begin() + static_cast<ptrdiff_t>(number);
    to.assign(from.begin(), end);
    from.erase(from.begin(), end);
  };
  move(waiting_.tokens, count, taken.tokens);
  move(waiting_.tops, tops, taken.tops);
  move(waiting_.text, text, taken.text);
}

Outbox::Next Outbox::Pop(OutboxMessage* message) {
  message->Clear();
  if (started_) {
    message->started_ = std::exchange(started_, std::nullopt);
    message->bytes_ = static_cast<int64_t>(message->started_->ByteSizeLong());
    return Next::kMessage;
  }
  if (!waiting_.empty()) {
    TakeDelta(message);
    return Next::kMessage;
  }
  if (finished_) {
    message->finished_ = std::exchange(finished_, std::nullopt);
    message->bytes_ = static_cast<int64_t>(message->finished_->ByteSizeLong());
    // With a status that is not OK the message could be dropped: it goes out on its own.
    return status_.ok() ? Next::kLastMessage : Next::kMessage;
  }
  return ended_ ? Next::kEnd : Next::kNothing;
}

}  // namespace t2r::server
