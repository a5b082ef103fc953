#include "engine/prefix/prefix_tree.h"

#include <algorithm>
#include <cassert>

namespace t2r {

struct PrefixTree::Node {
  Node* parent = nullptr;                                       // null: a root
  std::map<std::string, std::unique_ptr<Node>>::iterator root;  // of a root
  std::vector<int32_t> edge;                          // from the parent, ≥ 1; a root has none
  int64_t end = 0;                                    // tokens from the root
  std::map<int32_t, std::unique_ptr<Node>> children;  // by their edges' first tokens
  int state = -1;
  bool spare = false;
  double clock = 0;   // when it was used last
  uint64_t used = 0;  // the same, counted; of a leaf without a state too
  Rank rank;          // in order_, of a node with a state
  bool idle = false;  // in idle_
};

namespace {

int64_t Common(std::span<const int32_t> a, std::span<const int32_t> b) {
  const size_t count = std::min(a.size(), b.size());
  return std::mismatch(a.begin(), a.begin() + static_cast<int64_t>(count), b.begin()).first -
         a.begin();
}

}  // namespace

PrefixTree::PrefixTree(const Options& options) : options_(options) {}
PrefixTree::~PrefixTree() = default;

PrefixTree::Node* PrefixTree::RootOf(const std::string& tenant, bool make) {
  auto found = roots_.find(tenant);
  if (found == roots_.end()) {
    if (!make) return nullptr;
    found = roots_.emplace(tenant, std::make_unique<Node>()).first;
    found->second->root = found;
  }
  return found->second.get();
}

PrefixTree::Place PrefixTree::Walk(Node* root, std::span<const int32_t> tokens) {
  Place place{root, nullptr, 0};
  while (place.matched < static_cast<int64_t>(tokens.size())) {
    const auto rest = tokens.subspan(static_cast<size_t>(place.matched));
    const auto child = place.node->children.find(rest.front());
    if (child == place.node->children.end()) break;
    Node* next = child->second.get();
    const int64_t common = Common(next->edge, rest);
    place.matched += common;
    if (common < static_cast<int64_t>(next->edge.size())) {
      place.next = next;
      break;
    }
    place.node = next;
  }
  return place;
}

PrefixTree::Node* PrefixTree::AddChild(Node* parent, std::span<const int32_t> edge) {
  auto child = std::make_unique<Node>();
  child->parent = parent;
  child->edge.assign(edge.begin(), edge.end());
  child->end = parent->end + static_cast<int64_t>(edge.size());
  tokens_ += static_cast<int64_t>(edge.size());
  Node* added = child.get();
  parent->children.emplace(edge.front(), std::move(child));
  SetIdle(parent);
  return added;
}

PrefixTree::Node* PrefixTree::Split(Node* node, int64_t count) {
  Node* parent = node->parent;
  std::unique_ptr<Node>& place = parent->children.at(node->edge.front());
  auto middle = std::make_unique<Node>();
  middle->parent = parent;
  middle->edge.assign(node->edge.begin(), node->edge.begin() + count);
  middle->end = parent->end + count;
  node->edge.erase(node->edge.begin(), node->edge.begin() + count);
  node->parent = middle.get();
  middle->children.emplace(node->edge.front(), std::move(place));
  place = std::move(middle);
  return place.get();
}

PrefixTree::Node* PrefixTree::NodeAt(Node* root, std::span<const int32_t> tokens) {
  const Place place = Walk(root, tokens);
  Node* node = place.node;
  if (place.matched > node->end) node = Split(place.next, place.matched - node->end);
  if (place.matched < static_cast<int64_t>(tokens.size())) {
    node = AddChild(node, tokens.subspan(static_cast<size_t>(place.matched)));
  }
  return node;
}

void PrefixTree::SetIdle(Node* node) {
  const bool idle = node->parent != nullptr && node->state < 0 && node->children.empty();
  if (node->idle) idle_.erase({node->used, node});
  node->idle = idle;
  if (idle) idle_.emplace(node->used, node);
}

void PrefixTree::Tidy(Node* node) {
  while (node->state < 0) {
    Node* parent = node->parent;
    if (parent == nullptr) {
      if (node->children.empty()) roots_.erase(node->root);
      return;
    }
    if (node->children.size() > 1) return;
    if (node->children.size() == 1) {
      std::unique_ptr<Node> child = std::move(node->children.begin()->second);
      child->edge.insert(child->edge.begin(), node->edge.begin(), node->edge.end());
      child->parent = parent;
      parent->children.at(child->edge.front()) = std::move(child);  // node is gone
      return;
    }
    if (node->idle) idle_.erase({node->used, node});
    tokens_ -= static_cast<int64_t>(node->edge.size());
    parent->children.erase(node->edge.front());
    node = parent;
  }
}

void PrefixTree::Forget() {
  while (!idle_.empty() && (tokens_ > options_.max_tokens || idle_.size() > options_.max_prompts)) {
    Tidy(idle_.begin()->second);
  }
}

double PrefixTree::Worth(const Node& node) const {
  const Node* before = node.parent;
  while (before != nullptr && (before->state < 0 || before->spare)) before = before->parent;
  const auto from = static_cast<double>(before == nullptr ? 0 : before->end);
  const auto to = static_cast<double>(node.end);
  const double cost =
      options_.token_cost * (to - from) + options_.pair_cost * (to * to - from * from) / 2;
  return cost / (static_cast<double>(options_.state_bytes) +
                 static_cast<double>(options_.position_bytes) * (to - from));
}

void PrefixTree::Rerank(Node* node) {
  order_.erase(node->rank);
  const double value = node->spare ? 0 : node->clock + Worth(*node);
  node->rank = {!node->spare, value, node->used, node};
  order_.insert(node->rank);
}

void PrefixTree::Use(Node* node) {
  node->clock = clock_;
  node->used = ++uses_;
  Rerank(node);
}

PrefixTree::Found PrefixTree::Find(const std::string& tenant, std::span<const int32_t> tokens) {
  Node* root = RootOf(tenant, false);
  if (root == nullptr) return {};
  const Place place = Walk(root, tokens);
  Found found;
  found.known = place.matched;
  for (Node* node = place.node; node != nullptr; node = node->parent) {
    if (node->state < 0) continue;
    found.stored = node->end;
    found.state = node->state;
    node->spare = false;
    Use(node);
    break;
  }
  return found;
}

void PrefixTree::Learn(const std::string& tenant, std::span<const int32_t> tokens) {
  if (tokens.empty()) return;
  Node* root = RootOf(tenant, true);
  const Place place = Walk(root, tokens);
  // A prompt that others begin with adds nothing.
  Node* node = place.next != nullptr && place.matched == static_cast<int64_t>(tokens.size())
                   ? place.next
                   : NodeAt(root, tokens);
  if (node->children.empty() && node->state < 0) {
    if (node->idle) idle_.erase({node->used, node});
    node->idle = false;
    node->used = ++uses_;
    SetIdle(node);
  }
  Forget();
}

bool PrefixTree::Has(const std::string& tenant, std::span<const int32_t> tokens) const {
  const auto root = roots_.find(tenant);
  if (root == roots_.end()) return false;
  const Place place = Walk(root->second.get(), tokens);
  return place.node->state >= 0 && place.node->end == static_cast<int64_t>(tokens.size());
}

void PrefixTree::Store(const std::string& tenant, std::span<const int32_t> tokens, int state,
                       bool spare) {
  assert(state >= 0 && !tokens.empty());
  Node* node = NodeAt(RootOf(tenant, true), tokens);
  assert(node->state < 0);
  if (node->idle) idle_.erase({node->used, node});
  node->idle = false;
  node->state = state;
  node->spare = spare;
  if (!spare) {
    Node* before = node->parent;
    while (before != nullptr && (before->state < 0 || before->spare)) before = before->parent;
    if (before != nullptr && before->children.size() == 1) {
      before->spare = true;
      Rerank(before);
    }
  }
  Use(node);
  Forget();
}

int PrefixTree::Evict(bool spares_only) {
  for (;;) {
    if (order_.empty()) return -1;
    Node* node = std::get<Node*>(*order_.begin());
    if (!node->spare) {
      if (spares_only) return -1;
      // A state before it may have gone since: then it is worth more.
      const double value = std::get<double>(node->rank);
      if (node->clock + Worth(*node) > value) {
        Rerank(node);
        if (std::get<Node*>(*order_.begin()) != node) continue;
      }
      clock_ = std::max(clock_, std::get<double>(node->rank));
    }
    const int state = node->state;
    order_.erase(order_.begin());
    node->state = -1;
    node->spare = false;
    if (node->children.empty()) {
      SetIdle(node);  // known still
      Forget();
    } else {
      Tidy(node);
    }
    return state;
  }
}

}  // namespace t2r
