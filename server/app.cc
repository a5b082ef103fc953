#include "server/app.h"

#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "engine/io/mutex.h"
#include "server/admin_server.h"
#include "server/crash_lines.h"
#include "server/grpc_server.h"
#include "server/log_sink.h"
#include "server/metrics.h"
#include "server/port_watch.h"
#include "server/served_model.h"

namespace t2r::server {
namespace {

// What RPCs get to take their last messages once every request has ended.
constexpr absl::Duration kLastWrites = absl::Seconds(2);

// After the drain limit the process ends whatever still holds it up.
constexpr absl::Duration kDrainReserve = absl::Seconds(5);
// How often the server connects to its own port, and how long that may take.
constexpr absl::Duration kPortInterval = absl::Seconds(5);
constexpr absl::Duration kPortTimeout = absl::Seconds(2);
// A turn of the engine thread is a step of one batch: one that takes longer than this hangs.
constexpr absl::Duration kStuck = absl::Minutes(5);

// The two streams of a server process, neither of which it ever waits for.
struct Output {
  LogSink out{STDOUT_FILENO};
  LogSink err{STDERR_FILENO};

  // Lines on stdout, soon, also into a file or a pipe.
  void Print(const std::string& lines) {
    for (const absl::string_view line : absl::StrSplit(lines, '\n')) out.Write(std::string(line));
  }
  void Error(const absl::Status& status) {
    err.Write(absl::StrCat("t2r-server: ", status.message()));
  }
  void Flush() {
    out.Flush(absl::Milliseconds(500));
    err.Flush(absl::Milliseconds(500));
  }
};

// What the main thread waits for.
class Events {
 public:
  void Signal() {
    const MutexLock lock(mutex_);
    signalled_ = true;
    changed_.NotifyAll();
  }
  void Loaded(absl::StatusOr<std::unique_ptr<ServedModel>> result) {
    const MutexLock lock(mutex_);
    result_ = std::make_unique<absl::StatusOr<std::unique_ptr<ServedModel>>>(std::move(result));
    changed_.NotifyAll();
  }
  // Null when a signal came first.
  std::unique_ptr<absl::StatusOr<std::unique_ptr<ServedModel>>> WaitForModel() {
    MutexLock lock(mutex_);
    while (!signalled_ && result_ == nullptr) changed_.Wait(lock);
    return signalled_ ? nullptr : std::move(result_);
  }
  void WaitForSignal() {
    MutexLock lock(mutex_);
    while (!signalled_) changed_.Wait(lock);
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  bool signalled_ ABSL_GUARDED_BY(mutex_) = false;
  std::unique_ptr<absl::StatusOr<std::unique_ptr<ServedModel>>> result_ ABSL_GUARDED_BY(mutex_);
};

// Blocks SIGTERM and SIGINT everywhere and takes them in a thread of their own: nothing of what a
// drain does may be called from a signal handler. The thread also ends a process whose drain is
// held up.
void StartSignalThread(std::shared_ptr<Events> events, absl::Duration drain) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGXFSZ, SIG_IGN);  // a file that may not grow is an error of its write
  std::thread([set, events = std::move(events), limit = drain + kLastWrites + kDrainReserve] {
    int number = 0;
    sigwait(&set, &number);
    events->Signal();
    const timespec wait = absl::ToTimespec(limit);
    number = sigtimedwait(&set, nullptr, &wait);
    _exit(number > 0 ? 128 + number : 0);
  }).detach();
}

// Whether the engine thread hangs, from any thread.
class EngineWatch {
 public:
  // Null: no scheduler any more.
  void Watch(const Scheduler* scheduler) {
    const MutexLock lock(mutex_);
    scheduler_ = scheduler;
  }
  bool Stuck() {
    const MutexLock lock(mutex_);
    return scheduler_ != nullptr && scheduler_->TurnTime() > kStuck;
  }

 private:
  Mutex mutex_;
  const Scheduler* scheduler_ ABSL_GUARDED_BY(mutex_) = nullptr;
};

// How many connections there may be beside what else needs descriptors.
int64_t ConnectionLimit(int64_t wanted, int64_t files) {
  const int64_t others = 32 + std::min<int64_t>(256, files / 8);
  const int64_t possible = std::max<int64_t>(files - others, 1);
  return wanted == 0 ? possible : std::min(wanted, possible);
}

std::string ReadyLine(const v1::GetModelResponse& info) {
  return absl::StrCat("model: ready ", info.name(), " (", info.architecture(), ", ",
                      info.layer_types_size(), " layers, vocabulary ", info.vocab_size(), ", ",
                      info.dtype(), ", ", info.state_bytes_per_session(), " bytes a session, ",
                      info.limits().max_sessions(), " sessions, ", info.backend(), ")");
}

}  // namespace

