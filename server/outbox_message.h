// What one message of a Generate stream is made of.
#pragma once

#include <grpcpp/support/byte_buffer.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/executor/executor.h"
#include "t2r/v1/generation.pb.h"

namespace t2r::server {

// It is apart from the outbox, so that making it needs no lock. Taken again and again, it keeps its
// memory.
class OutboxMessage {
 public:
  // Of the message on the wire, about.
  int64_t bytes() const { return bytes_; }
  // A GenerateResponse on the wire. Byte for byte what Protobuf makes of it, without the tree of
  // small parts, which would cost more than all else.
  grpc::ByteBuffer ToWire() const;

 private:
  friend class Outbox;
  struct Token {
    TokenLogprob chosen;
    uint32_t text_bytes = 0;
    uint32_t tops = 0;  // alternatives
    int64_t bytes() const;
  };
  // Tokens, oldest first.
  struct Tokens {
    std::vector<Token> tokens;
    std::vector<TokenLogprob> tops;  // their alternatives, one token's after another's
    std::string text;                // theirs, and what follows the last one
    bool empty() const { return tokens.empty() && text.empty(); }
    void Clear();
    // Of a token's TokenLogprobs on the wire. top: its first alternative.
    static size_t LogprobsBytes(const Token& token, const TokenLogprob* top);
  };
  // On the wire.
  struct Sizes {
    size_t ids = 0;    // all of them
    size_t delta = 0;  // the whole Delta
  };
  Sizes Measure() const;
  void Clear();

  // One of these three.
  std::optional<v1::Started> started_;
  std::optional<v1::Finished> finished_;
  Tokens delta_;
  std::optional<uint64_t> position_;  // of the Delta
  int64_t bytes_ = 0;
};

}  // namespace t2r::server
