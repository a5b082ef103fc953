// The subcommands against a server that makes things up.
#include "client/cli/commands.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "client/load/load.h"
#include "tests/client/testing/fake_server.h"

namespace t2r::client {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::MatchesRegex;
using ::testing::Not;

class CommandsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    absl::StatusOr<std::unique_ptr<Client>> client = Client::Connect(server_.address());
    ASSERT_TRUE(client.ok()) << client.status();
    client_ = *std::move(client);
  }

  int Run(std::vector<const char*> arguments) {
    arguments.insert(arguments.begin(), "t2r");
    ParseResult parsed =
        ParseCommandLine(static_cast<int>(arguments.size()), arguments.data(), server_.address());
    EXPECT_TRUE(parsed.command_line) << parsed.message;
    if (!parsed.command_line) return -1;
    out_.str("");
    err_.str("");
    const Console console{out_, err_};
    const CommandLine& line = *parsed.command_line;
    switch (line.command) {
      case Command::kGenerate:
        return RunGenerate(line, *client_, console);
      case Command::kTranslate:
        return RunTranslate(line, *client_, console);
      case Command::kScore:
        return RunScore(line, *client_, console);
      case Command::kTokenize:
        return RunTokenize(line, *client_, console);
      case Command::kDetokenize:
        return RunDetokenize(line, *client_, console);
      case Command::kModel:
        return RunModel(line, *client_, console);
      case Command::kHealth:
        return RunHealth(line, *client_, console);
      case Command::kBench:
        return RunBench(line, *client_, console);
      case Command::kSession:
        return RunSession(line, *client_, console);
      case Command::kChat:
        return RunChat(line, *client_, in_, console);
    }
    return -1;
  }

  std::vector<nlohmann::json> OutLines() const {
    std::vector<nlohmann::json> lines;
    std::istringstream in(out_.str());
    for (std::string line; std::getline(in, line);) lines.push_back(nlohmann::json::parse(line));
    return lines;
  }

  FakeServer server_;
  std::unique_ptr<Client> client_;
  std::istringstream in_;  // what is typed: nothing
  std::ostringstream out_;
  std::ostringstream err_;
};

TEST_F(CommandsTest, GeneratePrintsTheText) {
  EXPECT_EQ(Run({"generate", "hello", "-n", "4"}), 0);
  EXPECT_EQ(out_.str(), "abcd\n");
  EXPECT_EQ(err_.str(), "");
}

TEST_F(CommandsTest, GenerateEndsWithoutBeingTold) {
  EXPECT_EQ(Run({"generate", "hello", "--ids"}), 0);
  EXPECT_THAT(server_.last_request(), HasSubstr("max_tokens: 128"));
  EXPECT_EQ(Run({"generate", "hello", "-n", "0"}), 0);
  EXPECT_THAT(server_.last_request(), Not(HasSubstr("max_tokens")));
}

// A file of sources for `translate`, removed at the end.
class SourceFile {
 public:
  explicit SourceFile(const std::string& text)
      : path_(::testing::TempDir() + "t2r-sources-" + std::to_string(getpid())) {
    std::ofstream(path_) << text;
  }
  ~SourceFile() { std::remove(path_.c_str()); }
  const char* path() const { return path_.c_str(); }

 private:
  std::string path_;
};

TEST_F(CommandsTest, TranslateKeepsLines) {
  server_.encoder_decoder = true;
  const SourceFile file("one\n\ntwo\r\n");
  EXPECT_EQ(Run({"translate", file.path()}), 0);
  EXPECT_EQ(out_.str(), "abcd\n\nabcd\n");
  EXPECT_THAT(server_.last_request(), HasSubstr("text: \"two\""));
  EXPECT_EQ(err_.str(), "");
}

