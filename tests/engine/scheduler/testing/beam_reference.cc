#include "tests/engine/scheduler/testing/beam_reference.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace t2r {
namespace {

constexpr double kNever = -1e9;

struct Row {
  std::vector<int32_t> tokens;
  double score = 0;
  bool ended = false;
};

// The k best rows by score, ties in their order.
std::vector<Row> Best(std::vector<Row> rows, size_t k) {
  std::stable_sort(rows.begin(), rows.end(),
                   [](const Row& a, const Row& b) { return a.score > b.score; });
  rows.resize(std::min(k, rows.size()));
  return rows;
}

}  // namespace

std::vector<ReferenceHypothesis> ReferenceBeams(const NextLogprobs& next, const BeamParams& params,
                                                int64_t max_tokens,
                                                const std::vector<int32_t>& terminal_ids) {
  const auto beams = static_cast<size_t>(params.count);
  const size_t wide = std::max<size_t>(2, 1 + terminal_ids.size()) * beams;
  std::vector<Row> running(beams, Row{{}, kNever, false});
  running[0].score = 0;
  std::vector<Row> finished(beams, Row{{}, kNever, false});
  for (int64_t length = 1;; ++length) {
    std::vector<Row> extended;
    for (const Row& row : running) {
      const std::vector<double> logprobs = next(row.tokens);
      for (size_t token = 0; token < logprobs.size(); ++token) {
        Row longer = row;
        longer.tokens.push_back(static_cast<int32_t>(token));
        longer.score += logprobs[token];
        longer.ended =
            length == max_tokens || std::count(terminal_ids.begin(), terminal_ids.end(), token) > 0;
        extended.push_back(std::move(longer));
      }
    }
    extended = Best(std::move(extended), wide);

    std::vector<Row> open = extended;
    for (Row& row : open) row.score += row.ended ? kNever : 0;
    running = Best(std::move(open), beams);

    const double divisor = std::pow(static_cast<double>(length), double{params.length_penalty});
    for (size_t i = 0; i < extended.size(); ++i) {
      extended[i].ended = extended[i].ended && i < beams;
      extended[i].score = extended[i].score / divisor + (extended[i].ended ? 0 : kNever);
    }
    finished.insert(finished.end(), extended.begin(), extended.end());
    finished = Best(std::move(finished), beams);

    const bool full =
        std::all_of(finished.begin(), finished.end(), [](const Row& row) { return row.ended; });
    double best = running[0].score / divisor;
    if (params.early_stopping == EarlyStopping::kNever && params.length_penalty > 0) {
      best = running[0].score /
             std::pow(static_cast<double>(max_tokens), double{params.length_penalty});
    }
    const bool improves = !full || best > finished.back().score;
    const bool first = full && (params.early_stopping == EarlyStopping::kTrue || beams == 1);
    if (length == max_tokens || !improves || first) break;
  }
  std::vector<ReferenceHypothesis> hypotheses;
  for (Row& row : finished) hypotheses.push_back({std::move(row.tokens), row.score});
  return hypotheses;
}

}  // namespace t2r
