#include "engine/prefix/prefix_cache.h"

#include <algorithm>
#include <numeric>

#include "engine/ops/batch.h"

namespace t2r {
namespace {

// Known prompts' tokens may take this part of what the states may.
constexpr int64_t kTokenShare = 16;
constexpr size_t kPromptsPerState = 4;

PrefixRules RulesOf(const ExecutorLimits& limits, int64_t prompt_chunk) {
  PrefixRules rules;
  rules.unit = std::max<int64_t>(limits.prompt_alignment, 1);
  // Whole pages are shared, never copied.
  if (limits.kv_pages > 0) rules.unit = std::lcm(rules.unit, int64_t{kKvPageSize});
  rules.chunk = std::max(prompt_chunk / rules.unit, int64_t{1}) * rules.unit;
  return rules;
}

PrefixTree::Options TreeOptionsOf(const ExecutorLimits& limits) {
  PrefixTree::Options options;
  options.token_cost = limits.token_flops;
  options.pair_cost = limits.pair_flops;
  options.state_bytes = limits.prefix_state_bytes;
  options.position_bytes = limits.kv_bytes_per_position;
  const int64_t bytes = limits.prefix_states * limits.prefix_state_bytes +
                        limits.prefix_pages * kKvPageSize * limits.kv_bytes_per_position;
  options.max_tokens = bytes / kTokenShare / static_cast<int64_t>(sizeof(int32_t));
  options.max_prompts = kPromptsPerState * static_cast<size_t>(limits.prefix_states);
  return options;
}

}  // namespace

PrefixCache::PrefixCache(Executor& executor, const ExecutorLimits& limits, int64_t prompt_chunk,
                         bool shared)
    : executor_(executor),
      max_positions_(limits.kv_pages > 0 ? limits.prefix_pages * kKvPageSize : 0),
      shared_(shared),
      rules_(RulesOf(limits, prompt_chunk)) {
  if (limits.prefix_states > 0) tree_.emplace(TreeOptionsOf(limits));
}

PrefixCache::Start PrefixCache::Begin(int slot, const std::string& tenant,
                                      std::span<const int32_t> prompt) {
  Start start;
  if (!on()) return start;
  const std::string& key = KeyOf(tenant);
  const auto tokens = static_cast<int64_t>(prompt.size());
  // The last one is run in any case.
  const int64_t last = (tokens - 1) / rules_.unit * rules_.unit;
  const auto beginning = prompt.first(static_cast<size_t>(last));
  const PrefixTree::Found found = tree_->Find(key, beginning);
  if (found.state >= 0) {
    executor_.StartFromPrefix(slot, found.state, prompt.first(static_cast<size_t>(found.stored)));
    start.cached = found.stored;
  }
  start.stops = StopsOf(tokens, found.stored, found.known, rules_);
  if (max_positions_ > 0) {
    std::erase_if(start.stops,
                  [this](const PrefixStop& stop) { return stop.position > max_positions_; });
  }
  tree_->Learn(key, beginning);
  stats_.queried += tokens;
  stats_.hit += start.cached;
  return start;
}

void PrefixCache::Keep(int slot, const std::string& tenant, std::span<const int32_t> tokens,
                       bool spare) {
  const std::string& key = KeyOf(tenant);
  // Another of the same beginning may have been here first.
  if (tree_->Has(key, tokens)) return;
  int state = executor_.KeepPrefix(slot);
  while (state < 0 && Evict(spare)) state = executor_.KeepPrefix(slot);
  if (state >= 0) tree_->Store(key, tokens, state, spare);
  while (tree_->full() && Evict(false)) {
  }
  Count();
}

bool PrefixCache::Evict(bool spares_only) {
  const int state = tree_->Evict(spares_only);
  if (state < 0) return false;
  executor_.DropPrefix(state);
  ++stats_.evictions;
  return true;
}

void PrefixCache::Clear() {
  while (on() && tree_->states() > 0) executor_.DropPrefix(tree_->Evict(false));
  if (on()) Count();
}

void PrefixCache::Count() {
  stats_.states = tree_->states();
  stats_.bytes = executor_.prefix_bytes();
}

}  // namespace t2r
