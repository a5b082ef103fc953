#include "server/app.h"

#include <unistd.h>

#include <condition_variable>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "server/admin_server.h"
#include "server/grpc_server.h"
#include "server/metrics.h"
#include "server/served_model.h"

namespace t2r::server {
namespace {

// What RPCs get to take their last messages once every request has ended.
constexpr absl::Duration kLastWrites = absl::Seconds(2);

// A line on stdout, at once, also into a file or a pipe.
void Print(const std::string& line) {
  std::fprintf(stdout, "%s\n", line.c_str());
  std::fflush(stdout);
}

void PrintError(const absl::Status& status) {
  std::fprintf(stderr, "t2r-server: %s\n", std::string(status.message()).c_str());
}

// What the main thread waits for.
class Events {
 public:
  void Signal() {
    const std::lock_guard lock(mutex_);
    signalled_ = true;
    changed_.notify_all();
  }
  void Loaded(absl::StatusOr<std::unique_ptr<ServedModel>> result) {
    const std::lock_guard lock(mutex_);
    result_ = std::make_unique<absl::StatusOr<std::unique_ptr<ServedModel>>>(std::move(result));
    changed_.notify_all();
  }
  // Null when a signal came first.
  std::unique_ptr<absl::StatusOr<std::unique_ptr<ServedModel>>> WaitForModel() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return signalled_ || result_ != nullptr; });
    return signalled_ ? nullptr : std::move(result_);
  }
  void WaitForSignal() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return signalled_; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool signalled_ = false;
  std::unique_ptr<absl::StatusOr<std::unique_ptr<ServedModel>>> result_;
};

// Blocks SIGTERM and SIGINT everywhere and takes them in a thread of their own: nothing of what a
// drain does may be called from a signal handler.
void StartSignalThread(std::shared_ptr<Events> events) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
  std::thread([set, events = std::move(events)] {
    int number = 0;
    sigwait(&set, &number);
    events->Signal();
    sigwait(&set, &number);
    _exit(128 + number);
  }).detach();
}

std::string ReadyLine(const v1::GetModelResponse& info) {
  return absl::StrCat("model: ready ", info.name(), " (", info.architecture(), ", ",
                      info.layer_types_size(), " layers, vocabulary ", info.vocab_size(), ", ",
                      info.dtype(), ", ", info.state_bytes_per_session(), " bytes a session, ",
                      info.limits().max_sessions(), " sessions, ", info.backend(), ")");
}

}  // namespace

int RunServer(const ServerOptions& options) {
  const auto events = std::make_shared<Events>();
  StartSignalThread(events);

  Metrics metrics;
  absl::StatusOr<std::unique_ptr<GrpcServer>> grpc = GrpcServer::Start(options.grpc, metrics);
  if (!grpc.ok()) {
    PrintError(absl::UnavailableError(absl::StrCat("--listen: ", grpc.status().message())));
    return 1;
  }
  GrpcServer& server = **grpc;
  absl::StatusOr<std::unique_ptr<AdminServer>> admin = AdminServer::Start(
      options.admin, [&metrics] { return metrics.Text(); }, [&server] { return server.serving(); });
  if (!admin.ok()) {
    PrintError(absl::UnavailableError(absl::StrCat("--admin: ", admin.status().message())));
    return 1;
  }
  Print(absl::StrCat("grpc: listening on ", server.address()));
  Print(absl::StrCat("admin: listening on ", (*admin)->address()));

  std::thread loader([&options, &metrics, &server, events] {
    events->Loaded(LoadServedModel(options, metrics, [&server](const absl::Status& health) {
      PrintError(health);
      server.DeviceFailed();
    }));
  });
  const auto loaded = events->WaitForModel();
  if (loaded == nullptr) {
    // Loading cannot be interrupted, and nothing has been served: there is nothing to drain.
    server.Shutdown(absl::ZeroDuration());
    Print("server: stopped while loading");
    _exit(0);
  }
  loader.join();
  if (!loaded->ok()) {
    server.Shutdown(absl::ZeroDuration());
    PrintError(absl::UnavailableError(
        absl::StrCat("--model ", options.model, ": ", loaded->status().message())));
    return 1;
  }
  const std::unique_ptr<ServedModel> model = std::move(**loaded);
  for (const std::string& warning : model->engine->warnings) {
    std::fprintf(stderr, "t2r-server: warning: %s\n", warning.c_str());
  }
  if (!model->engine->backend_note.empty()) {
    Print(absl::StrCat("backend: ", model->engine->backend_note));
  }
  server.SetModel(model.get());
  Print(ToTable(model->engine->memory));
  Print(ReadyLine(model->info));

  events->WaitForSignal();
  Print("server: draining");
  server.StopTaking();
  model->scheduler->Drain(absl::Now() + options.drain_timeout);
  server.Shutdown(kLastWrites);
  model->scheduler.reset();  // its last events go to the server's context
  Print("server: stopped");
  return 0;
}

}  // namespace t2r::server
