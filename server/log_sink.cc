#include "server/log_sink.h"

#include <google/protobuf/stubs/logging.h>
#include <grpc/support/log.h>

#include <algorithm>
#include <atomic>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/io/files.h"
#include "engine/io/mutex.h"
#include "server/batch_queue.h"
#include "server/crash_lines.h"

namespace t2r::server {
namespace {

constexpr size_t kMaxLines = 1000;
constexpr size_t kMaxForeignBytes = 512;
constexpr double kForeignRate = 10;   // lines a second
constexpr double kForeignBurst = 20;  // lines

std::atomic<LogSink*> library_sink{nullptr};

void OnGrpcLog(gpr_log_func_args* line) {
  LogSink* sink = library_sink.load();
  if (sink != nullptr) sink->WriteForeign("grpc", line->message);
}

void OnProtobufLog(google::protobuf::LogLevel level, const char* /*file*/, int /*line*/,
                   const std::string& message) {
  LogSink* sink = library_sink.load();
  if (sink != nullptr && level >= google::protobuf::LOGLEVEL_WARNING) {
    sink->WriteForeign("protobuf", message);
  }
}

}  // namespace

std::string EscapeForLog(std::string_view text, bool ascii) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string out;
  out.reserve(text.size());
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f || (ascii && byte >= 0x80)) {
      out += "\\x";
      out += kDigits[byte >> 4];
      out += kDigits[byte & 15];
    } else {
      out += c;
    }
  }
  return out;
}

struct LogSink::State {
  explicit State(int descriptor) : fd(descriptor) {}

  void Run() {
    std::vector<std::string> batch;
    int64_t told = 0;
    while (lines.Take(&batch)) {
      std::string text;
      for (const std::string& line : batch) absl::StrAppend(&text, line, "\n");
      const int64_t dropped = lines.dropped() - told;
      if (dropped > 0) absl::StrAppend(&text, "t2r-server: ", dropped, " lines were dropped\n");
      told += dropped;
      WriteAll(fd, text).IgnoreError();  // there is nowhere to say it
    }
  }

  const int fd;
  BatchQueue<std::string> lines{kMaxLines};
  // Of WriteForeign.
  Mutex mutex;
  double tokens ABSL_GUARDED_BY(mutex) = kForeignBurst;
  absl::Time refilled ABSL_GUARDED_BY(mutex) = absl::Now();
  int64_t left_out ABSL_GUARDED_BY(mutex) = 0;
};

LogSink::LogSink(int fd) : state_(std::make_shared<State>(fd)) {
  // Detached: nothing may wait for a thread that a full pipe holds.
  std::thread([state = state_] { state->Run(); }).detach();
}

LogSink::~LogSink() {
  Flush(absl::Milliseconds(500));
  LogSink* self = this;
  library_sink.compare_exchange_strong(self, nullptr);
  state_->lines.Close();
}

void LogSink::Write(const std::string& line) { state_->lines.Push(EscapeForLog(line, false)); }

void LogSink::WriteForeign(const std::string& library, const std::string& line) {
  std::string text = absl::StrCat("t2r-server: ", library, ": ",
                                  EscapeForLog(line.substr(0, kMaxForeignBytes), true),
                                  line.size() > kMaxForeignBytes ? "…" : "");
  KeepLastWords(text);
  {
    const MutexLock lock(state_->mutex);
    const absl::Time now = absl::Now();
    const double earned = absl::ToDoubleSeconds(now - state_->refilled) * kForeignRate;
    state_->tokens = std::clamp(state_->tokens + earned, 0.0, kForeignBurst);
    state_->refilled = now;
    if (state_->tokens < 1) {
      ++state_->left_out;
      return;
    }
    state_->tokens -= 1;
    if (state_->left_out > 0) absl::StrAppend(&text, " (", state_->left_out, " left out before)");
    state_->left_out = 0;
  }
  state_->lines.Push(std::move(text));
}

void LogSink::Flush(absl::Duration limit) { state_->lines.Flush(limit); }

void RouteLibraryLogs(LogSink* sink) {
  library_sink.store(sink);
  gpr_set_log_function(OnGrpcLog);
  google::protobuf::SetLogHandler(OnProtobufLog);
}

}  // namespace t2r::server
