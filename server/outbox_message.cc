#include "server/outbox_message.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/wire_format_lite.h>
#include <grpcpp/support/slice.h>

#include <cstddef>
#include <cstring>

namespace t2r::server {
namespace {

using google::protobuf::internal::WireFormatLite;
using google::protobuf::io::CodedOutputStream;

// Wire bytes of a token beside its text: its id, its log probability, their tags and lengths.
constexpr int64_t kTokenBytes = 24;
constexpr int64_t kAlternativeBytes = 12;

// Every field here has a number below 16, whose tag is one byte.
constexpr size_t kTag = 1;
static_assert(v1::Delta::kPositionFieldNumber < 16 && v1::TokenLogprobs::kTopFieldNumber < 16 &&
              v1::Logprob::kLogprobFieldNumber < 16);

// What a stream needed that lagged, it does not keep, but for as much as most messages take.
template <typename Container>
void ClearAndKeepLittle(Container& container) {
  constexpr size_t kKept = 1024 / sizeof(container[0]);
  container.clear();
  if (container.capacity() <= kKept) return;
  Container().swap(container);
  container.reserve(kKept);
}

// With its tag and its length.
size_t FieldBytes(size_t bytes) { return kTag + CodedOutputStream::VarintSize64(bytes) + bytes; }

uint8_t* BeginField(int field, size_t bytes, uint8_t* to) {
  to = WireFormatLite::WriteTagToArray(field, WireFormatLite::WIRETYPE_LENGTH_DELIMITED, to);
  return CodedOutputStream::WriteVarint32ToArray(static_cast<uint32_t>(bytes), to);
}

uint8_t* WriteField(int field, const std::string& bytes, uint8_t* to) {
  to = BeginField(field, bytes.size(), to);
  std::memcpy(to, bytes.data(), bytes.size());
  return to + bytes.size();
}

// As Protobuf has it, a number that is zero is left out.
bool IsZero(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits == 0;
}

size_t IdBytes(int32_t id) { return CodedOutputStream::VarintSize32(static_cast<uint32_t>(id)); }

size_t LogprobBytes(const TokenLogprob& logprob) {
  return (logprob.token == 0 ? 0 : kTag + IdBytes(logprob.token)) +
         (IsZero(logprob.logprob) ? 0 : kTag + sizeof(float));
}

uint8_t* WriteLogprob(int field, const TokenLogprob& logprob, uint8_t* to) {
  to = BeginField(field, LogprobBytes(logprob), to);
  if (logprob.token != 0) {
    to = WireFormatLite::WriteUInt32ToArray(v1::Logprob::kTokenIdFieldNumber,
                                            static_cast<uint32_t>(logprob.token), to);
  }
  if (IsZero(logprob.logprob)) return to;
  return WireFormatLite::WriteFloatToArray(v1::Logprob::kLogprobFieldNumber, logprob.logprob, to);
}

// A message with one field, which is a message.
template <typename Message>
grpc::ByteBuffer WithOneField(int field, const Message& message) {
  const size_t bytes = message.ByteSizeLong();
  grpc::Slice slice(FieldBytes(bytes));
  uint8_t* const to = BeginField(field, bytes, const_cast<uint8_t*>(slice.begin()));
  message.SerializeWithCachedSizesToArray(to);
  return grpc::ByteBuffer(&slice, 1);
}

}  // namespace

int64_t OutboxMessage::Token::bytes() const {
  return int64_t{text_bytes} + kTokenBytes + kAlternativeBytes * int64_t{tops};
}

void OutboxMessage::Tokens::Clear() {
  ClearAndKeepLittle(tokens);
  ClearAndKeepLittle(tops);
  ClearAndKeepLittle(text);
}

void OutboxMessage::Clear() {
  started_.reset();
  finished_.reset();
  delta_.Clear();
  position_.reset();
  bytes_ = 0;
}

size_t OutboxMessage::Tokens::LogprobsBytes(const Token& token, const TokenLogprob* top) {
  size_t bytes = FieldBytes(LogprobBytes(token.chosen));
  for (uint32_t i = 0; i < token.tops; ++i) bytes += FieldBytes(LogprobBytes(top[i]));
  return bytes;
}

OutboxMessage::Sizes OutboxMessage::Measure() const {
  Sizes sizes;
  const TokenLogprob* top = delta_.tops.data();
  for (const Token& token : delta_.tokens) {
    sizes.ids += IdBytes(token.chosen.token);
    sizes.delta += FieldBytes(Tokens::LogprobsBytes(token, top));
    top += token.tops;
  }
  if (!delta_.text.empty()) sizes.delta += FieldBytes(delta_.text.size());
  if (sizes.ids > 0) sizes.delta += FieldBytes(sizes.ids);
  if (position_.value_or(0) != 0) sizes.delta += kTag + CodedOutputStream::VarintSize64(*position_);
  return sizes;
}

grpc::ByteBuffer OutboxMessage::ToWire() const {
  if (started_) return WithOneField(v1::GenerateResponse::kStartedFieldNumber, *started_);
  if (finished_) return WithOneField(v1::GenerateResponse::kFinishedFieldNumber, *finished_);
  const Sizes sizes = Measure();
  grpc::Slice slice(FieldBytes(sizes.delta));
  uint8_t* to = const_cast<uint8_t*>(slice.begin());  // nobody else has it yet
  to = BeginField(v1::GenerateResponse::kDeltaFieldNumber, sizes.delta, to);
  if (!delta_.text.empty()) to = WriteField(v1::Delta::kTextFieldNumber, delta_.text, to);
  if (sizes.ids > 0) {
    to = BeginField(v1::Delta::kTokenIdsFieldNumber, sizes.ids, to);
    for (const Token& token : delta_.tokens) {
      to = CodedOutputStream::WriteVarint32ToArray(static_cast<uint32_t>(token.chosen.token), to);
    }
  }
  const TokenLogprob* top = delta_.tops.data();
  for (const Token& token : delta_.tokens) {
    to = BeginField(v1::Delta::kLogprobsFieldNumber, Tokens::LogprobsBytes(token, top), to);
    to = WriteLogprob(v1::TokenLogprobs::kChosenFieldNumber, token.chosen, to);
    for (const TokenLogprob* const end = top + token.tops; top != end; ++top) {
      to = WriteLogprob(v1::TokenLogprobs::kTopFieldNumber, *top, to);
    }
  }
  if (position_.value_or(0) != 0) {
    WireFormatLite::WriteUInt64ToArray(v1::Delta::kPositionFieldNumber, *position_, to);
  }
  return grpc::ByteBuffer(&slice, 1);
}

}  // namespace t2r::server
