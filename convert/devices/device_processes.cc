#include "convert/devices/device_processes.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <filesystem>
#include <fstream>
#include <string_view>
#include <system_error>
#include <utility>

#include "convert/error.h"

namespace t2r::convert {
namespace {

namespace fs = std::filesystem;

// RANK:PID:DIRECTORY, PID being the first process.
constexpr const char* kVariable = "T2R_DEVICE_RANK";

std::string LogPath(const std::string& directory, int rank) {
  return directory + "/device-" + std::to_string(rank) + ".log";
}

std::string LastLine(const std::string& path) {
  std::ifstream in(path);
  std::string line, last;
  while (std::getline(in, line)) {
    if (!line.empty()) last = line;
  }
  return last;
}

std::vector<std::string> CommandLine() {
  std::ifstream in("/proc/self/cmdline", std::ios::binary);
  std::vector<std::string> arguments;
  std::string argument;
  while (std::getline(in, argument, '\0')) arguments.push_back(argument);
  return arguments;
}

std::vector<char*> Pointers(std::vector<std::string>* texts) {
  std::vector<char*> pointers;
  for (std::string& text : *texts) pointers.push_back(text.data());
  pointers.push_back(nullptr);
  return pointers;
}

}  // namespace

DeviceRank ThisDeviceRank() {
  const char* text = std::getenv(kVariable);
  if (text == nullptr) return {};
  const std::string_view value(text);
  const size_t first = value.find(':'), second = value.find(':', first + 1);
  DeviceRank result;
  pid_t parent = 0;
  std::from_chars(text, text + value.size(), result.rank);
  if (second == std::string_view::npos || result.rank < 1) {
    throw ConvertError(std::string(kVariable) + " is set to '" + text +
                       "': it is the program's own, unset it");
  }
  std::from_chars(text + first + 1, text + value.size(), parent);
  result.directory = value.substr(second + 1);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) throw ConvertError("the run's first process has ended");
  return result;
}

DeviceProcesses::DeviceProcesses(int devices, std::string directory)
    : exceptions_(std::uncaught_exceptions()), directory_(std::move(directory)) {
  fs::remove_all(directory_);  // of a run that was killed
  fs::create_directories(directory_);
  signal(SIGCHLD, SIG_DFL);  // ignored, as it may be inherited, it would hide how they end
  try {
    for (int rank = 1; rank < devices; ++rank) pids_.push_back(Start(rank));
    for (size_t i = 0; i < pids_.size(); ++i) watchers_.emplace_back([this, i] { Watch(i); });
  } catch (...) {
    Kill();
    for (std::thread& watcher : watchers_) watcher.join();
    throw;
  }
}

DeviceProcesses::~DeviceProcesses() {
  if (std::uncaught_exceptions() > exceptions_) Kill();
  for (std::thread& watcher : watchers_) watcher.join();
  std::error_code ignored;
  fs::remove_all(directory_, ignored);
}

pid_t DeviceProcesses::Start(int rank) const {
  std::vector<std::string> arguments = CommandLine(), environment;
  for (char** entry = environ; *entry != nullptr; ++entry) environment.emplace_back(*entry);
  environment.push_back(std::string(kVariable) + "=" + std::to_string(rank) + ":" +
                        std::to_string(getpid()) + ":" + directory_);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  const std::string log = LogPath(directory_, rank);
  posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, log.c_str(),
                                   O_WRONLY | O_CREAT | O_APPEND, 0600);
  posix_spawn_file_actions_adddup2(&actions, STDERR_FILENO, STDOUT_FILENO);
  // By its own path, since the process is named after it.
  const std::string program = fs::read_symlink("/proc/self/exe");
  pid_t pid = 0;
  const int error = posix_spawn(&pid, program.c_str(), &actions, nullptr,
                                Pointers(&arguments).data(), Pointers(&environment).data());
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) {
    throw ConvertError("--devices: process " + std::to_string(rank) +
                       " cannot be started: " + std::strerror(error));
  }
  return pid;
}

void DeviceProcesses::Kill() {
  ending_ = true;
  for (const pid_t pid : pids_) kill(pid, SIGKILL);
}

void DeviceProcesses::Watch(size_t index) {
  int status = -1;
  while (waitpid(pids_[index], &status, 0) < 0 && errno == EINTR) {
  }
  // The first to fail speaks; the others' ends follow from its own.
  if (status == 0 || ending_.exchange(true)) return;
  const int rank = static_cast<int>(index) + 1;
  std::string how = WIFSIGNALED(status)
                        ? "was ended by signal " + std::to_string(WTERMSIG(status))
                        : "failed with exit code " + std::to_string(WEXITSTATUS(status));
  const std::string last = LastLine(LogPath(directory_, rank));
  if (!last.empty()) how += "; its last line: " + last;
  std::fprintf(stderr, "t2r-convert: the process of device %d %s\n", rank, how.c_str());
  std::error_code ignored;
  fs::remove_all(directory_, ignored);
  // No exception can reach the caller, who may wait for the lost one for ever. The others are
  // killed by the system as this process ends.
  _exit(1);
}

void DeviceProcesses::AwaitFailure() const { std::this_thread::sleep_for(std::chrono::seconds(5)); }

}  // namespace t2r::convert
