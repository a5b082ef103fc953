// States in memory that lie in a lower tier too.
#pragma once

#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <utility>

#include "engine/sessions/session_record.h"
#include "engine/snapshot/session_state.h"

namespace t2r {

// By their names, which stand for the same state wherever they are. What was used least recently
// goes first. Not thread-safe.
class StateCache {
 public:
  // Null: it is not there.
  std::shared_ptr<const SessionState> Find(StateName name);
  void Put(StateName name, std::shared_ptr<const SessionState> state);
  void Erase(StateName name);
  // Until at most so many bytes are left.
  void Shrink(int64_t bytes);
  int64_t bytes() const { return bytes_; }
  int64_t size() const { return static_cast<int64_t>(states_.size()); }

 private:
  using Used = std::list<std::pair<StateName, std::shared_ptr<const SessionState>>>;
  Used used_;  // most recently first
  std::map<StateName, Used::iterator> states_;
  int64_t bytes_ = 0;
};

}  // namespace t2r
