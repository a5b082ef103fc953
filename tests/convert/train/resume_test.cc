// A run that is killed and started again ends with the bytes of a run that was not.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "testing/temporary_directory.h"

namespace t2r::convert {
namespace {

using t2r::testing::TemporaryDirectory;

std::string Bytes(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream bytes;
  bytes << in.rdbuf();
  return bytes.str();
}

struct Outcome {
  std::string log;                // stderr
  int status = 0;                 // as waitpid gives it
  std::string environment, name;  // of the process, when it was killed
};

// Runs t2r-convert; kills it, hard, once its log holds `kill_at` (empty: lets it finish).
Outcome RunConvert(const std::vector<std::string>& arguments, const std::string& kill_at) {
  int pipe_ends[2];
  if (pipe(pipe_ends) != 0) throw std::runtime_error("pipe failed");
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
    if (!kill_at.empty() && outcome.log.find(kill_at) != std::string::npos) {
      const std::string process = "/proc/" + std::to_string(child);
      outcome.environment = Bytes(process + "/environ");
      outcome.name = Bytes(process + "/comm");
      kill(child, SIGKILL);
    }
  }
  std::fclose(log);
  waitpid(child, &outcome.status, 0);
  return outcome;
}

class ResumeTest : public ::testing::Test {
 protected:
  ResumeTest() {
    std::string text;
    for (int i = 0; i < 50; ++i) {
      for (int t = 0; t < 20 + i; ++t) text += std::to_string((i * t + 3 * t) % 23) + " ";
      text += "\n--\n";
    }
    data_ = directory_.Write("data", text);
  }

  std::vector<std::string> Pretrain(const std::string& out, const std::string& seed) const {
    return {"pretrain",
            "--train",
            data_,
            "--valid",
            data_,
            "--ids",
            "--separator",
            "--",
            "--out",
            out,
            "--vocab-size",
            "23",
            "--hidden",
            "16",
            "--intermediate",
            "24",
            "--layers",
            "2",
            "--heads",
            "2",
            "--steps",
            "120",
            "--window",
            "32",
            "--batch",
            "128",
            "--threads",
            "2",
            "--log-every",
            "1",
            "--checkpoint-every",
            "10",
            "--seed",
            seed};
  }
  std::vector<std::string> Finetune(const std::string& model, const std::string& out) const {
    return {"finetune",
            "--model",
            model,
            "--train",
            data_,
            "--valid",
            data_,
            "--ids",
            "--separator",
            "--",
            "--out",
            out,
            "--feature-map",
            "t2r",
            "--feature-size",
            "8",
            "--stage",
            "transfer,finetune",
            "--transfer-share",
            "0.3",
            "--lora-rank",
            "4",
            "--distill",
            "0.5",
            "--steps",
            "100",
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
  }

  // Runs to the end in one go, and again with a kill at each of `kills`; the outputs are equal.
  void ExpectSame(const std::function<std::vector<std::string>(const std::string&)>& arguments,
                  const std::vector<std::string>& kills) {
    const Outcome whole = RunConvert(arguments(directory_ / "whole"), "");
    ASSERT_EQ(whole.status, 0) << whole.log;
    for (const std::string& kill_at : kills) {
      const Outcome killed = RunConvert(arguments(directory_ / "broken"), kill_at);
      ASSERT_TRUE(WIFSIGNALED(killed.status)) << killed.log;
      ASSERT_FALSE(std::filesystem::exists(directory_ / "broken"));
    }
    const Outcome resumed = RunConvert(arguments(directory_ / "broken"), "");
    ASSERT_EQ(resumed.status, 0) << resumed.log;
    EXPECT_THAT(resumed.log, ::testing::HasSubstr("resumed at step "));
    EXPECT_EQ(Bytes(directory_ / "whole/model.safetensors"),
              Bytes(directory_ / "broken/model.safetensors"));
    const auto last = [](const std::string& log) {
      const size_t at = log.rfind("after training: ");
      return log.substr(at, log.find('\n', at) - at);
    };
    EXPECT_EQ(last(whole.log), last(resumed.log));
  }

  TemporaryDirectory directory_;
  std::string data_;
};

TEST_F(ResumeTest, PretrainingKilledTwiceEndsWithTheSameBytes) {
  ExpectSame([&](const std::string& out) { return Pretrain(out, "5"); }, {"step 23 ", "step 57 "});
}

// Killed in the attention transfer, and again in LoRA's training after it.
TEST_F(ResumeTest, FinetuningKilledTwiceEndsWithTheSameBytes) {
  const std::string parent = directory_ / "parent";
  ASSERT_EQ(RunConvert(Pretrain(parent, "5"), "").status, 0);
  ExpectSame([&](const std::string& out) { return Finetune(parent, out); },
             {"step 33 ", "step 63 "});
}

TEST_F(ResumeTest, ACheckpointOfAnotherRunIsRefused) {
  const std::string out = directory_ / "out";
  RunConvert(Pretrain(out, "5"), "step 23 ");
  const Outcome other = RunConvert(Pretrain(out, "6"), "");
  EXPECT_EQ(WEXITSTATUS(other.status), 1);
  EXPECT_THAT(other.log, ::testing::HasSubstr("belongs to a run with other flags"));
  // A damaged one too.
  std::ofstream(out + ".work/checkpoint.pt", std::ios::binary) << "not a checkpoint";
  const Outcome damaged = RunConvert(Pretrain(out, "5"), "");
  EXPECT_EQ(WEXITSTATUS(damaged.status), 1);
  EXPECT_THAT(damaged.log, ::testing::HasSubstr("not a checkpoint"));
}

TEST_F(ResumeTest, ThreadsThatWaitSleep) {
  unsetenv("OMP_WAIT_POLICY");
  const Outcome run = RunConvert(Pretrain(directory_ / "out", "5"), "step 3 ");
  // Not by a matcher, which would print what else the environment holds.
  for (const char* variable : {"OMP_WAIT_POLICY=passive", "OPENBLAS_THREAD_TIMEOUT=4"}) {
    EXPECT_NE(run.environment.find(variable), std::string::npos) << variable;
  }
  EXPECT_EQ(run.name, "t2r-convert\n");
}

TEST_F(ResumeTest, AWrongFlagIsToldAtOnce) {
  EXPECT_EQ(WEXITSTATUS(RunConvert({"pretrain", "--no-such-flag"}, "").status), 2);
}

}  // namespace
}  // namespace t2r::convert
