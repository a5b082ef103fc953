// A run that is killed and started again ends with the bytes of a run that was not.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "tests/convert/train/convert_runs.h"

namespace t2r::convert {
namespace {

class ResumeTest : public ConvertRuns {
 protected:
  // Runs to the end in one go, and again with a kill at each of `kills`; the outputs are equal.
  void ExpectSame(const std::function<std::vector<std::string>(const std::string&)>& arguments,
                  const std::vector<std::string>& kills) {
    const Outcome whole = RunConvert(arguments(directory_ / "whole"));
    ASSERT_EQ(whole.status, 0) << whole.log;
    for (const std::string& kill_at : kills) {
      const Outcome killed = RunConvert(arguments(directory_ / "broken"), kill_at);
      ASSERT_TRUE(WIFSIGNALED(killed.status)) << killed.log;
      ASSERT_FALSE(std::filesystem::exists(directory_ / "broken"));
    }
    const Outcome resumed = RunConvert(arguments(directory_ / "broken"));
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
};

TEST_F(ResumeTest, PretrainingKilledTwiceEndsWithTheSameBytes) {
  ExpectSame([&](const std::string& out) { return Pretrain(out, "5"); }, {"step 23 ", "step 57 "});
}

// Killed in the attention transfer, and again in LoRA's training after it.
TEST_F(ResumeTest, FinetuningKilledTwiceEndsWithTheSameBytes) {
  const std::string parent = directory_ / "parent";
  ASSERT_EQ(RunConvert(Pretrain(parent, "5")).status, 0);
  ExpectSame([&](const std::string& out) { return Finetune(parent, out); },
             {"step 33 ", "step 63 "});
}

TEST_F(ResumeTest, ACheckpointOfAnotherRunIsRefused) {
  const std::string out = directory_ / "out";
  RunConvert(Pretrain(out, "5"), "step 23 ");
  const Outcome other = RunConvert(Pretrain(out, "6"));
  EXPECT_EQ(WEXITSTATUS(other.status), 1);
  EXPECT_THAT(other.log, ::testing::HasSubstr("belongs to a run with other flags"));
  // A damaged one too.
  std::ofstream(out + ".work/checkpoint.pt", std::ios::binary) << "not a checkpoint";
  const Outcome damaged = RunConvert(Pretrain(out, "5"));
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
  EXPECT_EQ(WEXITSTATUS(RunConvert({"pretrain", "--no-such-flag"}).status), 2);
}

}  // namespace
}  // namespace t2r::convert
