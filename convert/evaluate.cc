#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "convert/commands.h"
#include "convert/data/files.h"
#include "convert/device.h"
#include "convert/error.h"
#include "convert/eval/metrics.h"
#include "convert/eval/translate.h"
#include "convert/model/model_dir.h"
#include "convert/progress.h"
#include "convert/status.h"
#include "convert/train/loss.h"
#include "engine/engine.h"
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
  std::vector<std::string> sources, references;
  for (auto& [source, target] : pairs) {
    sources.push_back(std::move(source));
    references.push_back(std::move(target));
  }
  TranslateOptions options = flags.translation;
  options.threads = flags.threads;
  Progress progress(stderr, 1);
  const TranslatedLines translated =
      TranslateLines(flags.model, tokenizer, sources, options, &progress);
  if (!flags.output.empty()) {
    std::string lines;
    for (const std::string& text : translated.texts) lines += text + "\n";
    WriteFileAtomically(flags.output, lines);
  }
  std::printf("%s\n", DescribeMetrics(translated.texts, references).c_str());
  std::printf("translated %lld tokens in %.2f s, %.0f tokens/s; %lld cut at their longest length\n",
              static_cast<long long>(translated.tokens), translated.seconds,
              static_cast<double>(translated.tokens) / translated.seconds,
              static_cast<long long>(translated.cut));
}

}  // namespace

void PrintMetrics(const MetricsFlags& flags) {
  std::printf("%s\n",
              DescribeMetrics(ReadLines(flags.hypotheses), ReadLines(flags.references)).c_str());
}

void Eval(const EvalFlags& flags) {
  const torch::Device device = ParseDevice(flags.device);
  if (flags.translation.batch < 1) throw ConvertError("--batch must be at least 1");
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
  std::printf("%s\n", Describe(Evaluate(model, corpus, flags.threads)).c_str());
  std::fflush(stdout);
  if (pairs && flags.translate && !flags.corpus.ids) EvalTranslations(flags, *tokenizer);
}

}  // namespace t2r::convert
