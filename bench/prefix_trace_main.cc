// Which states of prompts' beginnings are worth keeping: runs a trace of prompts through the
// engine's tree under several rules at equal memory, and prints a JSON object a line. No model
// runs.
//
// The trace has what servers of chats see: system prompts of unequal popularity, each with several
// sets of examples behind it, conversations that come back with all that was said, and prompts that
// are like no other.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "engine/prefix/prefix_stops.h"
#include "engine/prefix/prefix_tree.h"

namespace t2r {
namespace {

constexpr int kRequests = 8000;
constexpr int64_t kBlock = 64;
constexpr PrefixRules kRules{1, 128};

using Tokens = std::vector<int32_t>;

class Trace {
 public:
  explicit Trace(uint32_t seed) : random_(seed) {
    for (int i = 0; i < kSystems; ++i) {
      systems_.push_back(Fresh(Between(300, 3000)));
      examples_.emplace_back();
      for (int j = 0; j < kExamples; ++j) examples_.back().push_back(Fresh(Between(100, 900)));
    }
  }

  Tokens Next() {
    const int kind = Between(0, 99);
    if (kind < 25) return Fresh(Between(50, 1500));  // like no other
    if (kind < 60 && !talks_.empty()) {              // a conversation goes on
      Tokens& talk = talks_[Between(0, static_cast<int>(talks_.size()) - 1)];
      Append(&talk, Fresh(Between(20, 300)));  // the answer
      Append(&talk, Fresh(Between(10, 120)));
      return talk;
    }
    // The popularity of the i-th is as 1 / (i + 1).
    const double u = std::uniform_real_distribution<>()(random_);
    const int system = std::min(kSystems - 1, static_cast<int>(std::pow(kSystems + 1.0, u)) - 1);
    Tokens prompt = systems_[system];
    if (kind < 80) Append(&prompt, examples_[system][Between(0, kExamples - 1)]);
    Append(&prompt, Fresh(Between(10, 200)));
    // Some of them become conversations, of which the oldest end.
    if (Between(0, 3) == 0) {
      talks_.push_back(prompt);
      if (talks_.size() > 60) talks_.erase(talks_.begin());
    }
    return prompt;
  }

 private:
  static constexpr int kSystems = 30;
  static constexpr int kExamples = 4;

  int Between(int low, int high) { return std::uniform_int_distribution<>(low, high)(random_); }
  Tokens Fresh(int count) {
    Tokens tokens(count);
    for (int32_t& token : tokens) token = Between(0, 49999);
    return tokens;
  }
  static void Append(Tokens* to, const Tokens& more) {
    to->insert(to->end(), more.begin(), more.end());
  }

  std::mt19937 random_;
  std::vector<Tokens> systems_;
  std::vector<std::vector<Tokens>> examples_;
  std::vector<Tokens> talks_;
};

using Stops =
    std::function<std::vector<PrefixStop>(int64_t tokens, const PrefixTree::Found& found)>;

struct Policy {
  const char* name;
  bool by_worth;  // else the state that was used least recently goes
  bool learns;    // prompts without states are known
  Stops stops;
};

std::vector<PrefixStop> EveryBlock(int64_t tokens, const PrefixTree::Found& found) {
  std::vector<PrefixStop> stops;
  for (int64_t at = found.stored / kBlock * kBlock + kBlock; at < tokens; at += kBlock) {
    stops.push_back({at, false});
  }
  return stops;
}

std::vector<PrefixStop> LastPrompt(int64_t tokens, const PrefixTree::Found& /*found*/) {
  return {{tokens - 1, false}};
}

std::vector<PrefixStop> Branches(int64_t tokens, const PrefixTree::Found& found) {
  return StopsOf(tokens, found.stored, found.known, kRules);
}

std::vector<PrefixStop> WithoutSpares(int64_t tokens, const PrefixTree::Found& found) {
  std::vector<PrefixStop> stops = Branches(tokens, found);
  std::erase_if(stops, [](const PrefixStop& stop) { return stop.spare; });
  return stops;
}

void Run(const Policy& policy, int64_t states) {
  PrefixTree::Options options;
  options.token_cost = policy.by_worth ? 1 : 0;
  options.max_prompts = static_cast<size_t>(4 * states);
  PrefixTree tree(options);
  Trace trace(1);
  int64_t tokens = 0;
  int64_t hit = 0;
  int64_t kept = 0;
  for (int i = 0; i < kRequests; ++i) {
    const Tokens prompt = trace.Next();
    const auto count = static_cast<int64_t>(prompt.size());
    const auto first = [&prompt](int64_t n) { return std::span(prompt).first(n); };
    const PrefixTree::Found found = tree.Find("", first(count - 1));
    tokens += count;
    hit += found.stored;
    if (policy.learns) tree.Learn("", first(count - 1));
    for (const PrefixStop& stop : policy.stops(count, found)) {
      if (stop.position < 1 || tree.Has("", first(stop.position))) continue;
      if (tree.states() == states && tree.Evict(stop.spare) < 0) continue;
      tree.Store("", first(stop.position), i, stop.spare);
      ++kept;
    }
  }
  std::printf(
      "{\"policy\": \"%s\", \"states\": %lld, \"requests\": %d, \"prompt_tokens\": %lld, "
      "\"hit_rate\": %.4f, \"kept\": %lld}\n",
      policy.name, static_cast<long long>(states), kRequests, static_cast<long long>(tokens),
      static_cast<double>(hit) / static_cast<double>(tokens), static_cast<long long>(kept));
}

}  // namespace
}  // namespace t2r

int main() {
  const t2r::Policy policies[] = {
      {"every 64 tokens, least recently used", false, false, t2r::EveryBlock},
      {"last prompt only, least recently used", false, false, t2r::LastPrompt},
      {"last prompt only, by worth", true, false, t2r::LastPrompt},
      {"branches and ends, by worth", true, true, t2r::WithoutSpares},
      {"branches, ends and spares, by worth", true, true, t2r::Branches},
  };
  for (const t2r::Policy& policy : policies) {
    for (const int64_t states : {16, 64, 256, 1024}) t2r::Run(policy, states);
  }
  return EXIT_SUCCESS;
}
