#include "client/load/closed_loop.h"

#include <utility>

namespace t2r::client {

ClosedLoop::ClosedLoop(size_t sessions, size_t requests, MakeJob make, StartCall start)
    : requests_(requests), make_(std::move(make)), start_(std::move(start)), sessions_(sessions) {}

ClosedLoop::~ClosedLoop() {
  Stop();
  MutexLock lock(mutex_);
  while (!Over()) changed_.Wait(lock);
}

void ClosedLoop::Start() {
  size_t sessions = 0;
  {
    const MutexLock lock(mutex_);
    sessions = running_ = sessions_.size();
  }
  for (size_t session = 0; session < sessions; ++session) StartNext(session);
}

void ClosedLoop::StartNext(size_t session) {
  size_t index = 0;
  uint64_t sequence = 0;
  {
    const MutexLock lock(mutex_);
    if (stopping_ || issued_ == requests_) {
      --running_;
      changed_.NotifyAll();
      return;
    }
    index = issued_++;
    sequence = ++sessions_[session].sequence;
    ++starting_;
  }
  Job job = make_(index, session);
  const GenerateCall call =
      start_(job.request, std::move(job.on_event),
             [this, session, done = std::move(job.on_done)](const absl::Status& status) {
               done(status);
               {
                 const MutexLock lock(mutex_);
                 ++ended_;
               }
               StartNext(session);
             });
  bool cancel = false;
  {
    const MutexLock lock(mutex_);
    // The request may have ended, and the next have begun, before start_ returned.
    if (sessions_[session].sequence == sequence) sessions_[session].call = call;
    cancel = stopping_;
  }
  if (cancel) call.Cancel();
  const MutexLock lock(mutex_);
  --starting_;
  changed_.NotifyAll();  // under the lock: a waiter may let all of this go
}

void ClosedLoop::Stop() {
  std::vector<GenerateCall> calls;
  {
    const MutexLock lock(mutex_);
    if (stopping_) return;
    stopping_ = true;
    for (const Session& session : sessions_) calls.push_back(session.call);
  }
  for (const GenerateCall& call : calls) call.Cancel();
}

bool ClosedLoop::WaitFor(std::chrono::milliseconds time) {
  MutexLock lock(mutex_);
  const CondVar::Clock::time_point end = CondVar::Clock::now() + time;
  while (!Over() && changed_.WaitUntil(lock, end)) {
  }
  return Over();
}

size_t ClosedLoop::ended() const {
  const MutexLock lock(mutex_);
  return ended_;
}

}  // namespace t2r::client