TEST_F(CommandsTest, TranslateTakesAColumnAndAPrefix) {
  server_.encoder_decoder = true;
  const SourceFile file("a\tb\tc\n");
  EXPECT_EQ(Run({"translate", file.path(), "--column", "2", "--target-prefix", "xy", "--json"}), 0);
  EXPECT_THAT(server_.last_request(),
              AllOf(HasSubstr("text: \"b\""), HasSubstr("target_prefix_text: \"xy\"")));
  ASSERT_EQ(OutLines().size(), 1U);
  EXPECT_EQ(OutLines()[0]["source"], "b");
  EXPECT_EQ(OutLines()[0]["text"], "xyabcd");
  EXPECT_EQ(OutLines()[0]["reason"], "length");
  EXPECT_EQ(Run({"translate", file.path(), "--column", "4"}), 1);
  EXPECT_THAT(err_.str(), HasSubstr("line 1 has 3 columns; --column asks for 4"));
  EXPECT_EQ(Run({"translate", "/nonexistent/file"}), 1);
  EXPECT_THAT(err_.str(), HasSubstr("cannot read /nonexistent/file"));
}

TEST_F(CommandsTest, TranslatePrintsTheBestOfItsBeams) {
  server_.encoder_decoder = true;
  const SourceFile file("one\ntwo\n");
  EXPECT_EQ(Run({"translate", file.path(), "--beams", "3", "--early-stopping", "true"}), 0);
  EXPECT_EQ(out_.str(), "a\na\n");
  EXPECT_THAT(server_.last_request(), HasSubstr("count: 3"));
  EXPECT_EQ(Run({"translate", file.path(), "--beams", "3", "--json"}), 0);
  ASSERT_EQ(OutLines().size(), 2U);
  EXPECT_EQ(OutLines()[0]["token_ids"], nlohmann::json({100}));
}

TEST_F(CommandsTest, TranslateRunsManyStreamsButNoMore) {
  server_.encoder_decoder = true;
  std::string lines;
  for (int i = 0; i < 200; ++i) lines += "line\n";
  const SourceFile file(lines);
  EXPECT_EQ(Run({"translate", file.path(), "--streams", "7"}), 0);
  EXPECT_EQ(out_.str().size(), 200 * 5U);
  EXPECT_LE(server_.max_concurrent(), 7);
  EXPECT_EQ(server_.attempts(), 201);  // and GetModel
}

TEST_F(CommandsTest, TranslateNeedsAnEncoderDecoder) {
  const SourceFile file("one\n");
  EXPECT_EQ(Run({"translate", file.path()}), 1);
  EXPECT_EQ(out_.str(), "");
  EXPECT_EQ(err_.str(), "t2r: fake (llama) at " + server_.address() +
                            " is not an encoder-decoder and does not translate; `t2r generate` "
                            "continues a text\n");
  EXPECT_EQ(server_.attempts(), 1);  // GetModel
}

// What came before the failure is printed; what runs is cancelled.
TEST_F(CommandsTest, TranslateStopsAtTheFirstFailure) {
  server_.encoder_decoder = true;
  const SourceFile file("one\ntwo\ninvalid\nendless\nsilent\nfour\n");
  EXPECT_EQ(Run({"translate", file.path(), "--streams", "5"}), 1);
  EXPECT_EQ(out_.str(), "abcd\nabcd\n");
  EXPECT_THAT(err_.str(), AllOf(HasSubstr("line 3"), HasSubstr("top_p is 7")));
}

TEST_F(CommandsTest, GenerateStats) {
  EXPECT_EQ(Run({"generate", "hello", "-n", "4", "--stats", "--seed", "5"}), 0);
  EXPECT_THAT(err_.str(), MatchesRegex("prompt 6 tokens, generated 4 tokens, first token after "
                                       "[0-9.]+ ms, then [0-9.]+ tokens/s, seed 5, ended by "
                                       "length\n"));
}

TEST_F(CommandsTest, GenerateIdsAndLogprobs) {
  server_.tokens_per_delta = 3;
  EXPECT_EQ(Run({"generate", "--tokens", "5,6", "-n", "4", "--ids"}), 0);
  EXPECT_EQ(out_.str(), "100 101 102 103\n");
  EXPECT_EQ(Run({"generate", "x", "--max-tokens", "2", "--logprobs", "1"}), 0);
  EXPECT_EQ(out_.str(), "100\t-0.2500\t9:-0.1250\n101\t-0.2500\t9:-0.1250\n");
}

TEST_F(CommandsTest, GenerateSaysWhenTokensHaveNoText) {
  EXPECT_EQ(Run({"generate", "textless"}), 0);
  EXPECT_EQ(out_.str(), "");
  EXPECT_THAT(err_.str(), HasSubstr("--ids"));
}

