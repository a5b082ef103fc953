#include "engine/scheduler/scheduler.h"

#include <algorithm>
#include <thread>
#include <utility>

#include "engine/scheduler/admission.h"
#include "engine/scheduler/beam_group.h"
#include "engine/scheduler/beam_search.h"
#include "engine/scheduler/command_queue.h"
#include "engine/scheduler/engine_loop.h"
#include "engine/scheduler/session.h"
#include "engine/scheduler/validate.h"

namespace t2r {
namespace {

// The options with a clock, and no more alternatives than an executor reports.
SchedulerOptions Complete(SchedulerOptions options) {
  options.max_top_logprobs = std::min(options.max_top_logprobs, kMaxAlternatives);
  if (!options.clock) options.clock = [] { return absl::Now(); };
  return options;
}

}  // namespace

struct Scheduler::Impl {
  Impl(Executor& executor, const Tokenizer* tokenizer_or_null, SchedulerObserver* observer,
       SchedulerOptions given)
      : options(Complete(std::move(given))),
        limits(executor.limits()),
        tokenizer(tokenizer_or_null),
        admission(options.max_queue_requests, options.max_queue_tokens, observer),
        loop(executor, limits, observer, options, commands, admission),
        engine([this] { loop.Run(); }) {}

  // Null for a request without beams.
  std::unique_ptr<BeamGroup> MakeBeams(const Request& request) const {
    if (request.score || request.beams.count == 0) return nullptr;
    return std::make_unique<BeamGroup>(
        BeamSearch(request.beams, request.max_tokens, request.TerminalIds(options.eos_token_ids),
                   limits.suppressed_token_ids),
        limits.vocab_size);
  }

  const SchedulerOptions options;
  const ExecutorLimits limits;
  const Tokenizer* const tokenizer;
  CommandQueue commands;
  Admission admission;
  EngineLoop loop;
  std::thread engine;
};

Scheduler::Reservation::Reservation(Reservation&& other) noexcept
    : scheduler_(std::exchange(other.scheduler_, nullptr)),
      tokens_(other.tokens_),
      tenant_(std::move(other.tenant_)) {}

Scheduler::Reservation& Scheduler::Reservation::operator=(Reservation&& other) noexcept {
  std::swap(scheduler_, other.scheduler_);
  std::swap(tokens_, other.tokens_);
  std::swap(tenant_, other.tenant_);
  return *this;
}

Scheduler::Reservation::~Reservation() {
  if (scheduler_ != nullptr) scheduler_->impl_->admission.Release(tokens_, tenant_);
}

Scheduler::Scheduler(Executor& executor, const Tokenizer* tokenizer, SchedulerObserver* observer,
                     SchedulerOptions options)
    : impl_(std::make_unique<Impl>(executor, tokenizer, observer, std::move(options))) {}

Scheduler::~Scheduler() {
  impl_->commands.Drain(absl::InfinitePast());
  impl_->commands.Stop();
  impl_->engine.join();
}

absl::StatusOr<Scheduler::Reservation> Scheduler::Reserve(int64_t tokens, const std::string& tenant,
                                                          double share) {
  tokens = std::max<int64_t>(tokens, 0);
  absl::Status status = impl_->commands.Accepting();
  if (status.ok()) status = impl_->admission.Reserve(tokens, tenant, share);
  if (!status.ok()) return status;
  return Reservation(this, tokens, tenant);
}

absl::Status Scheduler::Validate(const Request& request) const {
  return ValidateRequest(request, impl_->limits, impl_->options, impl_->tokenizer != nullptr);
}

absl::StatusOr<RequestId> Scheduler::Submit(Reservation reservation, Request request,
                                            std::shared_ptr<EventSink> sink) {
  if (reservation.scheduler_ != this || reservation.tenant_ != request.tenant) {
    return absl::FailedPreconditionError(
        "Submit needs a reservation made by Reserve for the request's tenant");
  }
  absl::Status status = Validate(request);
  if (!status.ok()) return status;
  std::unique_ptr<BeamGroup> beams = impl_->MakeBeams(request);
  auto session = std::make_unique<Session>(std::move(request), std::move(sink), impl_->tokenizer,
                                           impl_->options.eos_token_ids, impl_->options.clock(),
                                           std::move(beams));
  // From here the place counts the true length; the engine gives it up when it accepts the session,
  // the reservation when it is refused.
  const int64_t tokens = session->request().queue_tokens();
  impl_->admission.Correct(reservation.tokens_, tokens, reservation.tenant_);
  reservation.tokens_ = tokens;
  absl::StatusOr<RequestId> id = impl_->commands.Push(std::move(session));
  if (id.ok()) reservation.scheduler_ = nullptr;
  return id;
}

void Scheduler::Cancel(RequestId id) { impl_->commands.Cancel(id); }

void Scheduler::Wake() { impl_->commands.Wake(); }

void Scheduler::Drain(absl::Time deadline) {
  impl_->commands.Drain(deadline);
  impl_->commands.WaitUntilEmpty();
}

absl::Status Scheduler::health() const { return impl_->commands.health(); }

absl::Duration Scheduler::TurnTime() const { return impl_->commands.Away(); }

}  // namespace t2r
