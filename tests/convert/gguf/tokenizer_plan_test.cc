#include "convert/gguf/tokenizer_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "convert/error.h"
#include "engine/tokenizer/hf/hf_tokenizer.h"
#include "engine/tokenizer/sentencepiece/sentencepiece_tokenizer.h"
#include "engine/tokenizer/sentencepiece/wire_reader.h"
#include "testing/gguf_bytes.h"
#include "testing/small_sentencepiece.h"
#include "testing/tokenizer_files.h"

namespace t2r::convert {
namespace {

using ::t2r::testing::GgufBytes;
using ::t2r::testing::ReadFile;
using ::t2r::testing::SharedData;
using ::t2r::testing::TestData;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;
using Json = nlohmann::json;
using Ids = std::vector<int32_t>;

TokenizerPlan Plan(const GgufBytes& bytes, const std::string& pre = "",
                   int64_t vocabulary = 1 << 20) {
  const std::string text = bytes.Bytes();
  return PlanTokenizer(GgufFile::Parse(text), pre, vocabulary);
}

std::unique_ptr<Tokenizer> Load(const TokenizerPlan& plan) {
  const auto config = TokenizerConfig::Parse(plan.tokenizer_config_json, std::nullopt);
  EXPECT_TRUE(config.ok()) << config.status();
  auto tokenizer = ParseTokenizerJson(plan.tokenizer_json, *config);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return tokenizer.ok() ? *std::move(tokenizer) : nullptr;
}

void ExpectError(const GgufBytes& bytes, const std::string& message) {
  EXPECT_THAT([&] { Plan(bytes); }, ThrowsMessage<ConvertError>(HasSubstr(message)));
}

// A GGUF vocabulary of a byte-level tokenizer.json, as llama.cpp's converter writes it.
GgufBytes FromTokenizerJson(const Json& json, const std::string& pre) {
  std::vector<std::string> tokens(json["model"]["vocab"].size() + json["added_tokens"].size());
  std::vector<int32_t> types(tokens.size(), 1);
  size_t count = 0;
  const auto add = [&](const std::string& token, size_t id, int type) {
    if (tokens.at(id).empty()) ++count;
    tokens[id] = token;
    types[id] = type;
  };
  for (const auto& [token, id] : json["model"]["vocab"].items()) add(token, id.get<size_t>(), 1);
  for (const Json& token : json["added_tokens"]) {
    add(token["content"], token["id"].get<size_t>(), token["special"] == true ? 3 : 4);
  }
  tokens.resize(count);
  types.resize(count);
  std::vector<std::string> merges;
  for (const Json& merge : json["model"]["merges"]) {
    merges.push_back(merge.is_string()
                         ? merge.get<std::string>()
                         : merge[0].get<std::string>() + " " + merge[1].get<std::string>());
  }
  GgufBytes bytes;
  bytes.String("tokenizer.ggml.model", "gpt2").String("tokenizer.ggml.pre", pre);
  bytes.Strings("tokenizer.ggml.tokens", tokens).Int32s("tokenizer.ggml.token_type", types);
  return bytes.Strings("tokenizer.ggml.merges", merges);
}

uint32_t IdOf(const Json& json, const std::string& content) {
  for (const Json& token : json["added_tokens"]) {
    if (token["content"] == content) return token["id"];
  }
  ADD_FAILURE() << content;
  return 0;
}

// What HF's library gives for the tokenizers that the vocabularies were taken from.
TEST(TokenizerPlanTest, CutsTextsAsTheOriginalDoes) {
  const Json golden = Json::parse(ReadFile(TestData("golden.json")));
  const std::pair<const char*, const char*> kCases[] = {
      {"gpt2", "gpt-2"}, {"llama3", "llama-bpe"}, {"qwen2", "qwen2"}, {"smollm", "smollm"}};
  for (const auto& [name, pre] : kCases) {
    const Json original = Json::parse(ReadFile(TestData(std::string(name) + ".json")));
    GgufBytes bytes = FromTokenizerJson(original, pre);
    if (std::string(name) == "llama3") {
      bytes.Uint32("tokenizer.ggml.bos_token_id", IdOf(original, "<s>"));
    }
    bytes.Uint32("tokenizer.ggml.eos_token_id", IdOf(original, "<|end|>"));
    const auto tokenizer = Load(Plan(bytes));
    ASSERT_NE(tokenizer, nullptr);
    EXPECT_EQ(tokenizer->eos_id(), static_cast<int32_t>(IdOf(original, "<|end|>")));
    int compared = 0;
    for (const Json& row : golden[name]) {
      const std::string text = row["text"];
      // GGUF does not tell of lstrip, rstrip and single_word, which smollm.json has some tokens
      // with.
      if (std::string(name) == "smollm" && text.find_first_of("<f") != std::string::npos) continue;
      const auto ids = tokenizer->Encode(text, true);
      ASSERT_TRUE(ids.ok()) << ids.status();
      EXPECT_EQ(*ids, row["ids"].get<Ids>()) << name << ": " << text;
      EXPECT_EQ(tokenizer->Decode(row["plain"].get<Ids>()), row["decoded"].get<std::string>())
          << name << ": " << text;
      ++compared;
    }
    EXPECT_GT(compared, 20) << name;
  }
}

// tokenizer.ggml.pre decides, and --pre-tokenizer in its place.
TEST(TokenizerPlanTest, TakesThePreTokenizerThatIsNamed) {
  const Json original = Json::parse(ReadFile(TestData("qwen2.json")));
  GgufBytes bytes = FromTokenizerJson(original, "qwen2");
  const std::string decomposed = "e\u0301";
  EXPECT_EQ(*Load(Plan(bytes))->Encode(decomposed, false),
            *Load(Plan(bytes))->Encode("\u00e9", false));
  EXPECT_NE(*Load(Plan(bytes, "deepseek-r1-qwen"))->Encode(decomposed, false),
            *Load(Plan(bytes))->Encode(decomposed, false));
  EXPECT_EQ(Plan(bytes, "gpt-2").kind, "gpt2, gpt-2");
  bytes.Drop("tokenizer.ggml.pre");
  ExpectError(bytes, "tokenizer.ggml.pre is missing: say with --pre-tokenizer");
  EXPECT_NO_THROW(Plan(bytes, "qwen2"));
  bytes.String("tokenizer.ggml.pre", "whisper");
  ExpectError(bytes, "tokenizer.ggml.pre is whisper; supported are smollm, ");
  bytes.Uint32("tokenizer.ggml.bos_token_id", 0);
  EXPECT_NE(Load(Plan(bytes, "tekken")), nullptr);
}

GgufBytes Tiny() {
  GgufBytes bytes;
  bytes.String("tokenizer.ggml.model", "gpt2").String("tokenizer.ggml.pre", "gpt-2");
  bytes.Strings("tokenizer.ggml.tokens", {"a", "b", "ab", "<|x|>", "<tool>", "[PAD5]"});
  bytes.Int32s("tokenizer.ggml.token_type", {1, 1, 1, 3, 4, 5});
  return bytes.Strings("tokenizer.ggml.merges", {"a b"});
}

TEST(TokenizerPlanTest, KnowsKindsOfTokens) {
  const TokenizerPlan plan = Plan(Tiny());
  const Json json = Json::parse(plan.tokenizer_json);
  EXPECT_EQ(json["model"]["vocab"],
            Json({{"a", 0}, {"b", 1}, {"ab", 2}, {"<|x|>", 3}, {"<tool>", 4}}));
  ASSERT_EQ(json["added_tokens"].size(), 2U);
  EXPECT_EQ(json["added_tokens"][0]["special"], true);
  EXPECT_EQ(json["added_tokens"][1]["special"], false);
  const auto tokenizer = Load(plan);
  EXPECT_THAT(*tokenizer->Encode("ab<|x|>b<tool>a", true), ElementsAre(2, 3, 1, 4, 0));
  EXPECT_EQ(tokenizer->Decode(Ids{2, 3, 1, 4, 0}), "abb<tool>a");
}

// The ends of texts are special though the file calls them normal.
TEST(TokenizerPlanTest, PutsBosAndEosWhereTheFileSays) {
  GgufBytes bytes = Tiny();
  bytes.Uint32("tokenizer.ggml.bos_token_id", 3).Uint32("tokenizer.ggml.eos_token_id", 1);
  EXPECT_THAT(*Load(Plan(bytes))->Encode("a", true), ElementsAre(0));
  bytes.Bool("tokenizer.ggml.add_bos_token", true);
  EXPECT_THAT(*Load(Plan(bytes))->Encode("a", true), ElementsAre(3, 0));
  bytes.Bool("tokenizer.ggml.add_eos_token", true);
  const auto tokenizer = Load(Plan(bytes));
  EXPECT_THAT(*tokenizer->Encode("a", true), ElementsAre(3, 0, 1));
  EXPECT_TRUE(tokenizer->IsSpecial(1));
  EXPECT_EQ(Json::parse(Plan(bytes).tokenizer_config_json)["bos_token"], "<|x|>");
  bytes.Drop("tokenizer.ggml.bos_token_id");
  ExpectError(bytes, "tokenizer.ggml.bos_token_id is missing, and texts are to have that token");
  bytes.Uint32("tokenizer.ggml.bos_token_id", 6);
  ExpectError(bytes, "tokenizer.ggml.bos_token_id is 6; it must be from 0 to 5");
}

TEST(TokenizerPlanTest, KeepsChatTemplates) {
  GgufBytes bytes = Tiny();
  EXPECT_FALSE(Json::parse(Plan(bytes).tokenizer_config_json).contains("chat_template"));
  bytes.String("tokenizer.chat_template", "{{ \"\u00e9\" }}\n");
  EXPECT_EQ(Json::parse(Plan(bytes).tokenizer_config_json)["chat_template"], "{{ \"\u00e9\" }}\n");
  bytes.String("tokenizer.chat_template.tool_use", "tools");
  EXPECT_EQ(Json::parse(Plan(bytes).tokenizer_config_json)["chat_template"],
            Json::array({{{"name", "default"}, {"template", "{{ \"\u00e9\" }}\n"}},
                         {{"name", "tool_use"}, {"template", "tools"}}}));
}

TEST(TokenizerPlanTest, RefusesBadVocabularies) {
  EXPECT_EQ(Plan(GgufBytes()).kind, "none");
  const auto with = [](const std::string& key, const auto& change) {
    GgufBytes bytes = Tiny();
    bytes.Drop("tokenizer.ggml." + key);
    change(bytes);
    return bytes;
  };
  const auto tokens = [&](const std::vector<std::string>& list) {
    return with("tokens", [&](GgufBytes& b) { b.Strings("tokenizer.ggml.tokens", list); });
  };
  ExpectError(with("model", [](GgufBytes& b) { b.String("tokenizer.ggml.model", "bert"); }),
              "tokenizer.ggml.model is bert; supported are gpt2 and llama");
  ExpectError(tokens({"a", "b", "ab", "a", "c", "d"}), "tokens[3] repeats element 0: a");
  ExpectError(tokens({"a", "b", "ab", "", "c", "d"}), "tokens[3] is empty");
  ExpectError(tokens({"a", "b", "ab", "\xFF", "c", "d"}), "tokens[3] is not valid UTF-8: \\xFF");
  ExpectError(tokens({"a", "b", "ab"}), "token_type has 6 elements, and tokenizer.ggml.tokens 3");
  ExpectError(tokens({"a", "b", "c", "d", "e", "f"}), "merges[0] needs ab, which is not among");
  ExpectError(with("token_type",
                   [](GgufBytes& b) {
                     b.Int32s("tokenizer.ggml.token_type", {1, 1, 1, 7, 1, 1});
                   }),
              "token_type[3] is 7; it must be from 1 to 6");
  ExpectError(with("merges", [](GgufBytes&) {}), "tokenizer.ggml.merges is missing");
  for (const char* merge : {"ab", "a b ab"}) {
    ExpectError(with("merges", [&](GgufBytes& b) { b.Strings("tokenizer.ggml.merges", {merge}); }),
                "merges[0] is not two tokens with a space between them");
  }
  EXPECT_THAT([&] { Plan(Tiny(), "", 5); },
              ThrowsMessage<ConvertError>(HasSubstr("more than the 5 rows of token_embd.weight")));
  EXPECT_NO_THROW(Plan(Tiny(), "", 6));
}

// A GGUF vocabulary of a SentencePiece model, whose types have the same numbers.
GgufBytes FromSentencePiece(const std::string& model) {
  std::vector<std::string> tokens;
  std::vector<float> scores;
  std::vector<int32_t> types;
  WireReader reader(model);
  while (reader.Next()) {
    if (!reader.Is(1, WireReader::Kind::kBytes)) continue;
    tokens.emplace_back();
    scores.push_back(0);
    types.push_back(1);
    WireReader piece(reader.bytes);
    while (piece.Next()) {
      if (piece.Is(1, WireReader::Kind::kBytes)) tokens.back() = std::string(piece.bytes);
      if (piece.Is(2, WireReader::Kind::kFixed32)) scores.back() = piece.AsFloat();
      if (piece.Is(3, WireReader::Kind::kVarint)) types.back() = static_cast<int32_t>(piece.number);
    }
  }
  GgufBytes bytes;
  bytes.String("tokenizer.ggml.model", "llama").Strings("tokenizer.ggml.tokens", tokens);
  return bytes.Float32s("tokenizer.ggml.scores", scores).Int32s("tokenizer.ggml.token_type", types);
}

void ExpectSameIds(const std::string& model, const Tokenizer& imported,
                   const std::vector<std::string>& texts) {
  const auto original = SentencePieceTokenizer::Parse(model, TokenizerConfig());
  ASSERT_TRUE(original.ok()) << original.status();
  for (const std::string& text : texts) {
    const auto expected = (*original)->Encode(text, true);
    const auto ids = imported.Encode(text, true);
    ASSERT_TRUE(expected.ok() && ids.ok()) << expected.status() << ids.status();
    EXPECT_EQ(*ids, *expected) << text;
    EXPECT_EQ(imported.Decode(*ids), (*original)->Decode(*expected)) << text;
  }
}

TEST(TokenizerPlanTest, SegmentsAsSentencePieceDoes) {
  const std::vector<std::string> texts = {"once upon a time", "the  on", " up", "Lily, once\nthe",
                                          "caf\u00e9 \u4e2d", "heonc",   "aaa", "\t"};
  for (const bool dummy_prefix : {true, false}) {
    t2r::testing::SmallModelOptions options;
    options.add_dummy_prefix = dummy_prefix;
    const std::string model = t2r::testing::SmallModel(options);
    GgufBytes bytes = FromSentencePiece(model);
    if (!dummy_prefix) bytes.Bool("tokenizer.ggml.add_space_prefix", false);
    const TokenizerPlan plan = Plan(bytes);
    EXPECT_EQ(plan.kind, "llama");
    const auto tokenizer = Load(plan);
    ASSERT_NE(tokenizer, nullptr);
    ExpectSameIds(model, *tokenizer, texts);
    // Control tokens in a text are tokens, which a chat template needs.
    const auto ids = tokenizer->Encode("</s>", false);
    ASSERT_TRUE(ids.ok());
    EXPECT_THAT(*ids, ElementsAre(2));
  }
}

TEST(TokenizerPlanTest, SegmentsStoriesAsTheirSentencePieceDoes) {
  const std::string path = SharedData("stories260K/tokenizer.model");
  const std::string model = ReadFile(path);
  const std::string text = ReadFile(SharedData("tinystories/valid.txt"));
  if (model.empty() || text.empty()) GTEST_SKIP() << path << " is absent";
  const auto tokenizer = Load(Plan(FromSentencePiece(model)));
  ASSERT_NE(tokenizer, nullptr);
  ExpectSameIds(model, *tokenizer, {text});
}

TEST(TokenizerPlanTest, RefusesBadScores) {
  GgufBytes bytes;
  bytes.String("tokenizer.ggml.model", "llama")
      .Strings("tokenizer.ggml.tokens", {"<unk>", "<s>", "a"});
  ExpectError(bytes, "tokenizer.ggml.scores is missing");
  GgufBytes few = bytes;
  ExpectError(few.Float32s("tokenizer.ggml.scores", {0, 0}), "scores has 2 elements, and");
  bytes.Float32s("tokenizer.ggml.scores", {0, 0, -1});
  EXPECT_NO_THROW(Plan(bytes));
  GgufBytes map = bytes;
  ExpectError(map.Int32s("tokenizer.ggml.precompiled_charsmap", {1}),
              "precompiled_charsmap is set");
}

}  // namespace
}  // namespace t2r::convert