TEST_F(CommandsTest, GenerateWithBeams) {
  EXPECT_EQ(Run({"generate", "x", "--beams", "4", "--length-penalty", "0.5"}), 0);
  EXPECT_EQ(out_.str(), "a\n");
  EXPECT_THAT(server_.last_request(), HasSubstr("beams { count: 4 length_penalty: 0.5 "
                                                "num_return: 1 }"));
  EXPECT_EQ(Run({"generate", "x", "--beams", "4", "--num-return", "2", "--early-stopping", "true",
                 "--stats"}),
            0);
  EXPECT_EQ(out_.str(), "-0.5000\ta\n-1.0000\tab\n");
  EXPECT_THAT(err_.str(), HasSubstr("generated 3 tokens, seed 7, ended by eos"));
  EXPECT_THAT(server_.last_request(), HasSubstr("early_stopping: EARLY_STOPPING_TRUE"));
  EXPECT_EQ(Run({"generate", "x", "--beams", "2", "--num-return", "2", "--ids"}), 0);
  EXPECT_EQ(out_.str(), "-0.5000\t100\n-1.0000\t100 101\n");
  EXPECT_EQ(Run({"generate", "x", "--beams", "2", "--num-return", "2", "--json"}), 0);
  const nlohmann::json hypotheses = OutLines().at(1)["finished"]["hypotheses"];
  ASSERT_EQ(hypotheses.size(), 2);
  EXPECT_EQ(hypotheses[1]["text"], "ab");
  EXPECT_EQ(hypotheses[1]["token_ids"], nlohmann::json({100, 101}));
  EXPECT_EQ(hypotheses[1]["score"], -1.0);
  EXPECT_EQ(hypotheses[1]["reason"], "length");
}

TEST_F(CommandsTest, GenerateJson) {
  EXPECT_EQ(Run({"generate", "x", "--json", "--max-tokens", "1", "--logprobs", "1"}), 0);
  const std::vector<nlohmann::json> lines = OutLines();
  ASSERT_EQ(lines.size(), 3);
  EXPECT_EQ(lines[0]["started"]["seed"], 7);
  EXPECT_EQ(lines[1]["delta"]["text"], "a");
  EXPECT_EQ(lines[1]["delta"]["token_ids"], nlohmann::json({100}));
  EXPECT_EQ(lines[1]["delta"]["logprobs"][0]["top"][0]["token_id"], 9);
  EXPECT_EQ(lines[2]["finished"]["reason"], "length");
  EXPECT_EQ(lines[2]["finished"]["decode_seconds"], 0.005);
}

TEST_F(CommandsTest, ErrorsSayWhatToDo) {
  EXPECT_EQ(Run({"generate", "invalid"}), 1);
  EXPECT_EQ(err_.str(), "t2r: INVALID_ARGUMENT: top_p is 7; it must be in (0, 1]\n");
  server_.refusals = 1;
  server_.retry_delay_ms = 250;
  EXPECT_EQ(Run({"generate", "x"}), 1);
  EXPECT_THAT(err_.str(), HasSubstr("RESOURCE_EXHAUSTED: the queue is full"));
  EXPECT_THAT(err_.str(), HasSubstr("Try again in 250ms"));
  EXPECT_THAT(err_.str(), HasSubstr("--retries"));
  server_.refusals = 1;
  EXPECT_EQ(Run({"generate", "x", "--retries", "1"}), 0);
  EXPECT_EQ(Run({"generate", "silent", "--timeout", "0.05"}), 1);
  EXPECT_THAT(err_.str(), HasSubstr("--timeout"));
  EXPECT_EQ(Run({"generate", "drained"}), 1);
  EXPECT_EQ(out_.str(), "a\n");
  EXPECT_THAT(err_.str(), HasSubstr("UNAVAILABLE: the server is shutting down"));
}

