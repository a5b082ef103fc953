#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <sstream>

#include "client/cli/options.h"

namespace t2r::client {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;

ParseResult Parse(std::vector<const char*> arguments, const std::string& server = "") {
  arguments.insert(arguments.begin(), "t2r");
  return ParseCommandLine(static_cast<int>(arguments.size()), arguments.data(), server);
}

void ExpectUsageError(const std::vector<const char*>& arguments, const std::string& named) {
  const ParseResult result = Parse(arguments);
  EXPECT_FALSE(result.command_line) << named;
  EXPECT_EQ(result.exit_code, 2) << named;
  EXPECT_THAT(result.message, HasSubstr(named));
  EXPECT_THAT(result.message, HasSubstr("--help"));
}

TEST(OptionsTest, GenerateTakesEveryFlag) {
  const ParseResult result = Parse({"generate",
                                    "--server",
                                    "h:1",
                                    "--timeout",
                                    "1.5",
                                    "--retries",
                                    "3",
                                    "--max-tokens",
                                    "9",
                                    "--temperature",
                                    "0",
                                    "--top-k",
                                    "4",
                                    "--top-p",
                                    "0.5",
                                    "--min-p",
                                    "0.25",
                                    "--repetition-penalty",
                                    "1.5",
                                    "--frequency-penalty",
                                    "-1",
                                    "--presence-penalty",
                                    "2",
                                    "--logit-bias",
                                    "13=-2.5",
                                    "--logit-bias",
                                    "7=1",
                                    "--seed",
                                    "18446744073709551615",
                                    "--stop",
                                    "a b",
                                    "--stop",
                                    "c",
                                    "--include-stop",
                                    "--stop-token-ids",
                                    "5,6",
                                    "--ignore-eos",
                                    "--logprobs",
                                    "2",
                                    "--json",
                                    "--stats",
                                    "--ids",
                                    "the prompt"});
  ASSERT_TRUE(result.command_line) << result.message;
  const CommandLine& line = *result.command_line;
  EXPECT_EQ(line.command, Command::kGenerate);
  EXPECT_EQ(line.server, "h:1");
  EXPECT_EQ(line.timeout_seconds, 1.5);
  EXPECT_EQ(line.retries, 3);
  EXPECT_EQ(line.text, "the prompt");
  EXPECT_FALSE(line.tokens);
  const GenerateRequest& g = line.generate;
  EXPECT_EQ(g.max_tokens, 9);
  EXPECT_EQ(g.sampling.temperature, 0.0f);
  EXPECT_EQ(g.sampling.top_k, 4);
  EXPECT_EQ(g.sampling.top_p, 0.5f);
  EXPECT_EQ(g.sampling.min_p, 0.25f);
  EXPECT_EQ(g.sampling.repetition_penalty, 1.5f);
  EXPECT_EQ(g.sampling.frequency_penalty, -1.0f);
  EXPECT_EQ(g.sampling.presence_penalty, 2.0f);
  EXPECT_THAT(g.sampling.logit_bias, ElementsAre(Pair(7, 1.0f), Pair(13, -2.5f)));
  EXPECT_EQ(g.sampling.seed, 18446744073709551615u);
  EXPECT_THAT(g.stop, ElementsAre("a b", "c"));
  EXPECT_TRUE(g.include_stop);
  EXPECT_THAT(g.stop_token_ids, ElementsAre(5, 6));
  EXPECT_TRUE(g.ignore_eos);
  EXPECT_EQ(g.logprobs, 2);
  EXPECT_TRUE(line.json);
  EXPECT_TRUE(line.stats);
  EXPECT_TRUE(line.ids);
}

TEST(OptionsTest, Beams) {
  const ParseResult result =
      Parse({"generate", "--beams", "4", "--length-penalty", "-0.5", "--num-return", "2",
             "--early-stopping", "never", "the prompt"});
  ASSERT_TRUE(result.command_line) << result.message;
  const std::optional<Beams>& beams = result.command_line->generate.beams;
  ASSERT_TRUE(beams);
  EXPECT_EQ(beams->count, 4);
  EXPECT_EQ(beams->length_penalty, -0.5f);
  EXPECT_EQ(beams->num_return, 2);
  EXPECT_EQ(beams->early_stopping, EarlyStopping::kNever);
  const ParseResult defaults = Parse({"generate", "--beams", "3", "x"});
  ASSERT_TRUE(defaults.command_line) << defaults.message;
  EXPECT_EQ(defaults.command_line->generate.beams->length_penalty, 1.0f);
  EXPECT_EQ(defaults.command_line->generate.beams->num_return, 1);
  EXPECT_EQ(defaults.command_line->generate.beams->early_stopping, EarlyStopping::kFalse);
}

TEST(OptionsTest, GenerateDefaults) {
  const ParseResult result = Parse({"generate", "-"}, "env:2");
  ASSERT_TRUE(result.command_line) << result.message;
  const CommandLine& line = *result.command_line;
  EXPECT_EQ(line.server, "env:2");
  EXPECT_EQ(line.text, "-");
  EXPECT_EQ(line.timeout_seconds, 0);
  EXPECT_EQ(line.generate.max_tokens, 128);
  EXPECT_EQ(line.generate.sampling.temperature, std::nullopt);
  EXPECT_EQ(line.generate.sampling.seed, std::nullopt);
}

// Only where that is said does a generation run to the server's limit.
TEST(OptionsTest, ZeroTokensIsTheServersLimit) {
  EXPECT_EQ(Parse({"generate", "x", "-n", "0"}).command_line->generate.max_tokens, 0);
  EXPECT_EQ(Parse({"chat"}).command_line->generate.max_tokens, 128);
  EXPECT_EQ(Parse({"chat", "-n", "0"}).command_line->generate.max_tokens, 0);
  EXPECT_EQ(Parse({"translate"}).command_line->generate.max_tokens, 0);
}

TEST(OptionsTest, SessionsOfOtherServers) {
  EXPECT_TRUE(Parse({"generate", "--session", "a", "--allow-inexact"})
                  .command_line->generate.session->allow_inexact);
  EXPECT_FALSE(Parse({"generate", "--session", "a"}).command_line->generate.session->allow_inexact);
  EXPECT_TRUE(
      Parse({"session", "load", "f", "--allow-inexact"}).command_line->session.allow_inexact);
  ExpectUsageError({"generate", "x", "--allow-inexact"}, "--session");
}

TEST(OptionsTest, AnEmptyTextIsAText) {
  const ParseResult result = Parse({"generate", ""});
  ASSERT_TRUE(result.command_line) << result.message;
  EXPECT_EQ(result.command_line->text, "");
}

TEST(OptionsTest, TokensInsteadOfText) {
  const ParseResult result = Parse({"score", "--tokens", "1,4294967295"});
  ASSERT_TRUE(result.command_line) << result.message;
  EXPECT_FALSE(result.command_line->text);
  ASSERT_TRUE(result.command_line->tokens);
  EXPECT_THAT(*result.command_line->tokens, ElementsAre(1, 4294967295u));
}

TEST(OptionsTest, DetokenizeTakesIdsWithCommasOrSpaces) {
  const ParseResult result = Parse({"detokenize", "1,2", "3"});
  ASSERT_TRUE(result.command_line) << result.message;
  EXPECT_THAT(result.command_line->tokens.value_or(TokenIds()), ElementsAre(1, 2, 3));
}

TEST(OptionsTest, TextAfterADoubleDashMayLookLikeAnOption) {
  const ParseResult result = Parse({"tokenize", "--", "--json"});
  ASSERT_TRUE(result.command_line) << result.message;
  EXPECT_EQ(result.command_line->text, "--json");
  EXPECT_FALSE(result.command_line->json);
}

TEST(OptionsTest, Bench) {
  const ParseResult defaults = Parse({"bench"});
  ASSERT_TRUE(defaults.command_line) << defaults.message;
  EXPECT_THAT(defaults.command_line->bench.sessions, ElementsAre(1, 16, 64, 256));
  EXPECT_EQ(defaults.command_line->bench.max_seconds, 60);
  const ParseResult load =
      Parse({"bench", "--sessions", "2,1000", "--prompt-tokens", "8", "--output-tokens", "4",
             "--requests", "5", "--seed", "6", "--max-seconds", "0.5"});
  ASSERT_TRUE(load.command_line) << load.message;
  const BenchOptions& bench = load.command_line->bench;
  EXPECT_THAT(bench.sessions, ElementsAre(2, 1000));
  EXPECT_EQ(bench.prompt_tokens, 8);
  EXPECT_EQ(bench.output_tokens, 4);
  EXPECT_EQ(bench.requests, 5);
  EXPECT_EQ(bench.seed, 6);
  EXPECT_EQ(bench.max_seconds, 0.5);
  EXPECT_EQ(load.command_line->generate.sampling.seed, std::nullopt);
  const ParseResult positions = Parse({"bench", "--at-positions", "128,65536"});
  ASSERT_TRUE(positions.command_line) << positions.message;
  EXPECT_THAT(positions.command_line->bench.at_positions, ElementsAre(128, 65536));
  EXPECT_EQ(positions.command_line->bench.max_seconds, 600);
}

TEST(OptionsTest, UsageErrorsNameWhatIsWrong) {
  ExpectUsageError({}, "subcommand");
  ExpectUsageError({"frobnicate"}, "frobnicate");
  ExpectUsageError({"generate"}, "--tokens");
  ExpectUsageError({"score"}, "--tokens");
  ExpectUsageError({"tokenize"}, "text");
  ExpectUsageError({"generate", "x", "--tokens", "1"}, "--tokens");
  ExpectUsageError({"generate", "--tokens", "1,-2"}, "--tokens");
  ExpectUsageError({"generate", "--tokens", "1,x"}, "--tokens");
  for (const char* list : {"1,,2", ",1", "1,"}) {
    ExpectUsageError({"generate", "--tokens", list}, "--tokens: '' is not a number");
    ExpectUsageError({"generate", "x", "--stop-token-ids", list}, "--stop-token-ids");
    ExpectUsageError({"detokenize", list}, "ids");
    ExpectUsageError({"bench", "--sessions", list}, "--sessions");
    ExpectUsageError({"bench", "--at-positions", list}, "--at-positions");
  }
  ExpectUsageError({"generate", "--tokens", "4294967296"}, "--tokens");
  ExpectUsageError({"generate", "x", "--top-p", "1.5"}, "--top-p");
  ExpectUsageError({"generate", "x", "--temperature", "-1"}, "--temperature");
  ExpectUsageError({"generate", "x", "--temperature", "nan"}, "--temperature");
  ExpectUsageError({"generate", "x", "--logit-bias", "3:4"}, "3:4");
  ExpectUsageError({"generate", "x", "--logit-bias", "3=101"}, "[-100, 100]");
  ExpectUsageError({"generate", "x", "--logit-bias", "-3=1"}, "-3=1");
  ExpectUsageError({"generate", "x", "y"}, "y");
  ExpectUsageError({"generate", "x", "--beams", "0"}, "--beams");
  ExpectUsageError({"generate", "x", "--num-return", "2"}, "--beams");
  ExpectUsageError({"generate", "x", "--beams", "2", "--early-stopping", "maybe"},
                   "--early-stopping");
  ExpectUsageError({"generate", "x", "--unknown"}, "--unknown");
  ExpectUsageError({"model", "--timeout", "-1"}, "--timeout");
  ExpectUsageError({"bench", "--sessions", "0"}, "--sessions");
  ExpectUsageError({"bench", "--sessions", "1", "--at-positions", "5"}, "--at-positions");
}

// Every option of an unsigned type, of every subcommand: CLI11 itself takes -1 for 2^64 - 1, 2^64
// too, and -18446744073709551615 for 1.
TEST(OptionsTest, UnsignedNumbersAreWhatTheySay) {
  const struct {
    const char* command;
    std::vector<const char*> options;
  } commands[] = {
      {"generate",
       {"--tokens", "--max-tokens", "--stop-token-ids", "--logprobs", "--top-k", "--seed",
        "--beams", "--num-return"}},
      {"translate", {"--column", "--streams", "--max-tokens", "--top-k", "--seed", "--beams"}},
      {"score", {"--tokens"}},
      {"chat", {"--max-tokens", "--top-k", "--seed"}},
      {"bench",
       {"--sessions", "--prompt-tokens", "--output-tokens", "--at-positions", "--requests",
        "--window", "--seed"}},
  };
  for (const auto& [command, options] : commands) {
    for (const char* option : options) {
      for (const char* value : {"-1", "18446744073709551616", "-18446744073709551615", "+1", " 1",
                                "1.0", "1e3", "0x10", "010", ""}) {
        ExpectUsageError({command, option, value}, option);
      }
    }
  }
  ExpectUsageError({"detokenize", "-1"}, "-1");
  ExpectUsageError({"detokenize", "5", "18446744073709551616"}, "ids");
  for (const char* bias : {"-1=1", " -1=1", "+1=1", "4294967296=1", "=1", "1=", "1", "01=1"}) {
    ExpectUsageError({"generate", "x", "--logit-bias", bias}, "--logit-bias");
  }
  EXPECT_THAT(Parse({"generate", "x", "--seed", "-1"}).message,
              HasSubstr("'-1' is not a number from 0 to 18,446,744,073,709,551,615"));
  EXPECT_THAT(Parse({"generate", "x", "--top-k", "4294967296"}).message,
              HasSubstr("is not a number from 0 to 4,294,967,295"));
  EXPECT_EQ(Parse({"generate", "x", "--seed", "0"}).command_line->generate.sampling.seed, 0U);
}

// The list above has all of them: whatever --help shows to take a whole number or ids.
TEST(OptionsTest, EveryWholeNumberIsHeldToARange) {
  for (const char* command :
       {"generate", "translate", "score", "tokenize", "detokenize", "model", "health", "bench"}) {
    std::istringstream help(Parse({command, "--help"}).message);
    std::string paragraph;
    const auto check = [&] {
      std::istringstream words(paragraph);
      std::string name;
      std::string type;
      words >> name >> type;
      const std::set<std::string> numbers = {"N",         "K",       "UINT",   "INT",
                                             "ID,ID,...", "N,N,...", "P,P,..."};
      const bool number = numbers.count(type) > 0;
      if (number) {
        EXPECT_THAT(paragraph, HasSubstr("[")) << command;
      }
    };
    for (std::string line; std::getline(help, line); paragraph += line + "\n") {
      if (line.compare(0, 3, "  -") != 0) continue;
      check();
      paragraph.clear();
    }
    check();
  }
}

TEST(OptionsTest, HelpHasExamplesAndExitsWithZero) {
  for (const char* command :
       {"generate", "score", "tokenize", "detokenize", "model", "health", "bench"}) {
    const ParseResult result = Parse({command, "--help"});
    EXPECT_FALSE(result.command_line);
    EXPECT_EQ(result.exit_code, 0);
    EXPECT_THAT(result.message, HasSubstr("Examples:\n  t2r " + std::string(command)));
    EXPECT_THAT(result.message, HasSubstr("--server"));
  }
  EXPECT_THAT(Parse({"--help"}).message, HasSubstr("Exit status"));
  EXPECT_THAT(Parse({"--version"}).message, HasSubstr("t2r 0."));
}

}  // namespace
}  // namespace t2r::client
