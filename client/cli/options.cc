#include "client/cli/options.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <sstream>

namespace t2r::client {
namespace {

constexpr char kFooter[] =
    "Exit status: 0 done, 1 the server refused or failed (the message says what to do),\n"
    "2 wrong usage, 130 interrupted with Ctrl-C.\n"
    "T2R_SERVER in the environment sets the default of --server.";

// List options take one argument each: what follows may be the prompt.

template <typename T>
CLI::Validator Range(T low, T high) {
  return CLI::Range(low, high).description("");
}

const CLI::Validator kAtLeastZero(
    [](std::string& value) {
      double number = 0;
      return CLI::detail::lexical_cast(value, number) && number >= 0
                 ? std::string()
                 : "'" + value + "' is not a number of at least 0";
    },
    "");

std::string Examples(const std::string& lines) { return "Examples:\n" + lines; }

// What the parser fills and CommandLine states in other types.
struct Raw {
  std::string text;
  std::string source;
  std::string target_prefix;
  TokenIds tokens;
  std::vector<std::string> logit_bias;
  float temperature = 0;
  uint64_t seed = 0;
  Beams beams;
};

void AddCall(CLI::App* app, CommandLine* out) {
  app->add_option("--server", out->server, "Address of t2r-server")
      ->type_name("HOST:PORT")
      ->capture_default_str();
  app->add_option("--timeout", out->timeout_seconds, "Give up after this time; 0: never")
      ->type_name("SECONDS")
      ->check(kAtLeastZero);
}

void AddRetriesAndJson(CLI::App* app, CommandLine* out, const std::string& json_help) {
  app->add_option("--retries", out->retries,
                  "Send a request again, up to N times, when the server says it is too busy")
      ->type_name("N")
      ->check(kAtLeastZero);
  app->add_flag("--json", out->json, json_help);
}

CLI::Option* AddTokens(CLI::App* app, Raw* raw) {
  return app->add_option("--tokens", raw->tokens, "Token ids instead of text, taken as they are")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->type_name("ID,ID,...");
}

// text or --tokens; checked after parsing, where the message can say what is missing.
void AddTarget(CLI::App* app, Raw* raw, const std::string& name, const std::string& help) {
  app->add_option(name, raw->text, help)->type_name("TEXT")->excludes(AddTokens(app, raw));
}

void AddSampling(CLI::App* app, CommandLine* out, Raw* raw) {
  Sampling& s = out->generate.sampling;
  const std::string group = "Sampling";
  app->add_option("--temperature", raw->temperature, "0: greedy (default: the model's own, else 1)")
      ->group(group)
      ->check(kAtLeastZero);
  app->add_option("--top-k", s.top_k, "Keep the K most likely tokens; 0: off")->group(group);
  app->add_option("--top-p", s.top_p, "Keep the most likely tokens that reach this probability")
      ->group(group)
      ->check(Range(0.0, 1.0));
  app->add_option("--min-p", s.min_p, "Keep tokens with this share of the best one's probability")
      ->group(group)
      ->check(Range(0.0, 1.0));
  app->add_option("--repetition-penalty", s.repetition_penalty,
                  "Divides the logits of tokens in prompt and output; 0 or 1: off")
      ->group(group)
      ->check(kAtLeastZero);
  app->add_option("--frequency-penalty", s.frequency_penalty,
                  "Subtracted for each time a token was generated")
      ->group(group)
      ->check(Range(-2.0, 2.0));
  app->add_option("--presence-penalty", s.presence_penalty, "Subtracted once a token was generated")
      ->group(group)
      ->check(Range(-2.0, 2.0));
  app->add_option("--logit-bias", raw->logit_bias, "Added to a token's logit; may be repeated")
      ->group(group)
      ->type_name("ID=VALUE")
      ->allow_extra_args(false);
  app->add_option("--seed", raw->seed, "Same request, same seed, same tokens (default: random)")
      ->group(group);
}

// several: whether more than the best result can be asked for.
void AddBeams(CLI::App* app, Raw* raw, bool several) {
  const std::string group = "Beam search";
  CLI::Option* beams =
      app->add_option("--beams", raw->beams.count, "Search with N beams; results come at the end")
          ->group(group)
          ->type_name("N")
          ->check(Range(1u, std::numeric_limits<uint32_t>::max()));
  app->add_option("--length-penalty", raw->beams.length_penalty,
                  "Scores are divided by length to this power: above 0 favours long results")
      ->group(group)
      ->needs(beams)
      ->capture_default_str();
  if (several) {
    app->add_option("--num-return", raw->beams.num_return, "Results to print, best first")
        ->group(group)
        ->needs(beams)
        ->type_name("N")
        ->check(Range(1u, std::numeric_limits<uint32_t>::max()))
        ->capture_default_str();
  }
  const std::map<std::string, EarlyStopping> stopping = {{"false", EarlyStopping::kFalse},
                                                         {"true", EarlyStopping::kTrue},
                                                         {"never", EarlyStopping::kNever}};
  app->add_option(
         "--early-stopping", raw->beams.early_stopping,
         "When N results have ended: false (goes on while the next is likely better), true "
         "(stops) or never (goes on while one can be better)")
      ->group(group)
      ->needs(beams)
      ->type_name("false|true|never")
      ->transform(CLI::CheckedTransformer(stopping).description(""));
}

void AddGenerate(CLI::App* app, CommandLine* out, Raw* raw) {
  AddTarget(app, raw, "prompt", "The text to continue; -: read it from standard input");
  GenerateRequest& g = out->generate;
  app->add_option("-n,--max-tokens", g.max_tokens, "Generate at most N; 0: the server's limit")
      ->type_name("N");
  app->add_option("--stop", g.stop, "End before this text; may be repeated")
      ->type_name("TEXT")
      ->allow_extra_args(false);
  app->add_flag("--include-stop", g.include_stop, "Print the matched stop text too");
  app->add_option("--stop-token-ids", g.stop_token_ids, "End after one of these tokens")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->type_name("ID,ID,...");
  app->add_option("--target-prefix", raw->target_prefix,
                  "Encoder-decoders: the target begins with this, which is not printed")
      ->type_name("TEXT");
  app->add_flag("--ignore-eos", g.ignore_eos, "Go on after end-of-sequence tokens");
  AddSampling(app, out, raw);
  AddBeams(app, raw, true);
  app->add_option("--logprobs", g.logprobs,
                  "Print a line a token: id, log probability, and N alternatives")
      ->type_name("N");
  app->add_flag("--ids", out->ids, "Print token ids, not text");
  app->add_flag("--stats", out->stats, "At the end, tokens/s and time to first token on stderr");
  AddCall(app, out);
  AddRetriesAndJson(app, out, "Print one JSON object a line and event");
  app->footer(
      Examples("  t2r generate \"In the beginning\" --max-tokens 64 --stats\n"
               "  echo 'Once upon a time' | t2r generate - --temperature 0\n"
               "  t2r generate --tokens 1,403,407 --ids --seed 7 --top-p 0.9\n"
               "  t2r generate \"Once upon a time\" -n 32 --beams 4 --num-return 2\n"
               "  t2r generate \"Q: Why?\" --stop $'\\n' --json"));
}

void AddTranslate(CLI::App* app, CommandLine* out, Raw* raw) {
  TranslateOptions& t = out->translate;
  app->add_option("file", t.file, "The sources, one a line; -: standard input")
      ->type_name("FILE")
      ->capture_default_str();
  app->add_option("--column", t.column, "The tab-separated column that holds the source, from 1")
      ->type_name("N")
      ->check(Range(1u, 1u << 20));
  app->add_option("--streams", t.streams, "Translate so many at once")
      ->type_name("N")
      ->check(Range(1u, 100'000u))
      ->capture_default_str();
  app->add_option("--target-prefix", t.target_prefix, "Every translation begins with this")
      ->type_name("TEXT");
  app->add_option("-n,--max-tokens", out->generate.max_tokens,
                  "At most N tokens a translation; 0: the server's limit")
      ->type_name("N");
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
      app->add_option("--sessions", b.sessions, "Concurrent sessions; one row of the table each")
          ->delimiter(',')
          ->allow_extra_args(false)
          ->type_name("N,N,...")
          ->check(Range(1u, 100'000u))
          ->capture_default_str();
  app->add_option("--prompt-tokens", b.prompt_tokens, "Random tokens in each prompt")
      ->check(Range(1u, 1u << 30))
      ->capture_default_str();
  app->add_option("--output-tokens", b.output_tokens, "Tokens each request generates")
      ->check(Range(1u, 1u << 30))
      ->excludes(
          app->add_option("--at-positions", b.at_positions,
                          "Instead: decode time a token around these positions of one session")
              ->delimiter(',')
              ->allow_extra_args(false)
              ->type_name("P,P,...")
              ->check(Range(uint64_t{1}, uint64_t{1} << 40))
              ->excludes(sessions))
      ->capture_default_str();
  app->add_option("--requests", b.requests,
                  "Requests a row, over all its sessions; 0: twice the sessions, at least 8")
      ->capture_default_str();
  app->add_option("--window", b.window, "With --at-positions: tokens measured around each")
      ->check(Range(2u, 1u << 20))
      ->capture_default_str();
  app->add_option("--max-seconds", b.max_seconds,
                  "End a row after this time (default: 60; 600 with --at-positions)")
      ->check(Range(1e-3, 1e9));
  app->add_option("--seed", b.seed, "Of the random prompts and of sampling")->capture_default_str();
  AddCall(app, out);
  AddRetriesAndJson(app, out, "Print one JSON object a row");
  app->footer(
      Examples("  t2r bench --sessions 1,16,64,256 --prompt-tokens 128 --output-tokens 128\n"
               "  t2r bench --sessions 1000 --retries 100 --max-seconds 30 --json\n"
               "  t2r bench --at-positions 128,4096,65536"));
}

// "" or what is wrong.
std::string ParseBias(const std::vector<std::string>& entries, std::map<TokenId, float>* out) {
  for (const std::string& entry : entries) {
    std::istringstream in(entry);
    TokenId id = 0;
    char equals = 0;
    float value = 0;
    if (entry.empty() || entry[0] == '-' || !(in >> id >> equals >> value) || equals != '=' ||
        in.peek() != std::char_traits<char>::eof()) {
      return "--logit-bias: '" + entry + "' is not ID=VALUE, for example 13=-2.5";
    }
    if (!(std::abs(value) <= 100)) {
      return "--logit-bias: '" + entry + "' is outside [-100, 100]";
    }
    (*out)[id] = value;
  }
  return "";
}

}  // namespace

ParseResult ParseCommandLine(int argc, const char* const* argv, const std::string& default_server) {
  CommandLine out;
  Raw raw;
  if (!default_server.empty()) out.server = default_server;

  CLI::App app("Client of t2r-server: generate, score and measure.", "t2r");
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

  CLI::App* score = add("score", "Log probability of each token of a text", Command::kScore);
  AddTarget(score, &raw, "text", "The text; -: read it from standard input");
  score->add_option("--source", raw.source, "Encoder-decoders: what the text translates")
      ->type_name("TEXT");
  AddCall(score, &out);
  AddRetriesAndJson(score, &out, "Print one JSON object");
  score->footer(
      Examples("  t2r score \"And it came to pass\"\n  t2r score --tokens 1,403,407 --json\n"
               "  t2r score \"Good day\" --source 'Guten Tag'"));

  CLI::App* tokenize = add("tokenize", "Text to token ids", Command::kTokenize);
  tokenize->add_option("text", raw.text, "The text; -: read it from standard input")
      ->type_name("TEXT")
      ->required();
  AddCall(tokenize, &out);
  AddRetriesAndJson(tokenize, &out, "Print one JSON object");
  tokenize->footer(
      Examples("  t2r tokenize \"And it came to pass\"\n  t2r tokenize - < chapter.txt"));

  CLI::App* detokenize = add("detokenize", "Token ids to text", Command::kDetokenize);
  detokenize->add_option("ids", raw.tokens, "The ids")
      ->delimiter(',')
      ->type_name("ID,ID,...")
      ->required();
  AddCall(detokenize, &out);
  AddRetriesAndJson(detokenize, &out, "Print one JSON object");
  detokenize->footer(
      Examples("  t2r detokenize 1,403,407\n  t2r detokenize $(t2r tokenize 'Hello')"));

  CLI::App* model = add("model", "What the server serves, and its limits", Command::kModel);
  AddCall(model, &out);
  AddRetriesAndJson(model, &out, "Print one JSON object");
  model->footer(Examples("  t2r model\n  t2r model --json"));

  CLI::App* health =
      add("health", "Exit 0 once the server is serving, 1 if it is not", Command::kHealth);
  AddCall(health, &out);
  health->footer(Examples("  t2r health\n  t2r health --timeout 60    wait up to a minute for it"));

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
  if ((out.command == Command::kGenerate || out.command == Command::kScore) && !out.text &&
      !out.tokens) {
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
