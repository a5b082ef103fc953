// Lines for operators, written by a thread of its own: who logs never waits for who reads.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "absl/time/time.h"

namespace t2r::server {

// Holds up to a thousand lines for a descriptor that may be slow or stuck; what comes beyond is
// dropped, and counted by a line once there is room. Thread-safe.
class LogSink {
 public:
  // fd stays the caller's and open for the life of the process.
  explicit LogSink(int fd);
  ~LogSink();  // Flush, at most half a second; a thread that is stuck in a write is left behind
  LogSink(const LogSink&) = delete;
  LogSink& operator=(const LogSink&) = delete;

  // Queues one line (without its end). Control characters come out as \xNN, so that a line stays
  // one and moves no terminal.
  void Write(const std::string& line);
  // The same for what a library says, which may hold what clients sent: "t2r-server: `library`:
  // `line`", at most 512 bytes of it, everything but printable ASCII as \xNN, at most 10 lines a
  // second after a burst of 20. How many were left out is said by the next one.
  void WriteForeign(const std::string& library, const std::string& line);
  // Until everything is written, at most `limit`.
  void Flush(absl::Duration limit);

 private:
  struct State;
  const std::shared_ptr<State> state_;
};

// gRPC's and protobuf's own lines go to the sink from here on, through WriteForeign; null: they are
// dropped. The sink must outlive their use.
void RouteLibraryLogs(LogSink* sink);

// `text` with control characters, and where ascii everything beyond ASCII, as \xNN.
std::string EscapeForLog(std::string_view text, bool ascii);

}  // namespace t2r::server
