// A line for each call, as JSON, written by a thread of its own.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/call_facts.h"

namespace t2r::server {

// One line of JSON, without its end. Durations in seconds.
std::string AccessLine(const CallFacts& facts);

// Up to 4,096 calls wait for the file; what comes beyond, or cannot be written, is dropped and
// counted. A file that was renamed or deleted is made anew, within a second of the next line.
// Thread-safe.
class AccessLog {
 public:
  // path: a file to append to, or "-": stdout. INVALID_ARGUMENT in one line where it cannot be
  // opened.
  static absl::StatusOr<std::unique_ptr<AccessLog>> Open(const std::string& path);
  ~AccessLog();  // Flush, at most half a second; a thread that is stuck in a write is left behind
  AccessLog(const AccessLog&) = delete;
  AccessLog& operator=(const AccessLog&) = delete;

  // Never waits.
  void Write(CallFacts facts);
  // Until everything is written, at most `limit`.
  void Flush(absl::Duration limit);
  // Calls that have no line.
  int64_t dropped() const;

 private:
  struct State;
  explicit AccessLog(std::shared_ptr<State> state);
  const std::shared_ptr<State> state_;
};

}  // namespace t2r::server
