#include "server/access_log.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <nlohmann/json.hpp>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/io/files.h"
#include "server/batch_queue.h"

namespace t2r::server {
namespace {

constexpr size_t kMaxWaiting = 4096;
constexpr absl::Duration kLookInterval = absl::Seconds(1);

double Seconds(absl::Duration time) {
  return static_cast<double>(absl::ToInt64Microseconds(std::max(time, absl::ZeroDuration()))) / 1e6;
}

int OpenForAppend(const std::string& path) {
  return open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0640);
}

}  // namespace

std::string AccessLine(const CallFacts& facts) {
  nlohmann::ordered_json line;
  line["time"] = absl::FormatTime("%Y-%m-%dT%H:%M:%E6SZ", facts.begun, absl::UTCTimeZone());
  line["request_id"] = facts.request_id;
  line["peer"] = facts.peer;
  if (facts.trace.trace_id[0] != 0 ||
      std::any_of(facts.trace.trace_id.begin(), facts.trace.trace_id.end(),
                  [](uint8_t byte) { return byte != 0; })) {
    line["trace_id"] = absl::BytesToHexString(absl::string_view(
        reinterpret_cast<const char*>(facts.trace.trace_id.data()), facts.trace.trace_id.size()));
  }
  line["tenant"] = facts.tenant;
  line["method"] = facts.method;
  if (!facts.session.empty()) line["session"] = facts.session;
  line["status"] = absl::StatusCodeToString(facts.code);
  line["prompt_tokens"] = facts.prompt_tokens;
  line["cached_tokens"] = facts.cached_tokens;
  line["completion_tokens"] = facts.completion_tokens;
  line["queue_seconds"] = Seconds(facts.queue_time);
  line["first_token_seconds"] = Seconds(facts.first_token_time());
  line["total_seconds"] = Seconds(facts.ended - facts.begun);
  if (!facts.prompt.empty()) line["prompt"] = facts.prompt;
  return line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

struct AccessLog::State {
  explicit State(std::string file) : path(std::move(file)) {}
  ~State() {
    if (fd >= 0 && fd != STDOUT_FILENO) close(fd);
  }

  bool Open() {
    fd = path == "-" ? STDOUT_FILENO : OpenForAppend(path);
    return fd >= 0;
  }

  // The file may have been moved away. Where it cannot be made anew the old one goes on.
  void Reopen() {
    const absl::Time now = absl::Now();
    if (fd == STDOUT_FILENO || now < looked + kLookInterval) return;
    looked = now;
    struct stat there = {};
    struct stat mine = {};
    if (stat(path.c_str(), &there) == 0 && fstat(fd, &mine) == 0 && there.st_ino == mine.st_ino &&
        there.st_dev == mine.st_dev) {
      return;
    }
    const int next = OpenForAppend(path);
    if (next < 0) return;
    close(fd);
    fd = next;
  }

  void Run() {
    std::vector<CallFacts> batch;
    while (waiting.Take(&batch)) {
      Reopen();
      // Each line in a write of its own: on a pipe it then stays whole beside what others write.
      for (const CallFacts& facts : batch) {
        if (!WriteAll(fd, absl::StrCat(AccessLine(facts), "\n")).ok()) ++lost;
      }
    }
  }

  const std::string path;
  int fd = -1;                               // Run's, once it runs
  absl::Time looked = absl::InfinitePast();  // likewise
  BatchQueue<CallFacts> waiting{kMaxWaiting};
  std::atomic<int64_t> lost{0};  // lines that could not be written
};

absl::StatusOr<std::unique_ptr<AccessLog>> AccessLog::Open(const std::string& path) {
  auto state = std::make_shared<State>(path);
  if (!state->Open()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--access-log ", path, ": cannot be opened for writing"));
  }
  return std::unique_ptr<AccessLog>(new AccessLog(std::move(state)));
}

AccessLog::AccessLog(std::shared_ptr<State> state) : state_(std::move(state)) {
  // Detached: nothing may wait for a thread that a full pipe or a disk holds.
  std::thread([state = state_] { state->Run(); }).detach();
}

AccessLog::~AccessLog() {
  Flush(absl::Milliseconds(500));
  state_->waiting.Close();
}

void AccessLog::Write(CallFacts facts) { state_->waiting.Push(std::move(facts)); }

void AccessLog::Flush(absl::Duration limit) { state_->waiting.Flush(limit); }

int64_t AccessLog::dropped() const { return state_->waiting.dropped() + state_->lost.load(); }

}  // namespace t2r::server
