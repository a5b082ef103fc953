// What a Generate stream has still to send.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>

#include "absl/status/status.h"
#include "engine/scheduler/request.h"
#include "server/outbox_message.h"
#include "t2r/v1/generation.pb.h"

namespace t2r::server {

// Bounds of what waits; the message being written comes on top.
struct OutboxLimits {
  int64_t tokens = 256;
  int64_t bytes = 64 << 10;
  int64_t message_bytes = 0;   // hypotheses that take more end the stream; 0: no limit
  int64_t message_tokens = 0;  // of a Delta; 0: as many as fill it
};

// Tokens wait here between the engine, which must never block, and the gRPC writer, which is as
// slow as its client. Tokens that wait together leave as one Delta of up to 16 KiB, so a writer
// that lags sends fewer and larger messages. Not thread-safe: the stream's lock guards it.
class Outbox {
 public:
  explicit Outbox(OutboxLimits limits) : limits_(limits) {}

  // From the engine, in this order.
  void PushStarted(const v1::Started& started);
  // Of a turn of a session, before the first token: where the session stood, and how many tokens
  // the prompt adds.
  // Tokens up to `known` are the client's already, and are left out.
  void CountFrom(uint64_t position, uint64_t prompt_tokens, uint64_t known = 0) {
    position_ = position + prompt_tokens;
    known_ = known;
  }
  void PushToken(const TokenEvent& event);
  void PushFinished(const FinishEvent& event);

  // How many more tokens may come. The one that goes over the byte limit is still taken.
  int64_t Room() const {
    const auto waiting = static_cast<int64_t>(waiting_.tokens.size());
    return bytes_ < limits_.bytes ? std::max<int64_t>(limits_.tokens - waiting, 0) : 0;
  }
  // Of what waits, about.
  int64_t bytes() const { return bytes_; }
  // Nothing waits, not even the end.
  bool empty() const;

  enum class Next {
    kNothing,      // nothing waits
    kMessage,      // write *message, more may follow
    kLastMessage,  // write *message, then end the RPC with status()
    kEnd,          // end the RPC with status()
  };
  // Takes what is to be sent next. *message is overwritten; it is empty but for kMessage and
  // kLastMessage.
  Next Pop(OutboxMessage* message);
  // The RPC's status, after kLastMessage or kEnd.
  const absl::Status& status() const { return status_; }

 private:
  // The next Delta: as many of the tokens that wait as fill it, at least one where there is one,
  // and the text that follows the last token.
  void TakeDelta(OutboxMessage* message);

  const OutboxLimits limits_;
  std::optional<v1::Started> started_;
  // Of a session: where it stands with all that has come.
  std::optional<uint64_t> position_;
  uint64_t known_ = 0;  // up to here the client has it
  OutboxMessage::Tokens waiting_;
  int64_t bytes_ = 0;
  bool ended_ = false;  // PushFinished has been called
  std::optional<v1::Finished> finished_;
  absl::Status status_;
};

}  // namespace t2r::server
