// t2r-convert run as a user runs it, on data of a moment.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "testing/temporary_directory.h"

namespace t2r::convert {

inline std::string Bytes(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream bytes;
  bytes << in.rdbuf();
  return bytes.str();
}

// The least process id among what `parent` has started; 0: there is none.
inline pid_t FirstChildOf(pid_t parent) {
  pid_t first = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    // "PID (NAME) STATE PARENT ..."; of a process that has ended meanwhile nothing.
    const std::string stat = Bytes(entry.path().string() + "/stat");
    const size_t name_end = stat.rfind(')');
    if (name_end == std::string::npos) continue;
    std::istringstream fields(stat.substr(name_end + 1));
    std::string state;
    pid_t its_parent = 0;
    if (!(fields >> state >> its_parent) || its_parent != parent) continue;
    const pid_t pid = std::atoi(entry.path().filename().c_str());
    if (first == 0 || pid < first) first = pid;
  }
  return first;
}

struct Outcome {
  std::string log;                // stderr
  int status = 0;                 // as waitpid gives it
  std::string environment, name;  // of the process, when it was killed
};

// Runs t2r-convert; kills it, hard, once its log holds `kill_at` (empty: lets it finish), or, where
// `kill_other`, one of the processes that it started. Returns once all of them have ended.
inline Outcome RunConvert(const std::vector<std::string>& arguments,
                          const std::string& kill_at = "", bool kill_other = false) {
  int pipe_ends[2];
  if (pipe(pipe_ends) != 0) throw std::runtime_error("pipe failed");
  bool killed = false;
  const pid_t child = fork();
  if (child == 0) {
    dup2(pipe_ends[1], STDERR_FILENO);
    close(pipe_ends[0]);
    std::vector<char*> argv;
    std::string program = T2R_CONVERT_BINARY;
    argv.push_back(program.data());
    std::vector<std::string> copies = arguments;
    for (auto& argument : copies) argv.push_back(argument.data());
    argv.push_back(nullptr);
    execv(program.c_str(), argv.data());
    _exit(127);
  }
  close(pipe_ends[1]);
  Outcome outcome;
  std::FILE* log = fdopen(pipe_ends[0], "r");
  char line[512];
  while (std::fgets(line, sizeof(line), log) != nullptr) {
    outcome.log += line;
    if (!killed && !kill_at.empty() && outcome.log.find(kill_at) != std::string::npos) {
      const std::string process = "/proc/" + std::to_string(child);
      outcome.environment = Bytes(process + "/environ");
      outcome.name = Bytes(process + "/comm");
      killed = true;
      pid_t victim = child;
      if (kill_other && (victim = FirstChildOf(child)) == 0) {
        ADD_FAILURE() << "the process has started no other";
        victim = child;
      }
      kill(victim, SIGKILL);
    }
  }
  std::fclose(log);
  waitpid(child, &outcome.status, 0);
  return outcome;
}

// A directory with training data in it, and the command lines of runs over them.
class ConvertRuns : public ::testing::Test {
 protected:
  ConvertRuns() {
    std::string text;
    for (int i = 0; i < 50; ++i) {
      for (int t = 0; t < 20 + i; ++t) text += std::to_string((i * t + 3 * t) % 23) + " ";
      text += "\n--\n";
    }
    data_ = directory_.Write("data", text);
  }

  // A run of `command` over the data, and what `more` says of it.
  std::vector<std::string> Over(const std::string& command, const std::string& out,
                                const std::vector<std::string>& more) const {
    std::vector<std::string> arguments = {command,
                                          "--train",
                                          data_,
                                          "--valid",
                                          data_,
                                          "--ids",
                                          "--separator",
                                          "--",
                                          "--out",
                                          out,
                                          "--window",
                                          "32",
                                          "--batch",
                                          "128",
                                          "--threads",
                                          "2",
                                          "--log-every",
                                          "1",
                                          "--checkpoint-every",
                                          "10"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  }
  std::vector<std::string> Pretrain(const std::string& out, const std::string& seed) const {
    return Over("pretrain", out,
                {"--vocab-size", "23", "--hidden", "16", "--intermediate", "24", "--layers", "2",
                 "--heads", "2", "--steps", "120", "--seed", seed});
  }
  std::vector<std::string> Finetune(const std::string& model, const std::string& out) const {
    return Over("finetune", out,
                {"--model", model, "--feature-map", "t2r", "--feature-size", "8", "--stage",
                 "transfer,finetune", "--transfer-share", "0.3", "--lora-rank", "4", "--distill",
                 "0.5", "--steps", "100"});
  }
  // `arguments` with another value of a flag that they have.
  static std::vector<std::string> With(std::vector<std::string> arguments, const std::string& flag,
                                       const std::string& value) {
    *std::next(std::ranges::find(arguments, flag)) = value;
    return arguments;
  }

  testing::TemporaryDirectory directory_;
  std::string data_;
};

}  // namespace t2r::convert