int RunServer(const ServerOptions& options, const EngineLoader& load_engine) {
  InstallCrashLines();
  // Debian's Abseil checks the order of all locks, of which gRPC takes dozens for a message.
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  const auto events = std::make_shared<Events>();
  StartSignalThread(events, options.drain_delay + options.drain_timeout);
  Output output;
  RouteLibraryLogs(&output.err);

  const int64_t files = RaiseFileLimit();
  Metrics metrics;
  GrpcServerOptions edge = options.grpc;
  edge.connections.connections = ConnectionLimit(edge.connections.connections, files);
  edge.log = [&output](const std::string& line) {
    output.err.Write(absl::StrCat("t2r-server: ", line));
  };
  absl::StatusOr<std::unique_ptr<GrpcServer>> grpc = GrpcServer::Start(edge, metrics);
  if (!grpc.ok()) {
    output.Error(absl::IsInvalidArgument(grpc.status())
                     ? grpc.status()
                     : absl::UnavailableError(absl::StrCat("--listen: ", grpc.status().message())));
    return 1;
  }
  GrpcServer& server = **grpc;
  PortWatch port([&server] { return server.Answers(kPortTimeout); }, kPortInterval);
  EngineWatch engine;
  const auto works = [&port, &engine] { return port.alive() && !engine.Stuck(); };
  const auto ready = [&server, works] { return server.serving() && works(); };
  const auto alive = [&server, works] { return !server.failed() && works(); };
  const auto page = [&metrics, ready, alive] {
    metrics.SetHealth(ready(), alive());
    return metrics.Text();
  };
  AdminServer::Certificates certificates;
  if (options.admin_tls) {
    certificates = [access = server.access()] { return access->certificates(); };
  }
  absl::StatusOr<std::unique_ptr<AdminServer>> admin = AdminServer::Start(
      options.admin, {.metrics = page, .ready = ready, .alive = alive}, std::move(certificates));
  if (!admin.ok()) {
    output.Error(absl::UnavailableError(absl::StrCat("--admin: ", admin.status().message())));
    return 1;
  }
  output.Print(absl::StrCat("grpc: listening on ", server.address()));
  output.Print(absl::StrCat("admin: listening on ", (*admin)->address()));
  output.Print(absl::StrCat("files: ", files, " descriptors, up to ", edge.connections.connections,
                            " connections"));

  std::thread loader([&options, &load_engine, &metrics, &server, &output, events] {
    events->Loaded(LoadServedModel(
        options, load_engine, metrics,
        [&server, &output](const absl::Status& health) {
          output.Error(health);
          server.DeviceFailed();
        },
        // Requests may bring about many of these.
        [&output](const absl::Status& fault) {
          output.err.WriteForeign("a request failed", std::string(fault.message()));
        }));
  });
  const auto loaded = events->WaitForModel();
  if (loaded == nullptr) {
    // Loading cannot be interrupted, and nothing has been served: there is nothing to drain.
    server.Shutdown(absl::ZeroDuration());
    output.Print("server: stopped while loading");
    output.Flush();
    _exit(0);
  }
  loader.join();
  if (!loaded->ok()) {
    server.Shutdown(absl::ZeroDuration());
    output.Error(loaded->status());
    return 1;
  }
  const std::unique_ptr<ServedModel> model = std::move(**loaded);
  for (const std::string& warning : model->engine->warnings) {
    output.err.Write(absl::StrCat("t2r-server: warning: ", warning));
  }
  if (!model->engine->backend_note.empty()) {
    output.Print(absl::StrCat("backend: ", model->engine->backend_note));
  }
  engine.Watch(model->scheduler.get());
  server.SetModel(model.get());
  output.Print(std::string(absl::StripTrailingAsciiWhitespace(ToTable(model->engine->memory))));
  output.Print(ReadyLine(model->info));

  events->WaitForSignal();
  server.StopTaking();
  if (options.drain_delay > absl::ZeroDuration()) {
    output.Print(absl::StrCat("server: refusing new work, draining in ",
                              absl::FormatDuration(options.drain_delay)));
    absl::SleepFor(options.drain_delay);
  }
  output.Print("server: draining");
  const absl::Time deadline = absl::Now() + options.drain_timeout;
  server.FinishTexts(deadline);
  model->scheduler->Drain(deadline);
  // What turns left is stored by workers.
  server.FinishTexts(absl::Now() + kLastWrites);
  server.Shutdown(kLastWrites);
  engine.Watch(nullptr);
  model->scheduler.reset();  // its last events go to the server's context
  output.Print("server: stopped");
  return 0;
}

}  // namespace t2r::server
