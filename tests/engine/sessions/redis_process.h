// A redis-server for a test, which ends with it.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "engine/sessions/redis/redis_pool.h"
#include "testing/temporary_directory.h"

namespace t2r {

class RedisProcess {
 public:
  RedisProcess() {
    options_.address.host = "127.0.0.1";
    options_.address.port = std::to_string(FreePort());
    std::vector<std::string> words = {"redis-server",
                                      "--port",
                                      options_.address.port,
                                      "--bind",
                                      "127.0.0.1",
                                      "--save",
                                      "",
                                      "--dir",
                                      directory_.path(),
                                      "--logfile",
                                      "redis.log"};
    std::vector<char*> arguments;
    for (std::string& word : words) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    const int failed =
        posix_spawnp(&process_, "redis-server", nullptr, nullptr, arguments.data(), environ);
    installed_ = failed == 0;
  }
  ~RedisProcess() {
    if (!installed_) return;
    kill(process_, SIGKILL);
    waitpid(process_, nullptr, 0);
  }
  RedisProcess(const RedisProcess&) = delete;
  RedisProcess& operator=(const RedisProcess&) = delete;

  bool installed() const { return installed_; }
  const RedisOptions& options() const { return options_; }
  // Whether it answers, within a minute.
  bool Answers() const {
    const absl::Time deadline = absl::Now() + absl::Seconds(60);
    RedisPool pool(options_);
    while (!pool.Call({"PING"}).ok()) {
      if (absl::Now() > deadline) return false;
    }
    return true;
  }

 private:
  static int FreePort() {
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    auto* const at = reinterpret_cast<sockaddr*>(&address);
    const bool ok = fd >= 0 && bind(fd, at, size) == 0 && getsockname(fd, at, &size) == 0;
    close(fd);
    return ok ? ntohs(address.sin_port) : 0;
  }

  const testing::TemporaryDirectory directory_;
  RedisOptions options_;
  pid_t process_ = 0;
  bool installed_ = false;
};

}  // namespace t2r
