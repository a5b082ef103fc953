#include <chrono>
#include <cstdio>
#include <memory>
#include <optional>

#include "convert/commands.h"
#include "convert/data/corpus.h"
#include "convert/progress.h"
#include "convert/quantize/quantize_model.h"
#include "convert/status.h"
#include "engine/engine.h"
#include "engine/tokenizer/tokenizer.h"

namespace t2r::convert {

void Quantize(const QuantizeFlags& flags) {
  Progress progress(stdout, 1);
  const auto start = std::chrono::steady_clock::now();
  const auto show = [&](double share, const std::string& tensor) {
    const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - start;
    progress.Show(share, tensor, share > 0 ? spent.count() * (1 - share) / share : 0);
  };
  const DType weights = flags.weights == "int4" ? DType::kInt4 : DType::kInt8;
  std::optional<Corpus> corpus;
  if (!flags.text.empty()) {
    const ModelConfig config = Unwrap(LoadModelConfig(flags.model));
    const std::unique_ptr<Tokenizer> tokenizer = Unwrap(LoadTokenizer(flags.model));
    corpus = LoadCorpus(flags.text, flags.corpus, config, tokenizer.get());
  }
  const QuantizeSummary summary =
      QuantizeModel(flags.model, flags.directory, weights, corpus ? &*corpus : nullptr, show);
  char text[150];
  std::snprintf(
      text, sizeof(text), "%lld matrices, %lld of them calibrated, %.1f MiB, as %s, %.1f MiB",
      static_cast<long long>(summary.matrices), static_cast<long long>(summary.calibrated),
      static_cast<double>(summary.bytes_before) / (1 << 20), flags.weights.c_str(),
      static_cast<double>(summary.bytes_after) / (1 << 20));
  progress.Line(text);
  progress.Line("written: " + flags.directory);
}

}  // namespace t2r::convert
