#include "engine/scheduler/beam_search.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <tuple>
#include <utility>

namespace t2r {
namespace {

constexpr size_t kPruneAt = 4096;  // nodes

bool Contains(const std::vector<int32_t>& ids, int32_t id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

}  // namespace

BeamSearch::BeamSearch(const BeamParams& params, int64_t max_tokens,
                       std::vector<int32_t> terminal_ids, std::vector<int32_t> suppressed_ids)
    : params_(params),
      max_tokens_(max_tokens),
      terminal_ids_(std::move(terminal_ids)),
      suppressed_ids_(std::move(suppressed_ids)),
      beams_(1),
      leaves_(1, -1),
      prune_at_(kPruneAt) {
  assert(params.count >= 1 && max_tokens >= 1);
}

void BeamSearch::Gather(std::span<const std::vector<TokenLogprob>> tops) {
  assert(tops.size() == beams_.size());
  candidates_.clear();
  for (size_t i = 0; i < tops.size(); ++i) {
    for (const TokenLogprob& next : tops[i]) {
      if (!std::isfinite(next.logprob) || Contains(suppressed_ids_, next.token)) continue;
      candidates_.push_back(
          {beams_[i].logprob + double{next.logprob}, static_cast<int>(i), next.token});
    }
  }
  // So many contain `count` that go on, each beam having at most all terminal tokens before them.
  const size_t matter = static_cast<size_t>(params_.count) * (1 + terminal_ids_.size());
  const size_t sorted = std::min(candidates_.size(), matter);
  std::partial_sort(candidates_.begin(), candidates_.begin() + static_cast<std::ptrdiff_t>(sorted),
                    candidates_.end(), [](const Candidate& a, const Candidate& b) {
                      return std::tuple(-a.logprob, a.parent, a.token) <
                             std::tuple(-b.logprob, b.parent, b.token);
                    });
  candidates_.resize(sorted);
}

void BeamSearch::Advance(std::span<const std::vector<TokenLogprob>> tops) {
  assert(!done_);
  Gather(tops);
  ++length_;
  const auto count = static_cast<size_t>(params_.count);
  std::vector<Beam> next;
  std::vector<int32_t> leaves;
  for (size_t rank = 0; rank < candidates_.size() && next.size() < count; ++rank) {
    const Candidate& candidate = candidates_[rank];
    if (length_ == max_tokens_ || Contains(terminal_ids_, candidate.token)) {
      if (rank < count) Keep(candidate);
      continue;
    }
    next.push_back({candidate.parent, candidate.token, candidate.logprob});
    nodes_.push_back({candidate.token, leaves_[static_cast<size_t>(candidate.parent)]});
    leaves.push_back(static_cast<int32_t>(nodes_.size()) - 1);
  }
  beams_ = std::move(next);
  leaves_ = std::move(leaves);
  done_ = beams_.empty() || (hypotheses_.size() == count && !CanImprove());
  if (nodes_.size() >= prune_at_) Prune();
}

void BeamSearch::Keep(const Candidate& candidate) {
  const double score = Score(candidate.logprob, length_);
  const auto place = std::find_if(hypotheses_.begin(), hypotheses_.end(),
                                  [score](const Hypothesis& other) { return other.score < score; });
  const auto count = static_cast<size_t>(params_.count);
  if (hypotheses_.size() == count && place == hypotheses_.end()) return;
  Hypothesis hypothesis;
  hypothesis.score = score;
  hypothesis.tokens.resize(static_cast<size_t>(length_));
  hypothesis.tokens.back() = candidate.token;
  int32_t node = leaves_[static_cast<size_t>(candidate.parent)];
  for (size_t i = hypothesis.tokens.size() - 1; i-- > 0;) {
    hypothesis.tokens[i] = nodes_[static_cast<size_t>(node)].token;
    node = nodes_[static_cast<size_t>(node)].before;
  }
  hypotheses_.insert(place, std::move(hypothesis));
  if (hypotheses_.size() > count) hypotheses_.pop_back();
}

bool BeamSearch::CanImprove() const {
  if (params_.count == 1 || params_.early_stopping == EarlyStopping::kTrue) return false;
  const bool longest =
      params_.early_stopping == EarlyStopping::kNever && params_.length_penalty > 0.0F;
  const double best = Score(beams_.front().logprob, longest ? max_tokens_ : length_);
  return best > hypotheses_.back().score;
}

double BeamSearch::Score(double logprob, int64_t length) const {
  return logprob / std::pow(static_cast<double>(length), double{params_.length_penalty});
}

void BeamSearch::Prune() {
  std::vector<int32_t> places(nodes_.size(), -1);  // -1: dropped
  for (const int32_t leaf : leaves_) places[static_cast<size_t>(leaf)] = 0;
  for (size_t i = nodes_.size(); i-- > 0;) {
    if (places[i] == 0 && nodes_[i].before >= 0) places[static_cast<size_t>(nodes_[i].before)] = 0;
  }
  int32_t kept = 0;
  for (size_t i = 0; i < nodes_.size(); ++i) {
    if (places[i] < 0) continue;
    Node node = nodes_[i];
    if (node.before >= 0) node.before = places[static_cast<size_t>(node.before)];
    nodes_[static_cast<size_t>(kept)] = node;
    places[i] = kept++;
  }
  nodes_.resize(static_cast<size_t>(kept));
  for (int32_t& leaf : leaves_) leaf = places[static_cast<size_t>(leaf)];
  prune_at_ = std::max(kPruneAt, 2 * nodes_.size());
}

}  // namespace t2r
