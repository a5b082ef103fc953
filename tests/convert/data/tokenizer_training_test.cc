#include "convert/data/tokenizer_training.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/error.h"
#include "engine/tokenizer/tokenizer.h"
#include "testing/temporary_directory.h"

namespace t2r::convert {
namespace {

using t2r::testing::TemporaryDirectory;

std::vector<std::string> Text() {
  return {"the cat sat on the mat, and the cat saw that it was good",
          "the dog sat by the door\nthe dog and the cat were not there"};
}

TEST(TrainTokenizer, GivesATokenizerThatTheEngineLoads) {
  const TemporaryDirectory directory;
  directory.Write("tokenizer.model", TrainTokenizer(Text(), 310));
  const auto tokenizer = LoadTokenizer(directory.path());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  ASSERT_NE(*tokenizer, nullptr);
  EXPECT_EQ((*tokenizer)->vocab_size(), 310);
  EXPECT_EQ((*tokenizer)->bos_id(), 1);
  EXPECT_EQ((*tokenizer)->eos_id(), 2);
  // Text that it has never seen, line ends and all, comes back.
  const std::string text = "Every  other thing:\nnaïve \xe6\x96\x87 42";
  const auto ids = (*tokenizer)->Encode(text, true);
  ASSERT_TRUE(ids.ok());
  EXPECT_EQ(ids->front(), 1);
  EXPECT_EQ((*tokenizer)->Decode(*ids), text);
  // Words of the text are few tokens.
  const auto known = (*tokenizer)->Encode("the cat", false);
  EXPECT_LE(known->size(), 3U);
}

TEST(TrainTokenizer, IsTheSameEveryTime) {
  EXPECT_EQ(TrainTokenizer(Text(), 300), TrainTokenizer(Text(), 300));
}

TEST(TrainTokenizer, RefusesSizesThatCannotBe) {
  EXPECT_THROW(TrainTokenizer(Text(), 259), ConvertError);
  EXPECT_THROW(TrainTokenizer(Text(), 100000), ConvertError);
}

TEST(TrainTokenizer, RefusesTextWithNothingInIt) {
  EXPECT_THROW(TrainTokenizer({}, 300), ConvertError);
  EXPECT_THROW(TrainTokenizer({"", "\n\n"}, 300), ConvertError);
}

}  // namespace
}  // namespace t2r::convert
