#include "client/cli/options.h"

#include <algorithm>
#include <map>
#include <memory>
#include <sstream>

#include "absl/strings/str_join.h"
#include "client/cli/option_groups.h"
#include "client/cli/session_options.h"
#include "flags/help.h"

namespace t2r::client {
namespace {

constexpr char kFooter[] =
    "Exit status: 0 done, 1 the server refused or failed (the message says what to do),\n"
    "2 wrong usage, 130 interrupted with Ctrl-C.\n"
    "T2R_SERVER in the environment sets the default of --server, T2R_API_KEY is the API key.";

std::string Examples(const std::string& lines) { return "Examples:\n" + lines; }

// List options take one argument each: what follows may be the prompt.
CLI::Option* AddTokens(CLI::App* app, RawOptions* raw) {
  return AddList(app, "--tokens", &raw->tokens, "Token ids instead of text, taken as they are",
                 flags::AtLeast(TokenId{0}))
      ->allow_extra_args(false)
      ->type_name("ID,ID,...");
}

// text or --tokens; checked after parsing, where the message can say what is missing.
void AddTarget(CLI::App* app, RawOptions* raw, const std::string& name, const std::string& help) {
  app->add_option(name, raw->text, help)->type_name("TEXT")->excludes(AddTokens(app, raw));
}

void AddGenerate(CLI::App* app, CommandLine* out, RawOptions* raw) {
  AddTarget(app, raw, "prompt", "The text to continue; -: read it from standard input");
  GenerateRequest& g = out->generate;
  app->add_option("-n,--max-tokens", g.max_tokens,
                  "Generate at most N (default: " + std::to_string(kDefaultMaxTokens) +
                      "); 0: the model's default, else the server's limit")
      ->type_name("N")
      ->check(flags::AtLeast(0U));
  app->add_option("--stop", g.stop, "End before this text; may be repeated")
      ->type_name("TEXT")
      ->allow_extra_args(false);
  app->add_flag("--include-stop", g.include_stop, "Print the matched stop text too");
  AddList(app, "--stop-token-ids", &g.stop_token_ids, "End after one of these tokens",
          flags::AtLeast(TokenId{0}))
      ->allow_extra_args(false)
      ->type_name("ID,ID,...");
  app->add_option("--target-prefix", raw->target_prefix,
                  "Encoder-decoders: the target begins with this, which is not printed")
      ->type_name("TEXT");
  app->add_flag("--ignore-eos", g.ignore_eos, "Go on after end-of-sequence tokens");
  AddSampling(app, out, raw);
  AddTurn(app, raw);
  AddBeams(app, raw, true);
  app->add_option("--logprobs", g.logprobs,
                  "Print a line a token: id, log probability, and N alternatives")
      ->type_name("N")
      ->check(flags::AtLeast(0U));
  app->add_flag("--ids", out->ids, "Print token ids, not text");
  app->add_flag("--stats", out->stats, "At the end, tokens/s and time to first token on stderr");
  AddCall(app, out);
  AddRetriesAndJson(app, out, "Print one JSON object a line and event");
  app->footer(Examples(
      "  t2r generate \"In the beginning\" --max-tokens 64 --stats\n"
      "  echo 'Once upon a time' | t2r generate - --temperature 0\n"
      "  t2r generate --tokens 1,403,407 --ids --seed 7 --top-p 0.9\n"
      "  t2r generate \"Once upon a time\" -n 32 --beams 4 --num-return 2\n"
      "  t2r generate \"Once upon a time\" --session story && t2r generate --session story\n"
      "  t2r generate \"Q: Why?\" --stop $'\\n' --json"));
}

void AddTranslate(CLI::App* app, CommandLine* out, RawOptions* raw) {
  TranslateOptions& t = out->translate;
  app->add_option("file", t.file, "The sources, one a line; -: standard input")
      ->type_name("FILE")
      ->capture_default_str();
  app->add_option("--column", t.column, "The tab-separated column that holds the source, from 1")
      ->type_name("N")
      ->check(flags::Range(1u, 1u << 20));
  app->add_option("--streams", t.streams, "Translate so many at once")
      ->type_name("N")
      ->check(flags::Range(1u, 100'000u))
      ->capture_default_str();
  app->add_option("--target-prefix", t.target_prefix, "Every translation begins with this")
      ->type_name("TEXT");
  app->add_option("-n,--max-tokens", out->generate.max_tokens,
                  "At most N tokens a translation; 0: the model's default, else the server's limit")
      ->type_name("N")
      ->check(flags::AtLeast(0U));
  AddSampling(app, out, raw);
  AddBeams(app, raw, false);
  AddCall(app, out);
  AddRetriesAndJson(app, out, "Print one JSON object a translation");
  app->footer(
      Examples("  t2r translate sentences.txt > translations.txt\n"
               "  t2r translate test.tsv --column 1 --beams 4 --json\n"
               "  echo 'Guten Tag' | t2r translate --target-prefix 'Good '"));
}

void AddBench(CLI::App* app, CommandLine* out) {
  BenchOptions& b = out->bench;
  CLI::Option* sessions =
      AddList(app, "--sessions", &b.sessions, "Concurrent sessions; one row of the table each",
              flags::Range(1u, 100'000u))
          ->allow_extra_args(false)
          ->type_name("N,N,...")
          ->default_str(absl::StrJoin(b.sessions, ","));
  app->add_option("--prompt-tokens", b.prompt_tokens, "Random tokens in each prompt")
      ->check(flags::Range(1u, 1u << 30))
      ->capture_default_str();
  app->add_option("--output-tokens", b.output_tokens, "Tokens each request generates")
      ->check(flags::Range(1u, 1u << 30))
      ->excludes(AddList(app, "--at-positions", &b.at_positions,
                         "Instead: decode time a token around these positions of one session",
                         flags::Range(uint64_t{1}, uint64_t{1} << 40))
                     ->allow_extra_args(false)
                     ->type_name("P,P,...")
                     ->excludes(sessions))
      ->capture_default_str();
  app->add_option("--requests", b.requests,
                  "Requests a row, over all its sessions; 0: twice the sessions, at least 8")
      ->check(flags::AtLeast(0U))
      ->capture_default_str();
  app->add_option("--window", b.window, "With --at-positions: tokens measured around each")
      ->check(flags::Range(2u, 1u << 20))
      ->capture_default_str();
  app->add_option("--max-seconds", b.max_seconds,
                  "End a row after this time (default: 60; 600 with --at-positions)")
      ->type_name("SECONDS")
      ->check(flags::Range(1e-3, 1e9));
  app->add_option("--seed", b.seed, "Of the random prompts and of sampling")
      ->check(flags::AtLeast(uint64_t{0}))
      ->capture_default_str();
  AddCall(app, out);
  AddRetriesAndJson(app, out, "Print one JSON object a row");
  app->footer(
      Examples("  t2r bench --sessions 1,16,64,256 --prompt-tokens 128 --output-tokens 128\n"
               "  t2r bench --sessions 1000 --retries 100 --max-seconds 30 --json\n"
               "  t2r bench --at-positions 128,4096,65536"));
}

void AddScore(CLI::App* app, CommandLine* out, RawOptions* raw) {
  AddTarget(app, raw, "text", "The text; -: read it from standard input");
  app->add_option("--source", raw->source, "Encoder-decoders: what the text translates")
      ->type_name("TEXT");
  AddCall(app, out);
  AddRetriesAndJson(app, out, "Print one JSON object");
  app->footer(
      Examples("  t2r score \"And it came to pass\"\n  t2r score --tokens 1,403,407 --json\n"
               "  t2r score \"Good day\" --source 'Guten Tag'"));
}

void AddTokenize(CLI::App* app, CommandLine* out, RawOptions* raw) {
  app->add_option("text", raw->text, "The text; -: read it from standard input")
      ->type_name("TEXT")
      ->required();
  AddCall(app, out);
  AddRetriesAndJson(app, out, "Print one JSON object");
  app->footer(Examples("  t2r tokenize \"And it came to pass\"\n  t2r tokenize - < chapter.txt"));
}

void AddDetokenize(CLI::App* app, CommandLine* out, RawOptions* raw) {
  AddList(app, "ids", &raw->tokens, "The ids", flags::AtLeast(TokenId{0}))
      ->type_name("ID,ID,...")
      ->required();
  AddCall(app, out);
  AddRetriesAndJson(app, out, "Print one JSON object");
  app->footer(Examples("  t2r detokenize 1,403,407\n  t2r detokenize $(t2r tokenize 'Hello')"));
}

void AddModel(CLI::App* app, CommandLine* out) {
  AddCall(app, out);
  AddRetriesAndJson(app, out, "Print one JSON object");
  app->footer(Examples("  t2r model\n  t2r model --json"));
}

void AddHealth(CLI::App* app, CommandLine* out) {
  AddCall(app, out);
  app->footer(Examples("  t2r health\n  t2r health --timeout 60    wait up to a minute for it"));
}

}  // namespace

ParseResult ParseCommandLine(int argc, const char* const* argv, const std::string& default_server) {
  CommandLine out;
  RawOptions raw;
  if (!default_server.empty()) out.server = default_server;

  CLI::App app("Client of t2r-server: generate, score and measure.", "t2r");
  app.formatter(std::make_shared<flags::HelpFormatter>());
  app.set_version_flag("--version", std::string("t2r ") + T2R_VERSION);
  app.require_subcommand(1);
  app.footer(std::string(kFooter) + "\n\n" +
             Examples("  t2r generate --server 127.0.0.1:50051 \"In the beginning\"\n"
                      "  t2r generate --help"));

  std::map<const CLI::App*, Command> commands;
  const auto add = [&](const char* name, const char* help, Command command) {
    CLI::App* sub = app.add_subcommand(name, help);
    commands[sub] = command;
    return sub;
  };
  AddGenerate(add("generate", "Stream a continuation of a prompt", Command::kGenerate), &out, &raw);
  AddTranslate(add("translate", "Translate lines with an encoder-decoder", Command::kTranslate),
               &out, &raw);
  AddScore(add("score", "Log probability of each token of a text", Command::kScore), &out, &raw);
  AddTokenize(add("tokenize", "Text to token ids", Command::kTokenize), &out, &raw);
  AddDetokenize(add("detokenize", "Token ids to text", Command::kDetokenize), &out, &raw);
  AddModel(add("model", "What the server serves, and its limits", Command::kModel), &out);
  AddHealth(add("health", "Exit 0 once the server is serving, 1 if it is not", Command::kHealth),
            &out);
  AddSession(add("session", "Make, list, copy, save and load sessions", Command::kSession), &out);
  AddChat(add("chat", "Talk on a terminal, in a session", Command::kChat), &out, &raw);
  AddBench(add("bench", "Measure throughput and latency under load", Command::kBench), &out);

  const auto usage = [&](const std::string& what) {
    return ParseResult{std::nullopt, what + "\nRun with --help for more information.\n", 2};
  };
  if (argc > 1 && argv[1][0] != '-' &&
      std::none_of(commands.begin(), commands.end(),
                   [&](const auto& entry) { return entry.first->get_name() == argv[1]; })) {
    return usage(std::string("There is no subcommand '") + argv[1] + "'");
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    std::ostringstream text;
    const int code = app.exit(e, text, text);
    return {std::nullopt, text.str(), code == 0 ? 0 : 2};
  }

  const CLI::App* chosen = app.get_subcommands().front();
  out.command = commands.at(chosen);
  const auto given = [&](const char* name) {
    const CLI::Option* option = chosen->get_option_no_throw(name);
    return option != nullptr && option->count() > 0;
  };
  if (given("prompt") || given("text")) out.text = raw.text;
  if (given("--tokens") || given("ids")) out.tokens = raw.tokens;
  if (out.command == Command::kGenerate && given("--session")) {
    out.generate.session = raw.session;
    out.generate.session->create = true;
    if (given("--expected-position")) {
      out.generate.session->expected_position = raw.expected_position;
    }
  }
  if ((out.command == Command::kGenerate || out.command == Command::kChat) &&
      !given("--max-tokens")) {
    out.generate.max_tokens = kDefaultMaxTokens;
  }
  if ((out.command == Command::kGenerate || out.command == Command::kScore) && !out.text &&
      !out.tokens && !out.generate.session) {
    return usage("Nothing to " + chosen->get_name() +
                 ": give a text, - for standard input, or --tokens");
  }
  if (out.command == Command::kScore && given("--source")) out.source = raw.source;
  if (out.command == Command::kGenerate && given("--target-prefix")) {
    out.generate.target_prefix = raw.target_prefix;
  }
  if (given("--beams")) out.generate.beams = raw.beams;
  if (given("--temperature")) out.generate.sampling.temperature = raw.temperature;
  if (out.command != Command::kBench && given("--seed")) out.generate.sampling.seed = raw.seed;
  const std::string bias_error = ParseBias(raw.logit_bias, &out.generate.sampling.logit_bias);
  if (!bias_error.empty()) return usage(bias_error);
  if (out.bench.max_seconds == 0) out.bench.max_seconds = out.bench.at_positions.empty() ? 60 : 600;
  return {std::move(out), "", 0};
}

}  // namespace t2r::client
