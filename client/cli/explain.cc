#include "absl/strings/str_cat.h"
#include "client/cli/commands.h"
#include "engine/io/mutex.h"

namespace t2r::client {
namespace {

std::string Advice(const absl::Status& status, const std::string& server) {
  const std::optional<absl::Duration> delay = RetryDelay(status);
  const std::string again = delay ? absl::StrCat("Try again in ", absl::FormatDuration(*delay),
                                                 ", or let t2r do it: --retries N.")
                                  : "";
  switch (status.code()) {
    case absl::StatusCode::kUnavailable:
      if (delay) return again;
      return absl::StrCat("Is t2r-server running at ", server,
                          "? Its log says 'grpc: listening on HOST:PORT'; give that as --server. "
                          "`t2r health --timeout 60` waits for a model to load.");
    case absl::StatusCode::kResourceExhausted:
      return delay ? again : "The server has more work than it accepts: try again later.";
    case absl::StatusCode::kDeadlineExceeded:
      return "The time given by --timeout has passed: raise it, or ask for fewer tokens.";
    case absl::StatusCode::kUnimplemented:
      return absl::StrCat("The server at ", server,
                          " does not know this call: is it a t2r-server of this version?");
    case absl::StatusCode::kInternal:
    case absl::StatusCode::kUnknown:
      return "The server's log says more.";
    default:
      return "";  // the server's message names the field and the limit
  }
}

}  // namespace

std::string Explain(const absl::Status& status, const std::string& server) {
  const std::string advice = Advice(status, server);
  std::string text =
      absl::StrCat("t2r: ", status.ToString(absl::StatusToStringMode::kWithNoExtraData), "\n");
  if (!advice.empty()) absl::StrAppend(&text, "     ", advice, "\n");
  return text;
}

CallOptions MakeCallOptions(const CommandLine& line) {
  CallOptions options;
  if (line.timeout_seconds > 0) options.timeout = absl::Seconds(line.timeout_seconds);
  options.max_retries = line.retries;
  return options;
}

absl::Status GenerateInterruptibly(Client& client, const Console& console,
                                   const GenerateRequest& request, const CallOptions& options,
                                   const std::function<bool(const Event&)>& on_event) {
  struct {
    Mutex mutex;
    CondVar changed;
    bool done ABSL_GUARDED_BY(mutex) = false;
    bool cancel ABSL_GUARDED_BY(mutex) = false;  // wanted by on_event, or by Ctrl-C
    absl::Status status ABSL_GUARDED_BY(mutex);
  } end;
  const auto cancel = [&end] {
    const MutexLock lock(end.mutex);
    end.cancel = true;
    end.changed.NotifyAll();
  };
  // Before the first event can be printed: who reads that may interrupt at once.
  if (console.interrupt != nullptr) console.interrupt->SetHandler(cancel);
  const GenerateCall call = client.StartGenerate(
      request, options,
      [&](const Event& event) {
        if (!on_event(event)) cancel();
      },
      [&](const absl::Status& status) {
        const MutexLock lock(end.mutex);
        end.status = status;
        end.done = true;
        end.changed.NotifyAll();
      });
  MutexLock lock(end.mutex);
  while (!end.done && !end.cancel) end.changed.Wait(lock);
  if (!end.done) {
    call.Cancel();
    while (!end.done) end.changed.Wait(lock);
  }
  const absl::Status result = end.status;
  lock.Unlock();
  if (console.interrupt != nullptr) console.interrupt->SetHandler(nullptr);
  return result;
}

}  // namespace t2r::client
