// Ctrl-C and SIGTERM as an ordinary call on an ordinary thread.
#ifndef T2R_CLIENT_CLI_INTERRUPT_H_
#define T2R_CLIENT_CLI_INTERRUPT_H_

#include <atomic>
#include <functional>
#include <thread>

#include "engine/io/mutex.h"

namespace t2r::client {

inline constexpr int kInterruptedExitCode = 130;

// Construct before any other thread starts: it blocks SIGINT and SIGTERM in the calling thread, and
// threads started later inherit that. The first signal runs the handler; where none is set, or on
// the second signal, the process exits at once with kInterruptedExitCode. One object a process.
class Interrupt {
 public:
  Interrupt();
  ~Interrupt();  // unblocks the signals again
  Interrupt(const Interrupt&) = delete;
  Interrupt& operator=(const Interrupt&) = delete;

  // Replaces the handler; empty: none. Returns when no other handler is running.
  void SetHandler(std::function<void()> handler);
  bool interrupted() const { return interrupted_; }

 private:
  void Run();

  std::atomic<bool> interrupted_ = false;
  int signal_fd_ = -1;
  int stop_fd_ = -1;
  Mutex mutex_;  // held while the handler runs
  std::function<void()> handler_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace t2r::client

#endif  // T2R_CLIENT_CLI_INTERRUPT_H_
