// A run over several processes (--devices), joined by Gloo.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "tests/convert/train/convert_runs.h"

namespace t2r::convert {
namespace {

using ::testing::HasSubstr;

class DevicesTest : public ConvertRuns {
 protected:
  void SetUp() override {
#if !defined(T2R_GLOO)
    GTEST_SKIP() << "this LibTorch comes without Gloo's headers: no --devices on the CPU";
#endif
  }
  // `arguments` over so many processes of so many threads. The gradient is not clipped: its norm is
  // summed in another order with other threads.
  static std::vector<std::string> OverDevices(std::vector<std::string> arguments, int devices,
                                              int threads) {
    arguments = With(std::move(arguments), "--threads", std::to_string(threads));
    for (const char* more : {"--clip", "0", "--devices"}) arguments.emplace_back(more);
    arguments.push_back(std::to_string(devices));
    return arguments;
  }
  std::string Model(const std::string& name) const {
    return Bytes(directory_ / (name + "/model.safetensors"));
  }
};

// Two processes compute the shares that two threads do, and a sum of two has one order.
TEST_F(DevicesTest, TwoProcessesTrainAsTwoThreads) {
  const Outcome threads = RunConvert(OverDevices(Pretrain(directory_ / "threads", "5"), 1, 2));
  ASSERT_EQ(threads.status, 0) << threads.log;
  const Outcome processes = RunConvert(OverDevices(Pretrain(directory_ / "processes", "5"), 2, 1));
  ASSERT_EQ(processes.status, 0) << processes.log;
  EXPECT_EQ(Model("processes"), Model("threads"));
  EXPECT_FALSE(std::filesystem::exists(directory_ / "processes.work"));
}

// Killed in the attention transfer, and again in LoRA's training after it.
TEST_F(DevicesTest, ARunOfTwoThatIsKilledGoesOnToTheSameBytes) {
  const std::string parent = directory_ / "parent";
  ASSERT_EQ(RunConvert(Pretrain(parent, "5")).status, 0);
  const auto finetune = [&](const std::string& out, int devices, int threads) {
    return OverDevices(Finetune(parent, directory_ / out), devices, threads);
  };
  const Outcome threads = RunConvert(finetune("threads", 1, 2));
  ASSERT_EQ(threads.status, 0) << threads.log;
  for (const char* kill_at : {"step 33 ", "step 63 "}) {
    const Outcome killed = RunConvert(finetune("processes", 2, 1), kill_at);
    ASSERT_TRUE(WIFSIGNALED(killed.status)) << killed.log;
  }
  const Outcome resumed = RunConvert(finetune("processes", 2, 1));
  ASSERT_EQ(resumed.status, 0) << resumed.log;
  EXPECT_THAT(resumed.log, HasSubstr("resumed at step "));
  EXPECT_EQ(Model("processes"), Model("threads"));
}

// RunConvert returns once nobody holds the log: the third process has ended too.
TEST_F(DevicesTest, AProcessThatEndsEndsTheRunAndIsNamed) {
  const std::string out = directory_ / "out";
  // It does not end by itself.
  const std::vector<std::string> arguments =
      With(OverDevices(Pretrain(out, "5"), 3, 1), "--steps", "1000000");
  const Outcome run = RunConvert(arguments, "step 23 ", /*kill_other=*/true);
  ASSERT_TRUE(WIFEXITED(run.status)) << run.log;
  EXPECT_EQ(WEXITSTATUS(run.status), 1);
  EXPECT_THAT(run.log, HasSubstr("the process of device 1 was ended by signal 9"));
  EXPECT_TRUE(std::filesystem::exists(out + ".work/checkpoint.pt"));
}

// What only the first process does reaches the others: the text that the parent writes, the layers
// it chooses, the clock of a budget in minutes.
TEST_F(DevicesTest, TheOthersFollowTheFirst) {
  const std::string parent = directory_ / "parent";
  ASSERT_EQ(RunConvert(Pretrain(parent, "5")).status, 0);
  // Without a tokenizer pretrain names no token that a text begins with.
  std::string config = Bytes(parent + "/config.json");
  config.insert(config.find('{') + 1, "\"bos_token_id\": 1,");
  std::ofstream(parent + "/config.json", std::ios::trunc) << config;
  const std::vector<std::string> arguments =
      Over("finetune", directory_ / "out",
           {"--model", parent, "--devices", "2", "--keep-full", "auto:1", "--minutes", "0.01",
            "--stage", "transfer,finetune", "--feature-map", "t2r", "--feature-size", "8"});
  const Outcome run = RunConvert(With(With(arguments, "--threads", "1"), "--train", "self:400"));
  ASSERT_EQ(run.status, 0) << run.log;
  EXPECT_THAT(run.log, HasSubstr("layers that keep softmax: "));
  EXPECT_THAT(run.log, HasSubstr("wrote "));
}

TEST_F(DevicesTest, WhatCannotBeIsTold) {
  std::vector<std::string> arguments = OverDevices(Pretrain(directory_ / "out", "5"), 8, 1);
  const Outcome idle = RunConvert(arguments);
  EXPECT_EQ(WEXITSTATUS(idle.status), 1);
  EXPECT_THAT(idle.log, HasSubstr("--batch must be at least --devices times --window, 256"));
  arguments.insert(arguments.end(), {"--device", "cuda"});
  const Outcome cuda = RunConvert(arguments);
  EXPECT_EQ(WEXITSTATUS(cuda.status), 1);
  EXPECT_THAT(cuda.log, HasSubstr("--device"));
}

}  // namespace
}  // namespace t2r::convert
