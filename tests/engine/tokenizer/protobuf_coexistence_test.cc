// SentencePiece and libprotobuf in one process, as in the server: see sentencepiece_library.h.
#include <google/protobuf/struct.pb.h>
#include <gtest/gtest.h>

#include "engine/tokenizer/sentencepiece/sentencepiece_tokenizer.h"
#include "testing/small_sentencepiece.h"

namespace t2r {
namespace {

void UseProtobuf() {
  google::protobuf::Struct message, copy;
  (*message.mutable_fields())["key"].set_string_value("value");
  std::string bytes;
  ASSERT_TRUE(message.SerializeToString(&bytes));
  ASSERT_TRUE(copy.ParseFromString(bytes));
  EXPECT_EQ(copy.fields().at("key").string_value(), "value");
}

TEST(ProtobufCoexistence, BothWorkInEitherOrder) {
  UseProtobuf();
  const auto tokenizer = SentencePieceTokenizer::Parse(testing::SmallModel({}), TokenizerConfig());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const auto ids = (*tokenizer)->Encode("once upon", true);
  ASSERT_TRUE(ids.ok());
  EXPECT_EQ((*tokenizer)->Decode(*ids), "once upon");
  UseProtobuf();
}

}  // namespace
}  // namespace t2r
