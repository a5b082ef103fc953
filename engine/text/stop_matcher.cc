#include "engine/text/stop_matcher.h"

#include <deque>

namespace t2r {

StopMatcher::StopMatcher(const std::vector<std::string>& stops, bool include)
    : nodes_(1), include_(include) {
  for (size_t i = 0; i < stops.size(); ++i) Insert(stops[i], static_cast<int32_t>(i));
  LinkSuffixes();
}

void StopMatcher::Insert(const std::string& stop, int32_t index) {
  if (stop.empty()) return;
  int32_t node = 0;
  for (const char c : stop) {
    const auto byte = static_cast<uint8_t>(c);
    int32_t next = Child(node, byte);
    if (next == 0) {
      next = static_cast<int32_t>(nodes_.size());
      nodes_.emplace_back();
      nodes_[next].depth = nodes_[node].depth + 1;
      nodes_[node].children.emplace_back(byte, next);
    }
    node = next;
  }
  if (nodes_[node].stop < 0) {
    nodes_[node].stop = index;
    nodes_[node].stop_bytes = nodes_[node].depth;
  }
}

void StopMatcher::LinkSuffixes() {
  std::deque<int32_t> queue = {0};  // breadth first: suffixes are shorter, so linked before
  while (!queue.empty()) {
    const int32_t node = queue.front();
    queue.pop_front();
    for (const auto& [byte, child] : nodes_[node].children) {
      const int32_t suffix = node == 0 ? 0 : Step(nodes_[node].suffix, byte);
      nodes_[child].suffix = suffix;
      if (nodes_[child].stop < 0) {
        nodes_[child].stop = nodes_[suffix].stop;
        nodes_[child].stop_bytes = nodes_[suffix].stop_bytes;
      }
      queue.push_back(child);
    }
  }
}

int32_t StopMatcher::Child(int32_t node, uint8_t byte) const {
  for (const auto& [label, child] : nodes_[node].children) {
    if (label == byte) return child;
  }
  return 0;
}

int32_t StopMatcher::Step(int32_t node, uint8_t byte) const {
  while (true) {
    const int32_t child = Child(node, byte);
    if (child != 0 || node == 0) return child;
    node = nodes_[node].suffix;
  }
}

StopMatcher::Result StopMatcher::Append(const std::string& text) {
  Result result;
  if (stopped_by_ >= 0) {
    result.stopped = true;
    result.stop_index = stopped_by_;
    return result;
  }
  for (size_t i = 0; i < text.size(); ++i) {
    node_ = Step(node_, static_cast<uint8_t>(text[i]));
    const Node& node = nodes_[node_];
    if (node.stop < 0) continue;
    stopped_by_ = node.stop;
    result.stopped = true;
    result.stop_index = node.stop;
    result.text = std::move(held_);
    result.text.append(text, 0, i + 1);
    if (!include_) result.text.resize(result.text.size() - node.stop_bytes);
    held_.clear();
    return result;
  }
  const size_t keep = nodes_[node_].depth;
  if (keep <= text.size()) {  // all that was held is free
    result.text = std::move(held_);
    result.text.append(text, 0, text.size() - keep);
    held_.assign(text, text.size() - keep, keep);
  } else {
    const size_t free = held_.size() + text.size() - keep;
    result.text.assign(held_, 0, free);
    held_.erase(0, free);
    held_.append(text);
  }
  return result;
}

std::string StopMatcher::Finish() {
  node_ = 0;
  return std::exchange(held_, std::string());
}

}  // namespace t2r
