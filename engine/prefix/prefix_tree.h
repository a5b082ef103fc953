// Which beginnings of prompts are known, of which of them there are states, and which state is the
// next to go.
//
// A radix tree over token ids for each tenant: an edge holds the tokens that all prompts beyond it
// share, so nodes are where prompts part, where they end and where states are. The states
// themselves are somebody else's: the tree knows them by a number. Prompts whose states have gone
// stay known for a while, so that a branch is seen however long ago its first prompt was.
//
// What a state is worth is the computation that it saves over the nearest one before it, for each
// byte that it adds (Marconi, MLSys 2025). Recency enters as in GreedyDual-Size (Cao and Irani,
// USITS 1997): a state's value is that quotient plus a clock, read when it was used last, which
// moves to the value of every state that goes. Spares (prefix_stops.h) go before all others. Used
// by one thread.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

namespace t2r {

class PrefixTree {
 public:
  // With token_cost and pair_cost 0 the state used least recently goes first.
  struct Options {
    double token_cost = 1;  // of computing a token's state, in any unit
    double pair_cost = 0;   // and of its attention to each position before it
    int64_t state_bytes = 1;
    int64_t position_bytes = 0;             // what a state takes beside that for each position
    int64_t max_tokens = int64_t{1} << 22;  // on all edges together, while there are others than of
                                            // states
    size_t max_prompts = 1 << 14;           // that are known and end without a state
  };
  struct Found {
    int64_t stored = 0;  // tokens of the longest beginning with a state; 0: none
    int state = -1;      // which
    int64_t known = 0;   // tokens of the longest beginning that another prompt has
  };

  explicit PrefixTree(const Options& options);
  ~PrefixTree();

  // The state counts as used, and is no spare any more.
  Found Find(const std::string& tenant, std::span<const int32_t> tokens);
  // Makes the tokens known. May forget those that came up least recently.
  void Learn(const std::string& tenant, std::span<const int32_t> tokens);
  // Whether there is a state behind just these tokens.
  bool Has(const std::string& tenant, std::span<const int32_t> tokens) const;
  // There is one now: `state`; there was none. A state that lies before it on the same way, and on
  // no other, becomes a spare, unless the new one is.
  void Store(const std::string& tenant, std::span<const int32_t> tokens, int state, bool spare);
  // Takes out the state whose loss costs least, or, with spares_only, the spare that was used least
  // recently. -1: there is none.
  int Evict(bool spares_only);

  int64_t states() const { return static_cast<int64_t>(order_.size()); }
  int64_t tokens() const { return tokens_; }  // on all edges
  // Whether there are more tokens than there may be although no prompt is known but for a state.
  bool full() const { return tokens_ > options_.max_tokens && idle_.empty(); }

 private:
  struct Node;
  // First to go first: no spares behind spares, then the value, then the last use.
  using Rank = std::tuple<bool, double, uint64_t, Node*>;
  // Where tokens lead: `node` is the last one passed or reached, `matched` the tokens up to it and
  // into its child `next` (null: there is none to go on into).
  struct Place {
    Node* node = nullptr;
    Node* next = nullptr;
    int64_t matched = 0;
  };

  // Node a tenant's tree begins with; null where there is none and `make` is false.
  Node* RootOf(const std::string& tenant, bool make);
  static Place Walk(Node* root, std::span<const int32_t> tokens);
  // The node behind just these tokens, which is made where there is none.
  Node* NodeAt(Node* root, std::span<const int32_t> tokens);
  Node* AddChild(Node* parent, std::span<const int32_t> edge);
  // Cuts the edge to `node` after `count` of its tokens: the new node before it.
  Node* Split(Node* node, int64_t count);
  // Where the node needs not be: takes it out, and what before it needs not be any more then.
  void Tidy(Node* node);
  void Forget();
  // What the state of `node` is worth, on top of the clock.
  double Worth(const Node& node) const;
  void Use(Node* node);
  void Rerank(Node* node);
  void SetIdle(Node* node);

  const Options options_;
  std::map<std::string, std::unique_ptr<Node>> roots_;
  std::set<Rank> order_;                       // the nodes with states
  std::set<std::pair<uint64_t, Node*>> idle_;  // leaves without, by their last use
  int64_t tokens_ = 0;
  double clock_ = 0;
  uint64_t uses_ = 0;
};

}  // namespace t2r
