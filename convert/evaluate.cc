#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "convert/commands.h"
#include "convert/device.h"
#include "convert/error.h"
#include "convert/files.h"
#include "convert/loss.h"
#include "convert/metrics.h"
#include "convert/model_dir.h"
#include "convert/progress.h"
#include "convert/status.h"
#include "convert/translate.h"
#include "engine/model/load.h"
#include "engine/tokenizer/tokenizer.h"

namespace t2r::convert {
namespace {

void CheckPositions(const Corpus& corpus, int64_t limit) {
  for (const auto& document : corpus.documents) {
    if (static_cast<int64_t>(document.size()) > limit + 1) {
      throw ConvertError("a document of " + std::to_string(document.size()) +
                         " tokens exceeds the model's " + std::to_string(limit) +
                         " learned positions: give --max-tokens-per-document " +
                         std::to_string(limit + 1) + " or less");
    }
  }
}

// Translates the file's sources with the engine and prints how good that is, and how fast.
void EvalTranslations(const EvalFlags& flags, const Tokenizer& tokenizer) {
  auto pairs = ReadPairs(flags.text, flags.target);
  const auto first = static_cast<size_t>(flags.corpus.documents);
  if (first > 0 && first < pairs.size()) pairs.resize(first);
  std::vector<std::vector<int32_t>> sources;
  std::vector<std::string> references;
  size_t longest = 0;
  for (const auto& [source, target] : pairs) {
    sources.push_back(source.empty() ? std::vector<int32_t>()
                                     : Unwrap(tokenizer.Encode(source, true)));
    longest = std::max(longest, sources.back().size());
    references.push_back(target);
  }
  EngineOptions options;
  options.threads = flags.threads;
  options.dtype = flags.dtype;
  options.max_sessions = flags.batch;
  options.max_step_tokens =
      std::max({int64_t{512}, int64_t{flags.batch}, static_cast<int64_t>(longest)});
  const auto engine = Unwrap(LoadEngine(flags.model, options));
  Progress progress(stderr, 1);
  const Translations translations =
      Translate(engine->executor.get(), engine->config, sources, flags.max_tokens, &progress);
  std::vector<std::string> hypotheses;
  std::string lines;
  int64_t cut = 0;
  for (const Translation& output : translations.outputs) {
    hypotheses.push_back(tokenizer.Decode(output.ids));
    std::replace(hypotheses.back().begin(), hypotheses.back().end(), '\n', ' ');
    lines += hypotheses.back() + "\n";
    cut += output.ended ? 0 : 1;
  }
  if (!flags.output.empty()) WriteFileAtomically(flags.output, lines);
  std::printf("%s\n", DescribeMetrics(hypotheses, references).c_str());
  std::printf("translated %lld tokens in %.2f s, %.0f tokens/s; %lld cut at their longest length\n",
              static_cast<long long>(translations.tokens), translations.seconds,
              static_cast<double>(translations.tokens) / translations.seconds,
              static_cast<long long>(cut));
}

}  // namespace

void PrintMetrics(const MetricsFlags& flags) {
  std::printf("%s\n",
              DescribeMetrics(ReadLines(flags.hypotheses), ReadLines(flags.references)).c_str());
}

void Eval(const EvalFlags& flags) {
  const torch::Device device = ParseDevice(flags.device);
  if (flags.batch < 1) throw ConvertError("--batch must be at least 1");
  const ModelConfig config = Unwrap(LoadModelConfig(flags.model));
  const auto tokenizer = Unwrap(LoadTokenizer(flags.model));
  const bool pairs = config.encoder_decoder.has_value();
  const auto limit = config.position_limit();
  const Corpus corpus = pairs ? LoadParallelCorpus(flags.text, flags.target, flags.corpus, *limit,
                                                   config, tokenizer.get())
                              : LoadCorpus(flags.text, flags.corpus, config, tokenizer.get());
  if (limit.has_value()) CheckPositions(corpus, *limit);
  TrainingModel model(config, device);
  LoadParameters(flags.model, &model, /*allow_missing_maps=*/false);
  std::printf("%s\n", Describe(Evaluate(model, corpus)).c_str());
  std::fflush(stdout);
  if (pairs && flags.translate && !flags.corpus.ids) EvalTranslations(flags, *tokenizer);
}

}  // namespace t2r::convert
