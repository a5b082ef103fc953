#include "engine/text/stop_matcher.h"

#include <algorithm>
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

size_t StopMatcher::Named::text_bytes() const {
  return static_cast<size_t>(std::count(in_name.begin(), in_name.end(), false));
}

bool StopMatcher::StepNamed(char byte, bool in_name) {
  named_->node = Step(named_->node, static_cast<uint8_t>(byte));
  named_->bytes += byte;
  named_->in_name.push_back(in_name);
  const Node& node = nodes_[named_->node];
  const size_t drop = named_->bytes.size() - static_cast<size_t>(node.depth);
  named_->bytes.erase(0, drop);
  named_->in_name.erase(named_->in_name.begin(),
                        named_->in_name.begin() + static_cast<std::ptrdiff_t>(drop));
  return node.stop >= 0;
}

StopMatcher::Result StopMatcher::StopInNames(const std::string& text) {
  const Node& node = nodes_[named_->node];
  Result result;
  stopped_by_ = node.stop;
  result.stopped = true;
  result.stop_index = node.stop;
  // The stop string's own bytes of the text are its last ones.
  named_->in_name.erase(named_->in_name.begin(),
                        named_->in_name.end() - static_cast<std::ptrdiff_t>(node.stop_bytes));
  result.text = std::move(held_) + text;
  result.text.resize(result.text.size() - named_->text_bytes());
  if (include_) {
    result.text.append(named_->bytes, named_->bytes.size() - static_cast<size_t>(node.stop_bytes));
  }
  held_.clear();
  return result;
}

std::string StopMatcher::Release(const std::string& text) {
  size_t keep = static_cast<size_t>(nodes_[node_].depth);
  if (named_.has_value()) {
    keep = std::max(keep, named_->text_bytes());
    // From here on both see the same.
    if (named_->node == node_ && named_->text_bytes() == named_->bytes.size()) named_.reset();
  }
  std::string free;
  if (keep <= text.size()) {  // all that was held is free
    free = std::move(held_);
    free.append(text, 0, text.size() - keep);
    held_.assign(text, text.size() - keep, keep);
  } else {
    const size_t bytes = held_.size() + text.size() - keep;
    free.assign(held_, 0, bytes);
    held_.erase(0, bytes);
    held_.append(text);
  }
  return free;
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
    if (named_.has_value() && StepNamed(text[i], false) &&
        (node.stop < 0 || nodes_[named_->node].stop_bytes > node.stop_bytes)) {
      return StopInNames(text.substr(0, i + 1));
    }
    if (node.stop < 0) continue;
    stopped_by_ = node.stop;
    result.stopped = true;
    result.stop_index = node.stop;
    result.text = std::move(held_);
    result.text.append(text, 0, i + 1);
    if (!include_) result.text.resize(result.text.size() - static_cast<size_t>(node.stop_bytes));
    held_.clear();
    return result;
  }
  result.text = Release(text);
  return result;
}

StopMatcher::Result StopMatcher::AppendName(const std::string& name) {
  if (stopped_by_ >= 0) return Append("");
  if (!named_.has_value()) {
    const auto depth = static_cast<size_t>(nodes_[node_].depth);
    named_ = Named{node_, held_.substr(held_.size() - depth), std::vector<bool>(depth, false)};
  }
  for (const char c : name) {
    if (StepNamed(c, true)) return StopInNames("");
  }
  Result result;
  result.text = Release("");
  return result;
}

StopMatcher::Held StopMatcher::held() const {
  Held held;
  held.text = held_;
  if (!named_.has_value()) return held;
  held.named = named_->bytes;
  for (const bool in_name : named_->in_name) held.in_name += in_name ? '\1' : '\0';
  return held;
}

bool StopMatcher::Resume(const Held& held) {
  // A node that the bytes lead to without completing a stop string; -1: they do not.
  const auto walk = [this](const std::string& bytes) {
    int32_t node = 0;
    for (const char c : bytes) {
      node = Step(node, static_cast<uint8_t>(c));
      if (nodes_[node].stop >= 0) return -1;
    }
    return node;
  };
  const int32_t node = walk(held.text);
  const int32_t named_node = walk(held.named);
  if (node < 0 || named_node < 0 || held.named.size() != held.in_name.size()) return false;
  size_t needed = static_cast<size_t>(nodes_[node].depth);
  std::optional<Named> named;
  if (!held.named.empty()) {
    if (static_cast<size_t>(nodes_[named_node].depth) != held.named.size()) return false;
    named = Named{named_node, held.named, {}};
    for (const char c : held.in_name) named->in_name.push_back(c != '\0');
    needed = std::max(needed, named->text_bytes());
  }
  if (held.text.size() != needed) return false;
  node_ = node;
  named_ = std::move(named);
  held_ = held.text;
  return true;
}

std::string StopMatcher::Finish() {
  node_ = 0;
  named_.reset();
  return std::exchange(held_, std::string());
}

}  // namespace t2r
