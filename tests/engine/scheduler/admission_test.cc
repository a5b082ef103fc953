#include "engine/scheduler/admission.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "tests/engine/scheduler/testing/fakes.h"

namespace t2r {
namespace {

using ::testing::HasSubstr;

TEST(AdmissionTest, RequestLimit) {
  Admission admission(2, 100, nullptr);
  EXPECT_TRUE(admission.Reserve(1).ok());
  EXPECT_TRUE(admission.Reserve(1).ok());
  const absl::Status full = admission.Reserve(1);
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(full.message()), HasSubstr("max_queue_requests"));
  EXPECT_THAT(std::string(full.message()), HasSubstr("limit is 2"));
  admission.Release(1);
  EXPECT_TRUE(admission.Reserve(1).ok());
}

TEST(AdmissionTest, TokenLimit) {
  Admission admission(10, 100, nullptr);
  EXPECT_TRUE(admission.Reserve(30).ok());
  EXPECT_TRUE(admission.Reserve(30).ok());
  const absl::Status full = admission.Reserve(41);
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(full.message()), HasSubstr("max_queue_tokens"));
  EXPECT_TRUE(admission.Reserve(40).ok());
}

TEST(AdmissionTest, AnEmptyQueueTakesAnything) {
  Admission admission(1, 100, nullptr);
  EXPECT_TRUE(admission.Reserve(1'000'000).ok());
  EXPECT_FALSE(admission.Reserve(0).ok());
  admission.Release(1'000'000);
  EXPECT_TRUE(admission.Reserve(100).ok());
}

TEST(AdmissionTest, NoRequestFillsTheQueueAlone) {
  FakeObserver observer;
  Admission admission(10, 100, &observer);
  EXPECT_TRUE(admission.Reserve(4'000'000).ok());
  EXPECT_EQ(observer.counts().queue_tokens, 50);
  EXPECT_TRUE(admission.Reserve(50).ok());
  EXPECT_FALSE(admission.Reserve(1).ok());
  admission.Correct(4'000'000, 3'000'000);
  EXPECT_EQ(observer.counts().queue_tokens, 100);
  admission.Correct(3'000'000, 20);
  admission.Release(20);
  admission.Release(50);
  EXPECT_EQ(observer.counts().queue_tokens, 0);
}

TEST(AdmissionTest, CorrectionCounts) {
  FakeObserver observer;
  Admission admission(10, 100, &observer);
  EXPECT_TRUE(admission.Reserve(45).ok());
  EXPECT_TRUE(admission.Reserve(45).ok());
  EXPECT_FALSE(admission.Reserve(20).ok());
  admission.Correct(45, 30);
  EXPECT_EQ(observer.counts().queue_tokens, 75);
  EXPECT_TRUE(admission.Reserve(25).ok());
  EXPECT_EQ(observer.counts().queue_requests, 3);
  EXPECT_EQ(observer.counts().queue_tokens, 100);
  admission.Release(30);
  admission.Release(45);
  admission.Release(25);
  EXPECT_EQ(observer.counts().queue_requests, 0);
  EXPECT_EQ(observer.counts().queue_tokens, 0);
}

TEST(AdmissionTest, TenantsHaveTheirParts) {
  Admission admission(8, 100, nullptr);
  EXPECT_TRUE(admission.Reserve(20, "a", 0.25).ok());
  const absl::Status tokens = admission.Reserve(6, "a", 0.25);
  EXPECT_EQ(tokens.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(
      std::string(tokens.message()),
      HasSubstr("tenant 'a' has 20 prompt tokens in the queue and this request counts 6, its "
                "limit is 25 (queue_share 0.25 of max_queue_tokens)"));
  EXPECT_TRUE(admission.Reserve(5, "a", 0.25).ok());
  const absl::Status requests = admission.Reserve(0, "a", 0.25);
  EXPECT_THAT(
      std::string(requests.message()),
      HasSubstr("tenant 'a' has 2 requests in the queue, its limit is 2 (queue_share 0.25 of "
                "max_queue_requests)"));
  EXPECT_TRUE(admission.Reserve(50, "b", 0.25).ok());  // nothing of b waits
  EXPECT_FALSE(admission.Reserve(1, "b", 0.25).ok());
  admission.Release(20, "a");
  EXPECT_TRUE(admission.Reserve(20, "a", 0.25).ok());
  // All together are bounded too.
  EXPECT_FALSE(admission.Reserve(26, "c").ok());
  EXPECT_TRUE(admission.Reserve(25, "c").ok());
  admission.Correct(25, 1, "c");
  EXPECT_TRUE(admission.Reserve(24).ok());
}

}  // namespace
}  // namespace t2r
