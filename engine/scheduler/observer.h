// How the engine reports what it does; the server turns it into metrics. Called by the engine
// thread unless said otherwise; must be fast and not block.
#pragma once

#include <cstdint>
#include <span>

#include "absl/time/time.h"
#include "engine/prefix/prefix_cache.h"
#include "engine/scheduler/request.h"

namespace t2r {

class SchedulerObserver {
 public:
  virtual ~SchedulerObserver() = default;
  virtual void OnSubmitted() {}                                      // any thread
  virtual void OnQueue(int64_t /*requests*/, int64_t /*tokens*/) {}  // any thread, after a change
  virtual void OnSessions(int /*running*/, int /*slots_used*/) {}    // with beams, more slots
  virtual void OnStep(int64_t /*decode_rows*/, int64_t /*prompt_rows*/, absl::Duration /*time*/) {}
  // What the cache of prompts' beginnings has done so far and holds now, after a change.
  virtual void OnPrefixes(const PrefixStats& /*stats*/) {}
  virtual void OnNotFinite() {}  // a request met logits that are not finite
  virtual void OnFirstToken(absl::Duration /*since_submit*/) {}
  // Later tokens, of sessions that a step ran together.
  virtual void OnTokens(std::span<const absl::Duration> /*since_previous*/) {}
  virtual void OnFinished(const FinishEvent& /*event*/, absl::Duration /*since_submit*/) {}
};

}  // namespace t2r
