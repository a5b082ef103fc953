// The t2r command as a process: exit codes, standard input, Ctrl-C.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/client/testing/fake_server.h"

extern char** environ;

namespace t2r::client {
namespace {

using ::testing::HasSubstr;

// A child with its standard streams on pipes.
class Process {
 public:
  explicit Process(std::vector<std::string> arguments) {
    int in[2];
    int out[2];
    int err[2];
    if (pipe2(in, O_CLOEXEC) + pipe2(out, O_CLOEXEC) + pipe2(err, O_CLOEXEC) != 0) abort();
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, in[0], 0);
    posix_spawn_file_actions_adddup2(&actions, out[1], 1);
    posix_spawn_file_actions_adddup2(&actions, err[1], 2);
    arguments.insert(arguments.begin(), T2R_COMMAND);
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    EXPECT_EQ(posix_spawn(&pid_, T2R_COMMAND, &actions, nullptr, argv.data(), environ), 0);
    posix_spawn_file_actions_destroy(&actions);
    close(in[0]);
    close(out[1]);
    close(err[1]);
    in_ = in[1];
    out_ = out[0];
    err_ = err[0];
  }
  ~Process() {
    CloseIn();
    close(out_);
    close(err_);
  }

  void Write(const std::string& text) const {
    EXPECT_EQ(write(in_, text.data(), text.size()), static_cast<ssize_t>(text.size()));
  }
  void CloseIn() {
    if (in_ >= 0) close(in_);
    in_ = -1;
  }
  // At least one byte; "" at the end.
  std::string ReadSome() const { return ReadSome(out_); }
  std::string ReadError() const {
    std::string all;
    for (std::string part; !(part = ReadSome(err_)).empty();) all += part;
    return all;
  }
  void Signal(int signal) const { kill(pid_, signal); }
  int Wait() {
    CloseIn();
    int status = 0;
    EXPECT_EQ(waitpid(pid_, &status, 0), pid_);
    EXPECT_TRUE(WIFEXITED(status)) << "killed by signal " << WTERMSIG(status);
    return WEXITSTATUS(status);
  }

 private:
  static std::string ReadSome(int fd) {
    char buffer[4096];
    const ssize_t n = read(fd, buffer, sizeof buffer);
    return {buffer, n > 0 ? static_cast<size_t>(n) : 0};
  }

  pid_t pid_ = 0;
  int in_ = -1;
  int out_ = -1;
  int err_ = -1;
};

TEST(T2rTest, StreamsFromStandardInput) {
  FakeServer server;
  Process t2r({"generate", "--server", server.address(), "-n", "4", "-"});
  t2r.Write("hello\n");
  t2r.CloseIn();
  std::string text;
  for (std::string part; !(part = t2r.ReadSome()).empty();) text += part;
  EXPECT_EQ(text, "abcd\n");
  EXPECT_EQ(t2r.Wait(), 0);
  EXPECT_THAT(server.last_request(), HasSubstr("hello\\n"));
}

TEST(T2rTest, UsageErrorsExitWith2) {
  Process t2r({"generate", "x", "--frobnicate"});
  EXPECT_THAT(t2r.ReadError(), HasSubstr("--frobnicate"));
  EXPECT_EQ(t2r.Wait(), 2);
}

TEST(T2rTest, AnUnreachableServerExitsWith1) {
  std::string address;
  {
    FakeServer gone;
    address = gone.address();
  }
  Process t2r({"model", "--server", address});
  EXPECT_THAT(t2r.ReadError(), HasSubstr("Is t2r-server running at " + address));
  EXPECT_EQ(t2r.Wait(), 1);
}

TEST(T2rTest, InterruptCancelsTheStreamAndExitsWith130) {
  for (const int signal : {SIGINT, SIGTERM}) {
    FakeServer server;
    Process t2r({"generate", "--server", server.address(), "--stats", "endless"});
    EXPECT_EQ(t2r.ReadSome(), "a");
    t2r.Signal(signal);
    EXPECT_TRUE(server.WaitForCancelled(1));
    EXPECT_EQ(t2r.Wait(), 130);
    EXPECT_THAT(t2r.ReadError(), HasSubstr("generated 1 tokens"));
  }
}

TEST(T2rTest, InterruptedBenchPrintsWhatItMeasured) {
  FakeServer server;
  Process t2r({"bench", "--server", server.address(), "--sessions", "1,2", "--requests",
               "4000000000", "--output-tokens", "2", "--max-seconds", "100000"});
  while (server.attempts() < 3) usleep(1000);
  t2r.Signal(SIGINT);
  std::string text;
  for (std::string part; !(part = t2r.ReadSome()).empty();) text += part;
  EXPECT_EQ(t2r.Wait(), 130);
  EXPECT_THAT(text, HasSubstr("tokens/s"));
}

}  // namespace
}  // namespace t2r::client
