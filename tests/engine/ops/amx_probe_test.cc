// Whether tiles may be used: what is asked, in which order, and what a fault leaves behind.
#include <gtest/gtest.h>

#include <csignal>
#include <string>

#include "engine/ops/cpu/amx/probe.h"

namespace t2r::testing {
namespace {

constexpr uint32_t kBfloat16 = 1U << 22;
constexpr uint32_t kTile = 1U << 24;
constexpr uint32_t kInt8 = 1U << 25;
constexpr uint64_t kStates = 3U << 17;

// Answers as told, and writes down what was asked.
class Told : public AmxMachine {
 public:
  uint32_t FeatureBits() override { return asked += 'f', features; }
  uint64_t SavedStates() override { return asked += 's', states; }
  bool AskPermission() override { return asked += 'p', permitted; }
  bool TilesRun() override { return asked += 't', run; }

  uint32_t features = kTile | kInt8 | kBfloat16;
  uint64_t states = kStates | 0xe7;
  bool permitted = true;
  bool run = true;
  std::string asked;
};

void ExpectNone(Told told, const std::string& asked) {
  const AmxSupport found = ProbeAmx(told);
  EXPECT_FALSE(found.int8);
  EXPECT_FALSE(found.bfloat16);
  EXPECT_EQ(told.asked, asked);
}

TEST(AmxProbeTest, EachYesLeadsToTheNextQuestion) {
  Told all;
  const AmxSupport found = ProbeAmx(all);
  EXPECT_TRUE(found.int8);
  EXPECT_TRUE(found.bfloat16);
  EXPECT_EQ(all.asked, "fspt");
}

TEST(AmxProbeTest, EachNoEndsIt) {
  Told told;
  told.features = kInt8 | kBfloat16;  // no tiles
  ExpectNone(told, "f");
  told.features = kTile;  // and nothing to do with them
  ExpectNone(told, "f");
  told = {};
  for (const uint64_t missing : {uint64_t{1} << 17, uint64_t{1} << 18, ~uint64_t{0}}) {
    told.states = (kStates | 0xe7) & ~missing;
    ExpectNone(told, "fs");
  }
  told = {};
  told.permitted = false;
  ExpectNone(told, "fsp");
  told = {};
  told.run = false;  // cpuid says that there are tiles, and the first one faults
  ExpectNone(told, "fspt");
}

TEST(AmxProbeTest, AKindOfProductMayBeMissing) {
  Told told;
  told.features = kTile | kInt8;
  EXPECT_TRUE(ProbeAmx(told).int8);
  EXPECT_FALSE(ProbeAmx(told).bfloat16);
  told.features = kTile | kBfloat16;
  EXPECT_FALSE(ProbeAmx(told).int8);
  EXPECT_TRUE(ProbeAmx(told).bfloat16);
}

void Unused(int /*signal*/) {}

// On a machine without tiles this is the fault itself: it is caught, and so is the next one.
TEST(AmxProbeTest, AFaultIsCaughtAndTheHandlersAreAsBefore) {
  struct sigaction mine {};
  mine.sa_handler = Unused;
  struct sigaction ill {};
  struct sigaction segv {};
  ASSERT_EQ(sigaction(SIGILL, &mine, &ill), 0);
  ASSERT_EQ(sigaction(SIGSEGV, &mine, &segv), 0);
  AmxMachine& machine = ThisMachine();
  const bool usable = Amx().int8 || Amx().bfloat16;
  for (int i = 0; i < 2; ++i) {
    const bool ran = machine.TilesRun();
    if (usable) {
      EXPECT_TRUE(ran);
    }
    if ((machine.FeatureBits() & kTile) == 0) {
      EXPECT_FALSE(ran);
    }
  }
  struct sigaction now {};
  for (const auto& [signal, before] : {std::pair{SIGILL, ill}, std::pair{SIGSEGV, segv}}) {
    ASSERT_EQ(sigaction(signal, &before, &now), 0);
    EXPECT_EQ(now.sa_handler, &Unused) << signal;
  }
}

}  // namespace
}  // namespace t2r::testing
