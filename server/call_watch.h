// Cuts RPCs whose clients do not take their end.
#pragma once

#include <grpcpp/server_context.h>

#include <atomic>
#include <cstdint>
#include <list>
#include <thread>

#include "absl/time/time.h"
#include "engine/io/mutex.h"

namespace t2r::server {

class CallGuard;

// Looks ten times a second at the RPCs that are guarded, and cancels those that are due. The thread
// runs until destruction, which every guard must precede.
class CallWatch {
 public:
  CallWatch();
  ~CallWatch();
  CallWatch(const CallWatch&) = delete;
  CallWatch& operator=(const CallWatch&) = delete;

 private:
  friend class CallGuard;
  void Run();

  Mutex mutex_;
  CondVar changed_;
  std::list<CallGuard*> guards_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  bool idle_ ABSL_GUARDED_BY(mutex_) = false;  // it sleeps until there is a guard
  std::thread thread_;
};

// A member of an RPC's reactor, made in the reaction. CutAt is for any thread.
class CallGuard {
 public:
  CallGuard(CallWatch& watch, grpc::CallbackServerContext& rpc);
  ~CallGuard();  // Done
  CallGuard(const CallGuard&) = delete;
  CallGuard& operator=(const CallGuard&) = delete;

  // When the RPC is to be cancelled; InfiniteFuture, as at first: never.
  void CutAt(absl::Time time) { due_.store(absl::ToUnixNanos(time)); }
  // From OnDone: the RPC must not be touched after it returns.
  void Done();

 private:
  friend class CallWatch;

  CallWatch& watch_;
  grpc_call* const call_;
  std::atomic<int64_t> due_;  // Unix nanoseconds
  std::list<CallGuard*>::iterator place_ ABSL_GUARDED_BY(watch_.mutex_);
  bool done_ ABSL_GUARDED_BY(watch_.mutex_) = false;
};

}  // namespace t2r::server
