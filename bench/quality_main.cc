// t2r-bench-quality: what a type of weights costs in quality: perplexity of a text, and how far
// greedy continuations go the same way. One JSON object a type, and one for each other directory of
// the same model.
#include <algorithm>
#include <cstdio>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "convert/data/corpus.h"
#include "convert/eval/evaluation.h"
#include "convert/eval/score.h"
#include "convert/eval/windows.h"
#include "engine/engine.h"
#include "engine/tokenizer/tokenizer.h"
#include "flags/help.h"

namespace {

using t2r::convert::Corpus;

struct Options {
  std::string model;
  std::string text;
  t2r::convert::CorpusOptions corpus;
  std::vector<std::string> weights = {"float32", "bfloat16", "int8", "int4"};  // [/activations]
  std::vector<std::string> beside;                                             // NAME=DIR
  int64_t prompt = 32;
  int64_t generated = 32;
  int threads = 0;
};

t2r::convert::Evaluation Score(t2r::Executor& executor, const Corpus& corpus,
                               const std::vector<t2r::convert::Window>& windows) {
  t2r::convert::Evaluation result;
  result.documents = static_cast<int64_t>(corpus.documents.size());
  t2r::convert::ScoreWindows(
      &executor, corpus, windows,
      [&](const t2r::convert::Window&, std::span<const float> logprobs) {
        for (const float logprob : logprobs) result.nats -= static_cast<double>(logprob);
        result.predictions += static_cast<int64_t>(logprobs.size());
      },
      nullptr);
  return result;
}

// The most likely continuation of a document's first tokens.
std::vector<int32_t> Continue(t2r::Executor& executor, const std::vector<int32_t>& document,
                              const Options& options) {
  t2r::SamplingParams greedy;
  greedy.temperature = 0;
  std::vector<int32_t> fed(
      document.begin(),
      document.begin() + std::min<int64_t>(options.prompt, static_cast<int64_t>(document.size())));
  t2r::ScheduledChunk chunk;
  chunk.slot = executor.Open({static_cast<int64_t>(fed.size()) + options.generated}, greedy);
  if (chunk.slot < 0) throw t2r::DeviceError("no room for a continuation");
  chunk.sample = true;
  std::vector<int32_t> tokens;
  std::vector<t2r::ChunkResult> results;
  while (static_cast<int64_t>(tokens.size()) < options.generated) {
    chunk.tokens = fed;
    executor.Step({&chunk, 1}, &results);
    chunk.position += static_cast<int64_t>(fed.size());
    tokens.push_back(results[0].sampled.token);
    fed = {tokens.back()};
  }
  executor.Close(chunk.slot);
  return tokens;
}

// weights: TYPE or TYPE/ACTIVATIONS.
t2r::convert::ScoreOptions ScoreOptionsOf(const std::string& weights, const Options& options) {
  const size_t slash = weights.find('/');
  t2r::convert::ScoreOptions score = {"cpu", options.threads, weights.substr(0, slash)};
  if (slash != std::string::npos) score.activations = weights.substr(slash + 1);
  return score;
}

void Run(const Options& options) {
  const auto config = t2r::LoadModelConfig(options.model);
  if (!config.ok()) throw t2r::DeviceError(std::string(config.status().message()));
  const auto tokenizer = t2r::LoadTokenizer(options.model);
  if (!tokenizer.ok()) throw t2r::DeviceError(std::string(tokenizer.status().message()));
  const Corpus corpus =
      t2r::convert::LoadCorpus(options.text, options.corpus, *config, tokenizer->get());
  const auto windows = t2r::convert::CutEvaluation(corpus, t2r::convert::WithDefaults({}, *config));
  t2r::convert::ScoringRoom room;
  room.Add(options.prompt + options.generated, 0);
  for (const auto& window : windows) room.Add(window.length, 0);
  std::vector<std::vector<int32_t>> first;  // the continuations of the first type
  struct Variant {
    std::string name, directory, weights;
  };
  std::vector<Variant> variants;
  for (const std::string& weights : options.weights) {
    variants.push_back({weights, options.model, weights});
  }
  for (const std::string& named : options.beside) {
    const size_t equals = named.find('=');
    if (equals == std::string::npos)
      throw t2r::DeviceError("--beside " + named + " is no NAME=DIR");
    const std::string name = named.substr(0, equals);
    const size_t slash = std::min(name.find('/'), name.size());
    variants.push_back({name, named.substr(equals + 1), "auto" + name.substr(slash)});
  }
  for (const Variant& variant : variants) {
    const auto engine = t2r::convert::LoadScoringEngine(variant.directory, room,
                                                        ScoreOptionsOf(variant.weights, options));
    const auto evaluation = Score(*engine->executor, corpus, windows);
    std::vector<std::vector<int32_t>> continuations;
    for (const auto& document : corpus.documents) {
      continuations.push_back(Continue(*engine->executor, document, options));
    }
    if (first.empty()) first = continuations;
    int64_t equal = 0;
    int64_t common = 0;
    for (size_t i = 0; i < first.size(); ++i) {
      const auto differs =
          std::mismatch(first[i].begin(), first[i].end(), continuations[i].begin()).first;
      common += differs - first[i].begin();
      if (differs == first[i].end()) ++equal;
    }
    const nlohmann::json line = {
        {"weights", variant.name},
        {"weight_mib", static_cast<double>(engine->memory.weight_bytes) / (1 << 20)},
        {"nats_per_token", evaluation.nats_per_token()},
        {"perplexity", evaluation.perplexity()},
        {"predictions", evaluation.predictions},
        {"continuations", first.size()},
        {"equal_continuations", equal},
        {"mean_common_tokens", static_cast<double>(common) / static_cast<double>(first.size())},
        {"backend", engine->backend_description}};
    std::cout << line.dump() << std::endl;
  }
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app(
      "Perplexity of a text and agreement of greedy continuations by type of weights; JSON lines. "
      "Continuations are compared with those of the first type.",
      "t2r-bench-quality");
  t2r::flags::Describe(&app);
  app.add_option("--model", options.model, "Model directory")->type_name("DIR")->required();
  app.add_option("--text", options.text, "What is scored")->type_name("FILE")->required();
  app.add_option("--separator", options.corpus.separator, "A line between documents")
      ->type_name("LINE");
  app.add_option("--documents", options.corpus.documents, "The first so many; 0: all")
      ->check(t2r::flags::AtLeast(int64_t{0}));
  app.add_option("--max-tokens-per-document", options.corpus.max_tokens_per_document,
                 "Documents are cut to so many tokens; 0: uncut")
      ->check(t2r::flags::AtLeast(int64_t{0}));
  app.add_option("--weights", options.weights,
                 "As the server's --weights; int8/int8: with --activations int8, and so on")
      ->delimiter(',')
      ->type_name("TYPE,TYPE,...");
  app.add_option(
         "--beside", options.beside,
         "The same model in another directory, as it is there; NAME/int8: with --activations int8")
      ->type_name("NAME=DIR");
  app.add_option("--prompt", options.prompt, "Tokens of a document that are continued")
      ->check(t2r::flags::Range(int64_t{1}, int64_t{1} << 16));
  app.add_option("--generated", options.generated, "Tokens of a continuation")
      ->check(t2r::flags::Range(int64_t{1}, int64_t{1} << 16));
  app.add_option("--threads", options.threads, "Engine threads; 0: one a core")
      ->check(t2r::flags::Range(0, 1024));
  if (const auto code = t2r::flags::Parse(&app, argc, argv)) return *code;
  try {
    Run(options);
  } catch (const std::exception& error) {
    std::cerr << "t2r-bench-quality: " << error.what() << "\n";
    return 1;
  }
  return 0;
}
