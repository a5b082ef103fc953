// A closed loop of requests: several sessions at once, each starting its next request as one ends.
#ifndef T2R_CLIENT_LOAD_CLOSED_LOOP_H_
#define T2R_CLIENT_LOAD_CLOSED_LOOP_H_

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "client/client.h"
#include "engine/io/mutex.h"

namespace t2r::client {

class ClosedLoop {
 public:
  // One request, and who hears of its events and its end.
  struct Job {
    GenerateRequest request;
    Client::EventCallback on_event;
    Client::DoneCallback on_done;
  };
  // Makes the index-th request, which the session-th session runs. Called from several threads; the
  // requests of one session follow one another.
  using MakeJob = std::function<Job(size_t index, size_t session)>;
  // Client::StartGenerate.
  using StartCall = std::function<GenerateCall(const GenerateRequest&, Client::EventCallback,
                                               Client::DoneCallback)>;

  ClosedLoop(size_t sessions, size_t requests, MakeJob make, StartCall start);
  // After Stop and the last callback.
  ~ClosedLoop();
  ClosedLoop(const ClosedLoop&) = delete;
  ClosedLoop& operator=(const ClosedLoop&) = delete;

  // Starts a request on each session; once.
  void Start();
  // Starts no further request, and cancels those that run.
  void Stop();
  // Whether all has ended within this time: no request runs, and no thread is in a callback or will
  // call one.
  bool WaitFor(std::chrono::milliseconds time);

  size_t ended() const;  // requests

 private:
  struct Session {
    GenerateCall call;  // the request under way
    uint64_t sequence = 0;
  };

  void StartNext(size_t session);
  bool Over() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return running_ == 0 && starting_ == 0;
  }

  const size_t requests_;
  const MakeJob make_;
  const StartCall start_;

  mutable Mutex mutex_;
  CondVar changed_;
  std::vector<Session> sessions_ ABSL_GUARDED_BY(mutex_);
  size_t issued_ ABSL_GUARDED_BY(mutex_) = 0;   // requests
  size_t ended_ ABSL_GUARDED_BY(mutex_) = 0;    // requests
  size_t running_ ABSL_GUARDED_BY(mutex_) = 0;  // sessions with requests to come
  size_t starting_ ABSL_GUARDED_BY(mutex_) =
      0;  // threads inside StartNext, which may outlast the request they started
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace t2r::client

#endif  // T2R_CLIENT_LOAD_CLOSED_LOOP_H_