TEST_F(CommandsTest, Score) {
  EXPECT_EQ(Run({"score", "ab"}), 0);
  EXPECT_EQ(out_.str(),
            "position  token  logprob\n"
            "--------  -----  -------\n"
            "       0      1        -\n"
            "       1     97  -0.5000\n"
            "       2     98  -0.5000\n"
            "total -1.0000 over 2 tokens, 0.5000 nats/token, perplexity 1.649\n");
  EXPECT_EQ(Run({"score", "--tokens", "3,4", "--json"}), 0);
  EXPECT_EQ(OutLines().at(0)["logprobs"], nlohmann::json({-0.5}));
  EXPECT_EQ(OutLines().at(0)["tokens"], nlohmann::json({3, 4}));
  EXPECT_EQ(Run({"score", "--tokens", "3"}), 0);
  EXPECT_THAT(out_.str(), HasSubstr("over 0 tokens, - nats/token, perplexity -\n"));
}

TEST_F(CommandsTest, TokenizeAndDetokenize) {
  EXPECT_EQ(Run({"tokenize", "hi"}), 0);
  EXPECT_EQ(out_.str(), "1,104,105\n");
  EXPECT_EQ(Run({"detokenize", "1,104,105"}), 0);
  EXPECT_EQ(out_.str(), "hi\n");
  EXPECT_EQ(Run({"detokenize", "104", "--json"}), 0);
  EXPECT_EQ(OutLines().at(0)["text"], "h");
}

TEST_F(CommandsTest, Model) {
  EXPECT_EQ(Run({"model"}), 0);
  EXPECT_THAT(out_.str(), HasSubstr("model                fake\n"));
  EXPECT_THAT(out_.str(), HasSubstr("3 (2 linear_attention, 1 full_attention)\n"));
  EXPECT_THAT(out_.str(), HasSubstr("123,456 bytes (121 KiB)\n"));
  EXPECT_THAT(out_.str(), HasSubstr("answer size          4,194,304 bytes (4.00 MiB)\n"));
  EXPECT_THAT(out_.str(), HasSubstr("defaults             temperature 0.5, top-k 40, tokens 77\n"));
  EXPECT_THAT(out_.str(), HasSubstr("\n  prefixes           5,000 bytes (4.88 KiB)\n"));
  // What the server does not tell is not told as nothing.
  EXPECT_THAT(out_.str(), Not(HasSubstr("memory")));
  EXPECT_THAT(out_.str(), Not(HasSubstr("free")));
  EXPECT_EQ(Run({"model", "--json"}), 0);
  EXPECT_EQ(OutLines().at(0)["limits"]["max_sessions"], 64);
  EXPECT_EQ(OutLines().at(0)["limits"]["max_response_bytes"], 4 << 20);
  EXPECT_EQ(OutLines().at(0)["defaults"],
            nlohmann::json({{"temperature", 0.5}, {"top_k", 40}, {"max_tokens", 77}}));
}

TEST_F(CommandsTest, Health) {
  EXPECT_EQ(Run({"health"}), 0);
  EXPECT_EQ(out_.str(), "serving\n");
  server_.health_failures = 1'000'000;
  EXPECT_EQ(Run({"health", "--timeout", "0.05"}), 1);
  EXPECT_THAT(err_.str(), HasSubstr("NOT_SERVING"));
}

TEST_F(CommandsTest, BenchRunsEachLoad) {
  server_.tokens_per_delta = 3;
  EXPECT_EQ(Run({"bench", "--sessions", "1,8", "--requests", "24", "--output-tokens", "10",
                 "--prompt-tokens", "5", "--json"}),
            0);
  const std::vector<nlohmann::json> rows = OutLines();
  ASSERT_EQ(rows.size(), 2);
  for (const nlohmann::json& row : rows) {
    EXPECT_EQ(row["completed"], 24);
    EXPECT_EQ(row["tokens"], 240);
    EXPECT_GT(row["tokens_per_second"], 0);
    EXPECT_GT(row["time_to_first_token_ms"]["p50"], 0);
    EXPECT_GE(row["inter_token_ms"]["p99"], row["inter_token_ms"]["p50"]);
    EXPECT_TRUE(row["errors"].empty());
  }
  EXPECT_EQ(rows[1]["sessions"], 8);
  EXPECT_LE(server_.max_concurrent(), 8);
  EXPECT_THAT(server_.last_request(), HasSubstr("ignore_eos: true"));
}

TEST_F(CommandsTest, BenchPrintsOneTable) {
  server_.refusals = 0;
  EXPECT_EQ(Run({"bench", "--sessions", "2,4", "--output-tokens", "4"}), 0);
  EXPECT_THAT(out_.str(), HasSubstr("sessions  requests  tokens/s  TTFT p50"));
  EXPECT_THAT(out_.str(), HasSubstr("\n       2         8"));
  EXPECT_THAT(out_.str(), HasSubstr("\n       4         8"));
}

