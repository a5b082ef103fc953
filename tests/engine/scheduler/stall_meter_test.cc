#include "engine/scheduler/stall_meter.h"

#include <gtest/gtest.h>

namespace t2r {
namespace {

const absl::Time kStart = absl::FromUnixSeconds(1000);
absl::Time At(double seconds) { return kStart + absl::Seconds(seconds); }

TEST(StallMeterTest, ALimitOfZeroNeverStalls) {
  StallMeter meter(absl::ZeroDuration(), 1);
  meter.Update(false, 0, kStart);
  EXPECT_EQ(meter.deadline(), absl::InfiniteFuture());
}

TEST(StallMeterTest, CountsFromTheFirstTimeWithoutRoom) {
  StallMeter meter(absl::Seconds(10));
  meter.Update(true, 0, kStart);
  EXPECT_EQ(meter.deadline(), absl::InfiniteFuture());
  meter.Update(false, 0, At(3));
  meter.Update(false, 0, At(8));
  EXPECT_EQ(meter.deadline(), At(13));
}

TEST(StallMeterTest, WithoutARateAnyProgressWillDo) {
  StallMeter meter(absl::Seconds(10));
  meter.Update(false, 0, kStart);
  meter.Update(false, 1, At(9));
  EXPECT_EQ(meter.deadline(), At(19));
  meter.Update(true, 1, At(18));
  meter.Update(false, 1, At(18));
  EXPECT_EQ(meter.deadline(), At(28));
}

// 7 kB every 2 s against 4,096 bytes a second loses 0.29 s each time.
TEST(StallMeterTest, ADripBelowTheRateUsesTheLimitUp) {
  StallMeter meter(absl::Seconds(3), 4096);
  meter.Update(false, 0, kStart);
  int drips = 0;
  int64_t taken = 0;
  absl::Time now = kStart;
  while (now + absl::Seconds(2) < meter.deadline()) {
    now += absl::Seconds(2);
    taken += 7000;
    meter.Update(true, taken, now);
    meter.Update(false, taken, now);
    ASSERT_LT(++drips, 20);
  }
  EXPECT_GE(drips, 3);
}

TEST(StallMeterTest, AtTheRateItGoesOnForEver) {
  StallMeter meter(absl::Seconds(3), 1000);
  for (int i = 0; i < 1000; ++i) {
    meter.Update(false, i * 2000, At(2 * i));
    EXPECT_GT(meter.deadline(), At(2 * i + 0.9));
  }
}

TEST(StallMeterTest, CreditNeverPassesTheLimit) {
  StallMeter meter(absl::Seconds(3), 1000);
  meter.Update(true, 1'000'000'000, kStart);
  meter.Update(false, 1'000'000'000, At(1));
  EXPECT_EQ(meter.deadline(), At(4));
}

}  // namespace
}  // namespace t2r
