#include "server/call_watch.h"

#include <grpc/grpc.h>

#include <chrono>
#include <limits>
#include <vector>

#include "absl/time/clock.h"

namespace t2r::server {
namespace {

constexpr std::chrono::milliseconds kTick(100);

}  // namespace

CallWatch::CallWatch() : thread_([this] { Run(); }) {}

CallWatch::~CallWatch() {
  {
    const MutexLock lock(mutex_);
    stopping_ = true;
  }
  changed_.NotifyAll();
  thread_.join();
}

void CallWatch::Run() {
  std::vector<grpc_call*> due;
  MutexLock lock(mutex_);
  while (!stopping_) {
    const int64_t now = absl::GetCurrentTimeNanos();
    for (CallGuard* guard : guards_) {
      if (guard->due_.load() > now) continue;
      guard->due_.store(std::numeric_limits<int64_t>::max());
      // The reference keeps the call; cancelling may run the reactor's OnCancel and OnDone on this
      // thread, so no lock is held then.
      grpc_call_ref(guard->call_);
      due.push_back(guard->call_);
    }
    lock.Unlock();
    for (grpc_call* call : due) {
      grpc_call_cancel_with_status(call, GRPC_STATUS_CANCELLED, "the client takes nothing",
                                   nullptr);
      grpc_call_unref(call);
    }
    due.clear();
    lock.Lock();
    if (guards_.empty()) {
      idle_ = true;
      while (!stopping_ && guards_.empty()) changed_.Wait(lock);
      idle_ = false;
    } else {
      const CondVar::Clock::time_point next = CondVar::Clock::now() + kTick;
      while (!stopping_ && changed_.WaitUntil(lock, next)) {
      }
    }
  }
}

CallGuard::CallGuard(CallWatch& watch, grpc::CallbackServerContext& rpc)
    : watch_(watch), call_(rpc.c_call()), due_(std::numeric_limits<int64_t>::max()) {
  const MutexLock lock(watch_.mutex_);
  watch_.guards_.push_back(this);
  place_ = std::prev(watch_.guards_.end());
  // Calls that follow one another find it awake.
  if (watch_.idle_) watch_.changed_.NotifyAll();
}

CallGuard::~CallGuard() { Done(); }

void CallGuard::Done() {
  const MutexLock lock(watch_.mutex_);
  if (done_) return;
  done_ = true;
  watch_.guards_.erase(place_);
}

}  // namespace t2r::server