TEST_F(CommandsTest, BenchRefusesWhatCannotFit) {
  EXPECT_EQ(Run({"bench", "--output-tokens", "1001"}), 1);
  EXPECT_THAT(err_.str(), HasSubstr("limit of 1000 tokens"));
  EXPECT_EQ(Run({"bench", "--output-tokens", "1000", "--prompt-tokens", "1002"}), 1);
  EXPECT_THAT(err_.str(), HasSubstr("this model has 2000"));
  EXPECT_EQ(Run({"bench", "--at-positions", "5000"}), 1);
  EXPECT_EQ(out_.str(), "");
}

TEST_F(CommandsTest, BenchAtPositions) {
  EXPECT_EQ(Run({"bench", "--at-positions", "100,900", "--json"}), 0);
  const std::vector<nlohmann::json> rows = OutLines();
  ASSERT_EQ(rows.size(), 2);
  EXPECT_EQ(rows[1]["position"], 900);
  EXPECT_EQ(rows[1]["tokens"], 128);
  EXPECT_GT(rows[1]["mean_ms"], 0);
  EXPECT_EQ(Run({"bench", "--at-positions", "100"}), 0);
  EXPECT_THAT(out_.str(), HasSubstr("ms/token"));
  EXPECT_THAT(out_.str(), HasSubstr("1.000"));
}

class LoadTest : public CommandsTest {
 protected:
  static LoadOptions Options(uint32_t sessions, uint32_t requests) {
    return {.sessions = sessions,
            .requests = requests,
            .prompt_tokens = 2,
            .output_tokens = 4,
            .vocab_size = 50,
            .call = {}};
  }
  const std::atomic<bool> never_ = false;
};

TEST_F(LoadTest, CountsErrorsByStatus) {
  server_.refusals = 3;
  const LoadResult result = RunLoad(*client_, Options(2, 10), never_, nullptr);
  EXPECT_EQ(result.completed, 7);
  EXPECT_EQ(result.ErrorCount(), 3);
  ASSERT_EQ(result.errors.size(), 1);
  EXPECT_EQ(result.errors.begin()->first, "RESOURCE_EXHAUSTED: the queue is full");
  EXPECT_EQ(result.tokens, 28);
  EXPECT_EQ(result.time_to_first_token.count(), 7);
  EXPECT_EQ(result.inter_token.count(), 21);
  EXPECT_EQ(server_.attempts(), 10);
}

TEST_F(LoadTest, RetriesAreNotErrors) {
  server_.refusals = 3;
  server_.retry_delay_ms = 1;
  LoadOptions options = Options(2, 10);
  options.call.max_retries = 3;
  const LoadResult result = RunLoad(*client_, options, never_, nullptr);
  EXPECT_EQ(result.completed, 10);
  EXPECT_EQ(result.ErrorCount(), 0);
}

TEST_F(LoadTest, EndsAtItsTime) {
  LoadOptions options = Options(4, 4'000'000'000u);
  options.max_time = absl::Milliseconds(50);
  const LoadResult result = RunLoad(*client_, options, never_, nullptr);
  EXPECT_EQ(result.ErrorCount(), 0);
  EXPECT_LE(result.cut, 4);
  EXPECT_GT(result.completed, 0);
}

TEST_F(LoadTest, EndsWhenStopped) {
  std::atomic<bool> stop = true;
  const LoadResult result = RunLoad(*client_, Options(4, 4'000'000'000u), stop, nullptr);
  EXPECT_EQ(result.ErrorCount(), 0);
  EXPECT_LE(result.cut, 4);
}

TEST_F(LoadTest, ReportsProgress) {
  LoadOptions options = Options(1, 4'000'000'000u);
  std::atomic<bool> stop = false;
  uint32_t updates = 0;
  RunLoad(*client_, options, stop, [&](const LoadProgress& progress) {
    ++updates;
    EXPECT_GT(progress.seconds, 0);
    if (progress.tokens > 0) stop = true;
  });
  EXPECT_GT(updates, 0);
}

}  // namespace
}  // namespace t2r::client
