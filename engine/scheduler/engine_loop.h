// The engine thread's body: the one place that owns the executor and every session.
#pragma once

#include <cstdint>
#include <exception>
#include <map>
#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/executor/executor.h"
#include "engine/prefix/prefix_cache.h"
#include "engine/scheduler/admission.h"
#include "engine/scheduler/batch_former.h"
#include "engine/scheduler/command_queue.h"
#include "engine/scheduler/fair_queue.h"
#include "engine/scheduler/observer.h"
#include "engine/scheduler/options.h"
#include "engine/scheduler/session.h"

namespace t2r {

// One turn of the loop: take commands, end what is cancelled, late, stalled or drained, give free
// slots to the queue's front, form a batch and launch it; while it runs, hand out what the batch
// before it and this turn brought; wait for the batch and decide from its results what goes on.
// Sleeps in CommandQueue::Take when a turn found nothing to run and has nothing to hand out.
//
// Invariants: a live session is in `sessions_`, and either in `queue_` with a place held in
// Admission, or in `active_` with a slot; End is the only way out of both. Sinks are called by
// Deliver only. A session that has ended is in `ended_` until all its events are out.
class EngineLoop {
 public:
  // All must outlive it; observer may be null; options.clock is set. limits: executor.limits().
  EngineLoop(Executor& executor, const ExecutorLimits& limits, SchedulerObserver* observer,
             const SchedulerOptions& options, CommandQueue& commands, Admission& admission);

  // Returns once stopped (CommandQueue::Stop) and nothing is left.
  void Run();

 private:
  void Receive(std::unique_ptr<Session> session);
  void EndExpired();
  void EndStalled();
  void EndAll(FinishReason reason);
  void Admit();
  // All slots that the session needs, or none: whether there were enough. Throws DeviceError.
  bool OpenSlots(Session* session, const SessionSize& size);
  bool LaunchStep();
  // Makes the session go on from the longest state that there is of its prompt's beginning.
  void StartFromPrefix(Session* session, int slot);
  // Keeps its state where that is wanted.
  void KeepPrefix(Session* session);
  // The step ended with an exception: the device is lost, or the step's sessions end by it.
  void StepFailed(const std::exception& error);
  void WaitForStep();
  // Makes the copies that a session's beams want before their next round.
  void CopyBeams(Session* session);
  // Queues the token that the session has from the step, and counts it for the observer.
  void QueueToken(Session* session);
  // Hands out tokens, then events, each in order.
  void Deliver();
  bool has_news() const { return !tokens_.empty() || !events_.empty(); }

  // Frees the session's slot or its place in the queue; the last event follows.
  void End(Session* session, FinishReason reason);
  void End(Session* session, FinishReason reason, absl::Status status);
  // Takes what a turn has in its slot on its way.
  void Checkpoint(Session* session);
  // Takes what a turn leaves in its slot, if it ends as it should or is drained; else it ends by
  // that.
  void SaveSlot(Session* session, FinishReason* reason, absl::Status* status);
  // The same with kError for what is not the device's end, told to on_fault.
  void EndByFault(Session* session, const absl::Status& fault);
  absl::Status EndStatus(FinishReason reason) const;
  void CloseSlot(Session* session);
  // Takes ended sessions out of `active_`.
  void Compact();
  // Lets ended sessions and their sinks go, once their events are out and Compact has forgotten
  // them.
  void Sweep();
  void Fail(const char* why);
  void ReportSessions();
  // Until something must end by itself.
  absl::Duration UntilNextTimer() const;

  struct Event {
    enum Kind : uint8_t { kStarted, kCheckpoint, kFinished };
    Session* session = nullptr;
    Kind kind = kStarted;
    FinishReason reason = FinishReason::kStop;            // kFinished
    absl::Time time = absl::UnixEpoch();                  // kFinished
    absl::Status status = absl::OkStatus();               // kFinished
    std::shared_ptr<const SessionState> state = nullptr;  // kCheckpoint
  };

  Executor& executor_;
  SchedulerObserver* const observer_;
  const SchedulerOptions& options_;
  CommandQueue& commands_;
  Admission& admission_;
  BatchFormer former_;
  PrefixCache prefixes_;

  absl::Time now_;
  bool failed_ = false;
  CommandQueue::Commands in_;
  std::map<RequestId, std::unique_ptr<Session>> sessions_;
  FairQueue queue_;                                    // of those that wait for a slot
  std::vector<Session*> active_;                       // with a slot, by id
  std::set<std::pair<absl::Time, RequestId>> timers_;  // finite deadlines of sessions_
  std::vector<std::unique_ptr<Session>> ended_;
  std::vector<Session*> tokens_;       // whose tokens are to be handed out
  std::vector<Event> events_;          // to be handed out after them
  absl::Time since_;                   // when the token before that of gaps_.back() came
  std::vector<StepReport::Gap> gaps_;  // of the step's tokens
  int open_sessions_ = 0;
  int open_slots_ = 0;  // of theirs
  Step step_;
  std::vector<ChunkResult> results_;
};

}  // namespace t2r
