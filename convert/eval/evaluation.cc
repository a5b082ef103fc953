#include "convert/eval/evaluation.h"

#include <bit>
#include <cmath>
#include <cstdio>

namespace t2r::convert {
namespace {

constexpr int kFirstRangeBits = 6;  // 64 positions

}  // namespace

double Evaluation::perplexity() const { return std::exp(nats_per_token()); }

std::string Describe(const Evaluation& evaluation) {
  char text[200];
  std::snprintf(text, sizeof(text),
                "%.5f nats/token, perplexity %.4f over %lld predicted tokens of %lld documents",
                evaluation.nats_per_token(), evaluation.perplexity(),
                static_cast<long long>(evaluation.predictions),
                static_cast<long long>(evaluation.documents));
  return text;
}

void PositionLosses::Add(int64_t position, double nats) {
  const auto range =
      static_cast<size_t>(std::bit_width(static_cast<uint64_t>(position) >> kFirstRangeBits));
  if (range >= ranges_.size()) ranges_.resize(range + 1);
  ranges_[range].nats += nats;
  ++ranges_[range].predictions;
}

std::string PositionLosses::Table() const {
  char line[120];
  std::snprintf(line, sizeof(line), "%-17s %12s %18s\n", "positions", "nats/token",
                "predicted tokens");
  std::string table = line;
  for (size_t i = 0; i < ranges_.size(); ++i) {
    const Range& range = ranges_[i];
    if (range.predictions == 0) continue;
    const int64_t first = i == 0 ? 0 : int64_t{1} << (kFirstRangeBits + i - 1);
    const int64_t last = (int64_t{1} << (kFirstRangeBits + i)) - 1;
    const std::string name = std::to_string(first) + "-" + std::to_string(last);
    std::snprintf(line, sizeof(line), "%-17s %12.5f %18lld\n", name.c_str(),
                  range.nats / static_cast<double>(range.predictions),
                  static_cast<long long>(range.predictions));
    table += line;
  }
  return table;
}

}  // namespace t2r::convert
