#include "server/crash_lines.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <csignal>
#include <cstring>
#include <exception>
#include <system_error>

namespace t2r::server {
namespace {

// Written by whoever gets the flag, read by a handler that ends the process.
std::array<char, 640> last_words = {};
std::atomic_flag last_words_busy = ATOMIC_FLAG_INIT;

// Only what a signal handler may call.
void Say(const char* text) {
  pollfd ready = {STDERR_FILENO, POLLOUT, 0};
  if (poll(&ready, 1, 0) != 1) return;  // nobody reads
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, text, std::strlen(text));
}

void OnAbort(int /*signal*/) {
  Say(last_words[0] != '\0' ? last_words.data() : "t2r-server: aborted");
  Say("\n");
  _exit(1);
}

void OnBusError(int /*signal*/) {
  Say("t2r-server: a model file was truncated, or its disk failed, while it was being read (bus "
      "error): replace model files by renaming new ones into their place\n");
  _exit(1);
}

void OnTerminate() {
  const char* why = "an exception that nobody caught";
  try {
    if (const std::exception_ptr error = std::current_exception()) std::rethrow_exception(error);
  } catch (const std::bad_alloc&) {
    why = "there is not enough memory";
  } catch (const std::system_error& error) {
    Say("t2r-server: the system refuses a thread or another resource: ");
    Say(error.code().message().c_str());
    Say("\n");
    _exit(1);
  } catch (const std::exception& error) {
    Say("t2r-server: ");
    Say(error.what());
    Say("\n");
    _exit(1);
  } catch (...) {
  }
  Say("t2r-server: ");
  Say(why);
  Say("\n");
  _exit(1);
}

void Handle(int number, void (*handler)(int)) {
  struct sigaction action = {};
  action.sa_handler = handler;
  sigemptyset(&action.sa_mask);
  sigaction(number, &action, nullptr);
}

}  // namespace

void InstallCrashLines() {
  std::set_terminate(OnTerminate);
  Handle(SIGABRT, OnAbort);
  Handle(SIGBUS, OnBusError);
}

void KeepLastWords(std::string_view line) {
  if (last_words_busy.test_and_set(std::memory_order_acquire)) return;
  const size_t size = std::min(line.size(), last_words.size() - 1);
  std::copy_n(line.data(), size, last_words.data());
  last_words[size] = '\0';
  last_words_busy.clear(std::memory_order_release);
}

}  // namespace t2r::server
