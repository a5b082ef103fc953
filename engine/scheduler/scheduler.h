// Continuous batching: admits requests, forms a batch each step from decoding sessions and prompt
// chunks, samples, applies stop rules, and hands events to the requests' sinks.
//
// One engine thread owns the executor and every session; other threads talk to it through a command
// queue. Every decoding session with room in its outbox takes part in every step; what is left of
// the step's token budget, at most `max_prompt_chunk` tokens, is shared by prompts: half goes to
// those with the least left, the rest in order of arrival. So a long prompt delays decoding
// sessions by at most one chunk a step, and hardly delays short prompts. A session once admitted
// (OnStarted) is never evicted to make room. See docs/scheduling.md.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/executor/executor.h"
#include "engine/scheduler/observer.h"
#include "engine/scheduler/options.h"
#include "engine/scheduler/request.h"
#include "engine/tokenizer/tokenizer.h"

namespace t2r {

class Scheduler {
 public:
  // executor, tokenizer (may be null: no text) and observer (may be null) must outlive it.
  // Starts the engine thread, the only one that calls the executor, except for limits(), which is
  // read here. No lock is held while the executor or a sink is called.
  Scheduler(Executor& executor, const Tokenizer* tokenizer, SchedulerObserver* observer,
            SchedulerOptions options);
  // Ends what runs with kDrained. No reservation may outlive it.
  ~Scheduler();
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;

  // A place in the queue, taken before any work is done on a request (tokenising). Releases itself
  // if it is not used. Movable.
  class Reservation {
   public:
    Reservation() = default;
    Reservation(Reservation&& other) noexcept;
    Reservation& operator=(Reservation&& other) noexcept;
    ~Reservation();
    bool valid() const { return scheduler_ != nullptr; }

   private:
    friend class Scheduler;
    Reservation(Scheduler* scheduler, int64_t tokens, std::string tenant)
        : scheduler_(scheduler), tokens_(tokens), tenant_(std::move(tenant)) {}
    Scheduler* scheduler_ = nullptr;
    int64_t tokens_ = 0;
    std::string tenant_;
  };

  // Any thread. `tokens`: Request::queue_tokens, or an upper bound before tokenising.
  // RESOURCE_EXHAUSTED naming the limit when the queue is full (an empty queue takes any request);
  // UNAVAILABLE when draining or after a device failure. tenant: the request's. share: the part of
  // the queue, above 0, that requests of this tenant may fill together.
  absl::StatusOr<Reservation> Reserve(int64_t tokens, const std::string& tenant = "",
                                      double share = 1);

  // Any thread. INVALID_ARGUMENT naming field and limit for what can never run (positions beyond
  // the model's, ids outside the vocabulary, more pages than exist, sampling values out of range);
  // UNAVAILABLE when draining or after a device failure; FAILED_PRECONDITION without a reservation
  // of this scheduler for the request's tenant. After an error the sink is not called and the
  // reservation is released. Otherwise the sink gets exactly one OnFinished, and is kept until
  // then. The place in the queue counts the true length from here on, until the session has its
  // slot.
  absl::StatusOr<RequestId> Submit(Reservation reservation, Request request,
                                   std::shared_ptr<EventSink> sink);
  // Checks that Submit would make, without submitting.
  absl::Status Validate(const Request& request) const;

  // Any thread; unknown or finished ids are ignored. Frees the slot within two steps, queued or
  // inside a long prompt too.
  void Cancel(RequestId id);
  // Any thread: a sink has room again.
  void Wake();

  // Any thread but the engine's: refuses new work, lets running and queued requests go on until
  // `deadline`, then ends them with kDrained. Returns when none is left. The earliest deadline of
  // several calls holds.
  void Drain(absl::Time deadline);

  // Not OK (UNAVAILABLE) after a device failure, which ends every request with kError.
  absl::Status health() const;
  // How long the engine thread's present turn (a step, and what goes with it) has taken; zero while
  // it waits for work. Minutes of it mean that the device or a kernel hangs. Any thread.
  absl::Duration TurnTime() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace t2r
