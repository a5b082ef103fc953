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
namespace {

// "model.layers.3.self_attn.q_proj k_proj v_proj".
std::string ShortName(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) {
    const std::string whole = name.substr(0, name.rfind('.'));  // without ".weight"
    text += text.empty() ? whole : " " + whole.substr(whole.rfind('.') + 1);
  }
  return text;
}

void PrintWidened(const QuantizeSummary& summary, Progress* progress) {
  double sum = 0;
  double narrow = 0;
  for (const WidenedMatrix& matrix : summary.widened) {
    sum += matrix.divergence;
    if (!matrix.wide) {
      narrow += matrix.divergence;
      continue;
    }
    char line[200];
    std::snprintf(line, sizeof(line), "int8: %.6f nats/token alone in int4  %s", matrix.divergence,
                  ShortName(matrix.names).c_str());
    progress->Line(line);
  }
  char line[200];
  std::snprintf(line, sizeof(line),
                "divergence with all in int4: %.5f nats/token (alone they add up to %.5f); as "
                "written: %.5f (%.5f), with %.2f bits a weight of projections",
                summary.divergence_narrow, sum, summary.divergence, narrow, summary.bits);
  progress->Line(line);
}

}  // namespace

void Quantize(const QuantizeFlags& flags) {
  Progress progress(stdout, 1);
  auto start = std::chrono::steady_clock::now();
  double last = 0;
  const auto show = [&](double share, const std::string& tensor) {
    if (share < last) start = std::chrono::steady_clock::now();  // another stage
    last = share;
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
  const QuantizeSummary summary = QuantizeModel(
      flags.model, flags.directory, {weights, corpus ? &*corpus : nullptr, flags.bits}, show);
  if (flags.bits > 0) PrintWidened(summary, &progress);
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
