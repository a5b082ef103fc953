#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <thread>

#include "engine/tokenizer/incremental_decoder.h"
#include "engine/tokenizer/sentencepiece/sentencepiece_tokenizer.h"
#include "testing/small_sentencepiece.h"
#include "testing/tokenizer_files.h"
#include "tests/engine/tokenizer/sentencepiece_reference.h"

namespace t2r {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Ids = std::vector<int32_t>;
using testing::ReadFile;
using testing::SentencePieceReference;
using testing::SharedData;
using testing::SmallModel;
using testing::SmallModelOptions;

std::unique_ptr<Tokenizer> Parse(const std::string& model, const TokenizerConfig& config = {}) {
  auto result = SentencePieceTokenizer::Parse(model, config);
  EXPECT_TRUE(result.ok()) << result.status();
  return result.ok() ? *std::move(result) : nullptr;
}

std::vector<std::string> Texts() {
  std::vector<std::string> texts = {"Once upon a time",
                                    "",
                                    " ",
                                    "  two  spaces ",
                                    "line\nline\r\n",
                                    "caf\xC3\xA9 \xF0\x9F\x99\x82",
                                    "\xE2\x96\x81",
                                    "<s> </s> <unk> <0x41>",
                                    "\t",
                                    "a",
                                    " a",
                                    "1,234.5",
                                    std::string("\0x", 2)};
  std::mt19937 random(3);
  const std::vector<std::string> parts = {
      "once", " ",    "upon",         "\n",   "a",  "\xC3\xA9",
      ",",    "the ", "\xE6\x9D\xB1", "Lily", "\"", "\xF0\x9F\x98\x80"};
  for (int i = 0; i < 500; ++i) {
    std::string text;
    for (size_t n = random() % 12; n > 0; --n) text += parts[random() % parts.size()];
    texts.push_back(text);
  }
  return texts;
}

// Ids and texts equal libsentencepiece's; decoding in steps equals decoding at once.
void ExpectLikeReference(const std::string& model) {
  const auto tokenizer = Parse(model);
  ASSERT_NE(tokenizer, nullptr);
  const SentencePieceReference reference(model);
  for (const std::string& text : Texts()) {
    SCOPED_TRACE(text);
    const auto plain = tokenizer->Encode(text, false);
    ASSERT_TRUE(plain.ok()) << plain.status();
    ASSERT_EQ(*plain, reference.Encode(text));
    const auto ids = tokenizer->Encode(text, true);
    ASSERT_EQ(ids->size(), plain->size() + 1);
    EXPECT_EQ((*ids)[0], *tokenizer->bos_id());
    EXPECT_EQ(tokenizer->Decode(*ids), reference.Decode(*plain));
    IncrementalDecoder decoder(*tokenizer, std::span(*ids).first(1));
    std::string streamed;
    for (const int32_t id : *plain) decoder.Append(id, &streamed);
    EXPECT_EQ(streamed + decoder.Finish(), reference.Decode(*plain));
  }
}

TEST(SentencePiece, SmallBpeModelEqualsTheLibrary) { ExpectLikeReference(SmallModel({})); }

TEST(SentencePiece, ModelsWithoutByteFallbackEqualTheLibrary) {
  ExpectLikeReference(SmallModel({.byte_fallback = false}));
}

TEST(SentencePiece, ModelsWithoutDummyPrefixEqualTheLibrary) {
  ExpectLikeReference(SmallModel({.add_dummy_prefix = false}));
}

TEST(SentencePiece, UnigramModelsThatTrimSpacesEqualTheLibrary) {
  ExpectLikeReference(SmallModel({.unigram = true, .remove_extra_whitespaces = true}));
}

TEST(SentencePiece, Stories260KHasTheKnownIds) {
  const std::string path = SharedData("stories260K/tokenizer.model");
  if (path.empty()) GTEST_SKIP() << "needs T2R_DATA: stories260K";
  const std::string model = ReadFile(path);
  const auto tokenizer = Parse(model);
  ASSERT_NE(tokenizer, nullptr);
  EXPECT_EQ(tokenizer->vocab_size(), 512);
  EXPECT_TRUE(tokenizer->adds_bos());
  EXPECT_EQ(tokenizer->eos_id(), 2);
  EXPECT_THAT(*tokenizer->Encode("Once upon a time", true), ElementsAre(1, 403, 407, 261, 378));
  EXPECT_EQ(tokenizer->Decode(Ids{1, 403, 407, 261, 378}), "Once upon a time");
  EXPECT_EQ(tokenizer->Decode(Ids{432, 383, 286, 261, 376, 298, 315, 421, 395, 317, 426, 338}),
            ", there was a little girl named Lily. She");
  EXPECT_EQ(tokenizer->Decode(Ids{383, 286}), " there was");  // a continuation keeps its space
  EXPECT_THAT(*tokenizer->Encode("\n", false), ::testing::Contains(13));
  ExpectLikeReference(model);
}

TEST(SentencePiece, TheConfigDecidesOnBosAndEos) {
  TokenizerConfig config;
  config.add_bos_token = false;
  config.add_eos_token = true;
  const auto tokenizer = Parse(SmallModel({}), config);
  ASSERT_NE(tokenizer, nullptr);
  EXPECT_FALSE(tokenizer->adds_bos());
  const auto ids = tokenizer->Encode("a", true);
  ASSERT_TRUE(ids.ok());
  EXPECT_EQ(ids->back(), *tokenizer->eos_id());
  EXPECT_NE(ids->front(), *tokenizer->bos_id());
  EXPECT_EQ(tokenizer->Encode("\xC3", true).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(SentencePiece, RefusesByName) {
  TokenizerConfig config;
  config.tokenizer_class = "T5Tokenizer";
  auto result = SentencePieceTokenizer::Parse(SmallModel({}), config);
  EXPECT_EQ(result.status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(result.status().message()), HasSubstr("T5Tokenizer"));
  const std::string model = SmallModel({});
  for (const std::string& bad :
       {std::string(), std::string("garbage"), model.substr(0, model.size() - 1), model + model}) {
    result = SentencePieceTokenizer::Parse(bad, {});
    EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(result.status().message()), HasSubstr("tokenizer.model"));
  }
}

TEST(SentencePiece, AHostileNormalisationTableIsRefused) {
  std::string map(4 + 1024, '\0');
  map[1] = 4;  // a trie of 1,024 bytes
  map += std::string("x\0", 2);
  EXPECT_TRUE(SentencePieceTokenizer::Parse(SmallModel({.charsmap = map}), {}).ok());
  for (const int byte : {2, 3}) {  // unit 0 points far outside; once marked as a leaf, too
    std::string bad = map;
    bad[4 + byte] = '\xDE';
    const auto result = SentencePieceTokenizer::Parse(SmallModel({.charsmap = bad}), {});
    EXPECT_THAT(std::string(result.status().message()), HasSubstr("precompiled_charsmap"));
  }
}

TEST(SentencePiece, ManyThreadsMayEncode) {
  const auto tokenizer = Parse(SmallModel({}));
  ASSERT_NE(tokenizer, nullptr);
  const Ids expected = *tokenizer->Encode("once upon the time", true);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 200; ++i) {
        EXPECT_EQ(*tokenizer->Encode("once upon the time", true), expected);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace t2r
