#include "engine/sessions/state_cache.h"

#include "engine/sessions/memory_tier.h"

namespace t2r {

std::shared_ptr<const SessionState> StateCache::Find(StateName name) {
  const auto found = states_.find(name);
  if (found == states_.end()) return nullptr;
  used_.splice(used_.begin(), used_, found->second);
  return found->second->second;
}

void StateCache::Put(StateName name, std::shared_ptr<const SessionState> state) {
  if (name == 0 || state == nullptr || states_.count(name) > 0) return;
  bytes_ += BytesOf(state);
  used_.emplace_front(name, std::move(state));
  states_.emplace(name, used_.begin());
}

void StateCache::Erase(StateName name) {
  const auto found = states_.find(name);
  if (found == states_.end()) return;
  bytes_ -= BytesOf(found->second->second);
  used_.erase(found->second);
  states_.erase(found);
}

void StateCache::Shrink(int64_t bytes) {
  while (bytes_ > bytes && !used_.empty()) Erase(used_.back().first);
}

}  // namespace t2r
