#include "client/load/closed_loop.h"

#include <utility>

namespace t2r::client {

ClosedLoop::ClosedLoop(size_t sessions, size_t requests, MakeJob make, StartCall start)
    : requests_(requests), make_(std::move(make)), start_(std::move(start)), sessions_(sessions) {}

ClosedLoop::~ClosedLoop() {
  Stop();
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait(lock, [this] { return Over(); });
}

void ClosedLoop::Start() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    running_ = sessions_.size();
  }
  for (size_t session = 0; session < sessions_.size(); ++session) StartNext(session);
}

void ClosedLoop::StartNext(size_t session) {
  size_t index = 0;
  uint64_t sequence = 0;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (stopping_ || issued_ == requests_) {
      --running_;
      changed_.notify_all();
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
                 const std::lock_guard<std::mutex> lock(mutex_);
                 ++ended_;
               }
               StartNext(session);
             });
  bool cancel = false;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    // The request may have ended, and the next have begun, before start_ returned.
    if (sessions_[session].sequence == sequence) sessions_[session].call = call;
    cancel = stopping_;
  }
  if (cancel) call.Cancel();
  const std::lock_guard<std::mutex> lock(mutex_);
  --starting_;
  changed_.notify_all();  // under the lock: a waiter may let all of this go
}

void ClosedLoop::Stop() {
  std::vector<GenerateCall> calls;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (stopping_) return;
    stopping_ = true;
    for (const Session& session : sessions_) calls.push_back(session.call);
  }
  for (const GenerateCall& call : calls) call.Cancel();
}

bool ClosedLoop::WaitFor(std::chrono::milliseconds time) {
  std::unique_lock<std::mutex> lock(mutex_);
  return changed_.wait_for(lock, time, [this] { return Over(); });
}

size_t ClosedLoop::ended() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return ended_;
}

}  // namespace t2r::client
