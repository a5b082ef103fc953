#include <cstdio>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "convert/commands.h"
#include "convert/data/files.h"
#include "convert/error.h"
#include "convert/eval/evaluation.h"
#include "convert/eval/metrics.h"
#include "convert/eval/recall.h"
#include "convert/eval/score.h"
#include "convert/eval/translate.h"
#include "convert/eval/windows.h"
#include "convert/progress.h"
#include "convert/status.h"
#include "engine/engine.h"
#include "engine/tokenizer/tokenizer.h"

namespace t2r::convert {
namespace {

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
  options.backend = flags.engine.backend;
  options.threads = flags.engine.threads;
  options.dtype = flags.engine.dtype;
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

// Throws ConvertError on flags that exclude each other.
void CheckFlags(const EvalFlags& flags, const ModelConfig& config) {
  if (flags.translation.batch < 1) throw ConvertError("--batch must be at least 1");
  if (flags.engine.backend != "auto" && flags.engine.backend != "cpu" &&
      flags.engine.backend != "cuda") {
    throw ConvertError("--device must be auto, cpu or cuda, not '" + flags.engine.backend + "'");
  }
  if (flags.concat < 0 || flags.concat == 1) {
    throw ConvertError("--concat must be at least 2 tokens, or 0");
  }
  if (config.encoder_decoder.has_value() && (flags.concat > 0 || !flags.recall.empty())) {
    throw ConvertError("--concat and --recall are for models without an encoder");
  }
}

// The windows of a run; rows of concatenated documents are whole where nothing else is asked for.
WindowOptions Windows(const EvalFlags& flags, const ModelConfig& config) {
  WindowOptions windows = flags.windows;
  if (flags.concat > 0 && windows.window == 0) windows.window = flags.concat;
  return WithDefaults(windows, config);
}

void EvalLoss(Executor* executor, const Corpus& corpus, const std::vector<Window>& windows,
              bool by_position, Progress* progress) {
  Evaluation result;
  PositionLosses positions;
  result.documents = static_cast<int64_t>(corpus.documents.size());
  ScoreWindows(
      executor, corpus, windows,
      [&](const Window& window, std::span<const float> logprobs) {
        for (size_t i = 0; i < logprobs.size(); ++i) {
          const double nats = -static_cast<double>(logprobs[i]);
          result.nats += nats;
          positions.Add(window.context + static_cast<int64_t>(i), nats);
        }
        result.predictions += static_cast<int64_t>(logprobs.size());
      },
      progress);
  std::printf("%s\n", Describe(result).c_str());
  if (by_position) std::printf("%s", positions.Table().c_str());
}

}  // namespace

void PrintMetrics(const MetricsFlags& flags) {
  std::printf("%s\n",
              DescribeMetrics(ReadLines(flags.hypotheses), ReadLines(flags.references)).c_str());
}

void Eval(const EvalFlags& flags) {
  const ModelConfig config = Unwrap(LoadModelConfig(flags.model));
  CheckFlags(flags, config);
  const auto tokenizer = Unwrap(LoadTokenizer(flags.model));
  const bool pairs = config.encoder_decoder.has_value();
  const WindowOptions options = Windows(flags, config);
  const std::vector<int64_t> distances =
      flags.recall.empty() ? std::vector<int64_t>() : ParseDistances(flags.recall, options.window);
  const auto limit = config.position_limit();
  Corpus corpus = pairs ? LoadParallelCorpus(flags.text, flags.target, flags.corpus, *limit, config,
                                             tokenizer.get())
                        : LoadCorpus(flags.text, flags.corpus, config, tokenizer.get());
  if (flags.concat > 0) corpus = Concatenated(corpus, flags.concat);
  const std::vector<Window> windows = CutEvaluation(corpus, options);

  ScoringRoom room;
  for (const Window& window : windows) room.Add(window.length, window.source_length);
  for (const int64_t distance : distances) room.Add(ProbeTokens(distance), 0);
  const auto engine = LoadScoringEngine(flags.model, room, flags.engine);
  Progress progress(stderr, 1);
  if (!engine->backend_note.empty()) progress.Line(engine->backend_note);
  for (const std::string& warning : engine->warnings) progress.Line(warning);
  EvalLoss(engine->executor.get(), corpus, windows, flags.by_position, &progress);
  const ExecutorLimits& limits = engine->executor->limits();
  std::printf("%s; a session's state %lld bytes, keys and values %lld a position\n",
              pairs ? "whole pairs" : Describe(options).c_str(),
              static_cast<long long>(limits.state_bytes),
              static_cast<long long>(limits.kv_bytes_per_position));
  std::fflush(stdout);
  if (!distances.empty()) {
    RecallOptions recall;
    recall.distances = distances;
    recall.probes = flags.recall_probes;
    std::printf("%s",
                Table(MeasureRecall(engine->executor.get(), corpus, recall, &progress)).c_str());
  }
  if (pairs && flags.translate && !flags.corpus.ids) EvalTranslations(flags, *tokenizer);
}

}  // namespace t2r::convert
