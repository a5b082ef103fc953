// How the engine reports what it does; the server turns it into metrics. Called by the engine
// thread unless said otherwise; must be fast and not block.
#pragma once

#include <cstdint>
#include <span>

#include "absl/time/time.h"
#include "engine/prefix/prefix_cache.h"
#include "engine/scheduler/request.h"

namespace t2r {

// A step that is over, before its tokens are handed out.
struct StepReport {
  // Tokens that came as long after the one before them. First tokens are OnFirstToken's.
  struct Gap {
    absl::Duration time;
    int64_t tokens = 0;
  };
  int64_t decode_rows = 0, prompt_rows = 0;
  absl::Duration time;  // since its turn began, admission and the hand-out before it included
  std::span<const Gap> gaps;
};

class SchedulerObserver {
 public:
  virtual ~SchedulerObserver() = default;
  virtual void OnSubmitted() {}                                      // any thread
  virtual void OnQueue(int64_t /*requests*/, int64_t /*tokens*/) {}  // any thread, after a change
  virtual void OnSessions(int /*running*/, int /*slots_used*/) {}    // with beams, more slots
  virtual void OnStep(const StepReport& /*step*/) {}
  // What the cache of prompts' beginnings has done so far and holds now, after a change.
  virtual void OnPrefixes(const PrefixStats& /*stats*/) {}
  virtual void OnNotFinite() {}  // a request met logits that are not finite
  virtual void OnFirstToken(absl::Duration /*since_submit*/) {}
  virtual void OnFinished(const FinishEvent& /*event*/, absl::Duration /*since_submit*/) {}
};

}  // namespace t2r
