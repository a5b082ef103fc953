// The port that clients connect to: our own listening sockets, whose connections are handed on.
//
// gRPC's listener of the version that Debian has closes for good when file descriptors run out
// (CVE-2023-4785), and bounds neither connections nor who makes them. Here an accept that fails is
// tried again, and a connection beyond a limit is closed at once.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/io/mutex.h"

namespace t2r::server {

struct ListenerLimits {
  int64_t connections = 0;           // open at once; 0: no limit
  int64_t connections_per_peer = 0;  // of one address; 0: no limit
};

// Accepts in a thread of its own from Start until destruction or Stop.
class Listener {
 public:
  // Takes a connected, non-blocking socket, which is its own from then on. From the thread.
  using Take = std::function<void(int fd)>;

  // address: HOST:PORT; port 0 takes a free one. Connections wait from here on. UNAVAILABLE naming
  // the address if it cannot listen.
  static absl::StatusOr<std::unique_ptr<Listener>> Open(const std::string& address);
  ~Listener();
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;

  // HOST:PORT with the port in use.
  const std::string& address() const { return address_; }
  void Start(const ListenerLimits& limits, Take take);
  // Nothing is accepted after it. Idempotent.
  void Stop();

  // Whether a connection of our own to the port, on which `greeting` is sent, gets its server's
  // first bytes within `timeout`. It counts against no limit. Thread-safe.
  bool Answers(absl::Duration timeout, const std::string& greeting);

  // Connections that are open, and those that were closed for a limit so far. Thread-safe.
  int64_t open();
  int64_t refused() const { return refused_.load(); }

 private:
  // A connection is known by its descriptor and the socket's inode: another inode, or none, under
  // the same descriptor means that the connection is closed.
  struct Connection {
    uint64_t inode = 0;
    std::string peer;
  };

  explicit Listener(std::string address) : address_(std::move(address)) {}
  void Run();
  void Accept(int listener);
  // Forgets the connections that are closed.
  void Sweep() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool Full(const std::string& peer) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool Admit(int fd, const std::string& peer, int port);

  std::string address_;
  std::vector<int> sockets_;
  int stop_event_ = -1;
  int spare_ = -1;  // given up for a moment where descriptors have run out
  ListenerLimits limits_;
  Take take_;
  std::thread thread_;
  std::atomic<int64_t> refused_{0};

  Mutex mutex_;
  std::map<int, Connection> connections_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, int64_t> peers_ ABSL_GUARDED_BY(mutex_);
  std::set<int> own_ports_ ABSL_GUARDED_BY(mutex_);  // of Answers' connections
};

// Whether only this machine reaches HOST:PORT. A host that is not known counts too: nothing can
// listen there.
bool IsLoopback(const std::string& address);

// Raises the limit of open files to what the system allows, and returns it.
int64_t RaiseFileLimit();

}  // namespace t2r::server
