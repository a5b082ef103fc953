#include "engine/scheduler/engine_loop.h"

#include <algorithm>
#include <cassert>
#include <exception>
#include <optional>
#include <span>

#include "absl/strings/str_cat.h"
#include "engine/executor/device_status.h"

namespace t2r {

EngineLoop::EngineLoop(Executor& executor, const ExecutorLimits& limits,
                       SchedulerObserver* observer, const SchedulerOptions& options,
                       CommandQueue& commands, Admission& admission)
    : executor_(executor),
      observer_(observer),
      options_(options),
      commands_(commands),
      admission_(admission),
      former_(limits.max_step_tokens, options.max_prompt_chunk, limits.prompt_alignment),
      prefixes_(executor, limits, options.max_prompt_chunk, options.prefix_cache_shared) {}

void EngineLoop::Run() {
  absl::Duration wait = absl::InfiniteDuration();
  bool runs = false;
  for (;;) {
    commands_.Take(wait, &in_);
    // Else it is of the step's end, but not before what was submitted since.
    if (!runs || !in_.submitted.empty()) now_ = options_.clock();
    for (std::unique_ptr<Session>& session : in_.submitted) Receive(std::move(session));
    for (const RequestId id : in_.cancelled) {
      const auto found = sessions_.find(id);
      if (found != sessions_.end()) End(found->second.get(), FinishReason::kCancelled);
    }
    EndExpired();
    if (now_ >= in_.drain_deadline) EndAll(FinishReason::kDrained);
    Compact();
    EndStalled();
    Compact();
    if (!failed_) Admit();
    if (!failed_) former_.Form(active_, now_, &step_);
    runs = !failed_ && LaunchStep();
    if (failed_) EndAll(FinishReason::kError);
    Deliver();
    Compact();
    Sweep();
    if (runs) WaitForStep();
    if (failed_) EndAll(FinishReason::kError);
    Compact();
    if (in_.stop && sessions_.empty() && !has_news()) {
      if (!failed_) prefixes_.Clear();
      return;
    }
    wait = runs || has_news() ? absl::ZeroDuration() : UntilNextTimer();
  }
}

void EngineLoop::Receive(std::unique_ptr<Session> owned) {
  Session* session = owned.get();
  session->set_stall_meter(StallMeter(options_.stall_timeout, options_.min_read_rate));
  sessions_.emplace(session->id(), std::move(owned));
  if (observer_ != nullptr) observer_->OnSubmitted();
  const Request& request = session->request();
  queue_.Push({.id = session->id(),
               .cost = request.queue_cost(),
               .tenant = request.tenant,
               .weight = request.weight,
               .priority = request.priority});
  const absl::Time deadline = request.deadline;
  if (deadline != absl::InfiniteFuture()) timers_.emplace(deadline, session->id());
  // Nothing to run: a sequence of one token has no log probability.
  if (request.positions() == 0) End(session, FinishReason::kScored);
}

void EngineLoop::EndExpired() {
  while (!timers_.empty() && timers_.begin()->first <= now_) {
    End(sessions_.at(timers_.begin()->second).get(), FinishReason::kDeadline);
  }
}

void EngineLoop::EndStalled() {
  for (Session* session : active_) {
    if (session->stall_deadline() > now_ || session->HasRoom(now_)) continue;
    if (session->stall_deadline() <= now_) End(session, FinishReason::kStalled);
  }
}

void EngineLoop::EndAll(FinishReason reason) {
  while (!sessions_.empty()) End(sessions_.begin()->second.get(), reason);
}

void EngineLoop::Admit() {
  while (!queue_.empty()) {
    Session* session = sessions_.at(queue_.Front()).get();
    const SessionSize size = session->size();
    bool opened = false;
    try {
      opened = OpenSlots(session, size);
    } catch (const std::exception& error) {
      if (IsLost(error)) {
        Fail(error.what());
        return;
      }
      EndByFault(session, StatusOf(error));
      continue;
    }
    if (!opened) {
      if (open_slots_ > 0) return;
      // Waiting would never end.
      End(session, FinishReason::kError,
          absl::InternalError(absl::StrCat("the idle executor refuses ", size.positions,
                                           " positions although they are within its limits")));
      continue;
    }
    queue_.Pop();
    const Request& request = session->request();
    admission_.Release(request.queue_tokens(), request.tenant);
    // By id, although tenants' turns may bring a later one first.
    active_.insert(
        std::upper_bound(active_.begin(), active_.end(), session,
                         [](const Session* a, const Session* b) { return a->id() < b->id(); }),
        session);
    ReportSessions();
    events_.push_back({.session = session, .kind = Event::kStarted});
  }
}

bool EngineLoop::OpenSlots(Session* session, const SessionSize& size) {
  const Request& request = session->request();
  const int count = request.slots();
  if (!executor_.CanOpen(size, count)) return false;
  std::vector<int> slots;
  slots.reserve(static_cast<size_t>(count));
  try {
    while (static_cast<int>(slots.size()) < count) {
      slots.push_back(executor_.Open(size, request.sampling));
    }
    if (request.from != nullptr) executor_.Restore(slots.front(), request.from->slot);
    StartFromPrefix(session, slots.front());
  } catch (...) {
    for (const int slot : slots) executor_.Close(slot);
    throw;
  }
  const int first = slots.front();
  if (session->beams() != nullptr) session->beams()->Open(std::move(slots));
  session->Open(first, now_);
  ++open_sessions_;
  open_slots_ += count;
  return true;
}

void EngineLoop::StartFromPrefix(Session* session, int slot) {
  const Request& request = session->request();
  // What a session has is in no tree, and a Score wants every token's logits.
  if (!prefixes_.on() || request.from != nullptr || request.score) return;
  session->StartFrom(prefixes_.Begin(slot, request.tenant, request.prompt));
  if (observer_ != nullptr) observer_->OnPrefixes(prefixes_.stats());
}

void EngineLoop::KeepPrefix(Session* session) {
  const std::optional<PrefixStop> stop = session->TakeStop();
  if (!stop || failed_) return;
  const Request& request = session->request();
  const std::span<const int32_t> prompt(request.prompt);
  try {
    prefixes_.Keep(session->slot(), request.tenant,
                   prompt.first(static_cast<size_t>(stop->position)), stop->spare);
  } catch (const std::exception& error) {
    // The session can do without.
    if (IsLost(error)) return Fail(error.what());
  }
  if (observer_ != nullptr) observer_->OnPrefixes(prefixes_.stats());
}

bool EngineLoop::LaunchStep() {
  if (step_.chunks.empty()) return false;
  try {
    executor_.Launch(step_.chunks);
  } catch (const std::exception& error) {
    StepFailed(error);
    return false;
  }
  return true;
}

void EngineLoop::WaitForStep() {
  const absl::Time begun = now_;
  try {
    executor_.Wait(&results_);
  } catch (const std::exception& error) {
    now_ = options_.clock();
    StepFailed(error);
    return;
  }
  now_ = options_.clock();
  assert(results_.size() == step_.chunks.size());
  gaps_.clear();
  for (size_t i = 0; i < step_.sessions.size(); ++i) {
    Session* session = step_.sessions[i];
    if (session->slot() < 0) continue;  // an earlier row of its step ended it
    const std::optional<FinishReason> reason =
        session->Accept(step_.rows[i], std::move(results_[i]), now_);
    if (session->undelivered()) QueueToken(session);
    if (session->beams() != nullptr && !reason) CopyBeams(session);
    if (reason == FinishReason::kError && !session->fault().ok()) {
      if (observer_ != nullptr) observer_->OnNotFinite();
      EndByFault(session, session->fault());
    } else if (reason) {
      End(session, *reason);
    } else if (session->prefilling()) {
      KeepPrefix(session);
    } else if (session->undelivered() && session->CheckpointDue()) {
      Checkpoint(session);
    }
  }
  if (observer_ == nullptr) return;
  observer_->OnStep({.decode_rows = step_.decode_rows,
                     .prompt_rows = step_.prompt_rows,
                     .time = now_ - begun,
                     .gaps = gaps_});
}

void EngineLoop::QueueToken(Session* session) {
  tokens_.push_back(session);
  const absl::Time since = session->undelivered_since();
  if (session->generated() == 1) {
    if (observer_ != nullptr) observer_->OnFirstToken(now_ - since);
    return;
  }
  // Most sessions of a step were in the one before it together, too.
  if (gaps_.empty() || since != since_) gaps_.push_back({.time = now_ - since});
  since_ = since;
  ++gaps_.back().tokens;
}

void EngineLoop::StepFailed(const std::exception& error) {
  if (IsLost(error)) return Fail(error.what());
  // What the step left in its sessions' states is not known; nobody else's were touched.
  const absl::Status status = StatusOf(error);
  for (Session* session : step_.sessions) {
    if (session->slot() >= 0) EndByFault(session, status);
  }
}

void EngineLoop::EndByFault(Session* session, const absl::Status& fault) {
  End(session, FinishReason::kError, fault);
  if (options_.on_fault) options_.on_fault(fault);
}

void EngineLoop::CopyBeams(Session* session) {
  try {
    for (const BeamGroup::Copy& copy : session->beams()->TakeCopies()) {
      executor_.Fork(copy.from, copy.to);
    }
  } catch (const std::exception& error) {
    if (IsLost(error)) return Fail(error.what());
    EndByFault(session, StatusOf(error));
  }
}

void EngineLoop::Deliver() {
  const size_t together = tokens_.size() + events_.size();
  for (Session* session : tokens_) session->Deliver(together);
  tokens_.clear();
  for (Event& event : events_) {
    switch (event.kind) {
      case Event::kStarted:
        event.session->sink().OnStarted(together);
        break;
      case Event::kCheckpoint:
        event.session->sink().OnCheckpoint(std::move(event.state));
        break;
      case Event::kFinished: {
        FinishEvent finish =
            event.session->MakeFinish(event.reason, std::move(event.status), event.time);
        if (observer_ != nullptr) {
          observer_->OnFinished(finish, event.time - event.session->submitted());
        }
        event.session->sink().OnFinished(std::move(finish));
        break;
      }
    }
  }
  events_.clear();
}

void EngineLoop::End(Session* session, FinishReason reason) {
  End(session, reason, EndStatus(reason));
}

void EngineLoop::Checkpoint(Session* session) {
  try {
    events_.push_back({.session = session,
                       .kind = Event::kCheckpoint,
                       .state = session->MakeCheckpoint(executor_.Save(session->slot()))});
  } catch (const std::exception& error) {
    if (IsLost(error)) return Fail(error.what());
    EndByFault(session, StatusOf(error));
  }
}

void EngineLoop::SaveSlot(Session* session, FinishReason* reason, absl::Status* status) {
  const bool whole = *reason == FinishReason::kStop || *reason == FinishReason::kLength ||
                     *reason == FinishReason::kEos;
  const bool parked =
      *reason == FinishReason::kDrained && session->slot() >= 0 && session->generated() > 0;
  if (!session->request().keep || !(whole || parked)) return;
  try {
    session->set_slot_state(executor_.Save(session->slot()));
  } catch (const std::exception& error) {
    if (IsLost(error)) Fail(error.what());
    *reason = FinishReason::kError;
    *status = StatusOf(error);
  }
}

void EngineLoop::End(Session* session, FinishReason reason, absl::Status status) {
  SaveSlot(session, &reason, &status);
  const auto entry = sessions_.find(session->id());
  timers_.erase({session->request().deadline, session->id()});
  if (session->slot() >= 0) {
    CloseSlot(session);
  } else {
    queue_.Remove(session->id());
    const Request& request = session->request();
    admission_.Release(request.queue_tokens(), request.tenant);
  }
  ended_.push_back(std::move(entry->second));
  sessions_.erase(entry);
  events_.push_back({.session = session,
                     .kind = Event::kFinished,
                     .reason = reason,
                     .time = now_,
                     .status = std::move(status)});
}

absl::Status EngineLoop::EndStatus(FinishReason reason) const {
  switch (reason) {
    case FinishReason::kCancelled:
      return absl::CancelledError("the request was cancelled");
    case FinishReason::kDeadline:
      return absl::DeadlineExceededError("the request's deadline passed");
    case FinishReason::kDrained:
      return absl::UnavailableError("drained: the server is shutting down");
    case FinishReason::kStalled:
      return absl::AbortedError(absl::StrCat(
          "the client took no token for ", absl::FormatDuration(options_.stall_timeout),
          ", the stall limit",
          options_.min_read_rate > 0
              ? absl::StrCat(", or fewer than ", options_.min_read_rate, " bytes a second")
              : "",
          "; read the stream faster"));
    case FinishReason::kError:
      if (failed_) return commands_.health();
      return absl::InternalError(
          "the model gives no finite log probability that beam search could go on with");
    default:
      return absl::OkStatus();
  }
}

void EngineLoop::CloseSlot(Session* session) {
  try {
    if (session->beams() == nullptr) {
      executor_.Close(session->slot());
    } else {
      for (const int slot : session->beams()->slots()) executor_.Close(slot);
    }
  } catch (const std::exception& error) {
    Fail(error.what());
  }
  session->ClearSlot();
  --open_sessions_;
  open_slots_ -= session->request().slots();
  ReportSessions();
}

void EngineLoop::Compact() {
  if (ended_.empty()) return;
  std::erase_if(active_, [](const Session* session) { return session->slot() < 0; });
}

void EngineLoop::Sweep() {
  if (ended_.empty()) return;
  const auto count = static_cast<int64_t>(ended_.size());
  ended_.clear();
  commands_.Retire(count);
}

void EngineLoop::Fail(const char* why) {
  if (failed_) return;
  failed_ = true;
  commands_.Fail(why);
  if (options_.on_failure) options_.on_failure(commands_.health());
}

void EngineLoop::ReportSessions() {
  if (observer_ != nullptr) observer_->OnSessions(open_sessions_, open_slots_);
}

absl::Duration EngineLoop::UntilNextTimer() const {
  absl::Time next = absl::InfiniteFuture();
  if (!sessions_.empty()) next = in_.drain_deadline;
  if (!timers_.empty()) next = std::min(next, timers_.begin()->first);
  for (const Session* session : active_) next = std::min(next, session->stall_deadline());
  return std::max(next - options_.clock(), absl::ZeroDuration());
}

}  // namespace t2r
