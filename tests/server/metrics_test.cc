#include "server/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <fstream>

namespace t2r::server {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

void Use(Metrics& metrics) {
  metrics.SetModel(8, 1000);
  MemoryPlan plan;
  plan.weight_bytes = 11;
  plan.workspace_bytes = 12;
  plan.slots = 8;
  plan.slot_bytes = 1024;
  plan.pages = 2;
  plan.page_bytes = 7;
  plan.prefix_states = 3;
  plan.free_bytes = 15;
  metrics.SetMemory(plan);
  metrics.OnRefused(absl::StatusCode::kResourceExhausted);
  metrics.OnSubmitted();
  metrics.OnQueue(2, 30);
  metrics.OnSessions(3, 3);
  metrics.OnPrefixes({.queried = 90, .hit = 10, .states = 4, .bytes = 400, .evictions = 0});
  metrics.OnPrefixes({.queried = 120, .hit = 40, .states = 5, .bytes = 500, .evictions = 2});
  metrics.OnFirstToken(absl::Milliseconds(30));
  // One on a bound and one beyond the last.
  const std::vector<StepReport::Gap> gaps = {{absl::Milliseconds(3), 2},
                                             {absl::Milliseconds(5), 1},
                                             {absl::Milliseconds(6), 3},
                                             {absl::Minutes(10), 1}};
  metrics.OnStep(
      {.decode_rows = 3, .prompt_rows = 17, .time = absl::Milliseconds(2), .gaps = gaps});
  FinishEvent event;
  event.reason = FinishReason::kEos;
  event.prompt_tokens = 17;
  event.generated_tokens = 3;
  metrics.OnFinished(event, absl::Milliseconds(40));
}

TEST(MetricsTest, CountsWhatItIsTold) {
  Metrics metrics;
  Use(metrics);
  const std::string text = metrics.Text();
  for (const char* line : {"t2r_num_requests_running 3\n",
                           "t2r_num_requests_waiting 2\n",
                           "t2r_queue_tokens 30\n",
                           "t2r_slots 8\n",
                           "t2r_slots_used 3\n",
                           "t2r_state_bytes 3000\n",
                           "t2r_session_state_bytes 1000\n",
                           "t2r_memory_bytes{kind=\"weights\"} 11\n",
                           "t2r_memory_bytes{kind=\"workspace\"} 12\n",
                           "t2r_memory_bytes{kind=\"states\"} 8192\n",
                           "t2r_memory_bytes{kind=\"kv_cache\"} 14\n",
                           "t2r_memory_bytes{kind=\"prefix_cache\"} 3072\n",
                           "t2r_memory_bytes{kind=\"free\"} 15\n",
                           "t2r_prefix_cache_queries_total 120\n",
                           "t2r_prefix_cache_hits_total 40\n",
                           "t2r_prefix_cache_states 5\n",
                           "t2r_prefix_cache_bytes 500\n",
                           "t2r_prefix_cache_evictions_total 2\n",
                           "t2r_requests_started_total 1\n",
                           "t2r_request_success_total{finished_reason=\"eos\"} 1\n",
                           "t2r_request_success_total{finished_reason=\"cancelled\"} 0\n",
                           "t2r_requests_refused_total{code=\"RESOURCE_EXHAUSTED\"} 1\n",
                           "t2r_prompt_tokens_total 17\n",
                           "t2r_generation_tokens_total 8\n",
                           "t2r_time_to_first_token_seconds_count 1\n",
                           "t2r_inter_token_latency_seconds_bucket{le=\"0.005\"} 3\n",
                           "t2r_inter_token_latency_seconds_bucket{le=\"0.01\"} 6\n",
                           "t2r_inter_token_latency_seconds_count 7\n",
                           "t2r_e2e_request_latency_seconds_count 1\n",
                           "t2r_build_info{version=\"0."}) {
    EXPECT_THAT(text, HasSubstr(line));
  }
}

TEST(MetricsTest, PromtoolFindsNothing) {
  if (std::system("command -v promtool >/dev/null") != 0) {  // NOLINT(concurrency-mt-unsafe)
    GTEST_SKIP() << "promtool (Debian: prometheus) is not installed";
  }
  Metrics metrics;
  Use(metrics);
  const std::string path = ::testing::TempDir() + "t2r_metrics_test.txt";
  std::ofstream(path) << metrics.Text();
  FILE* promtool = popen(("promtool check metrics < " + path + " 2>&1").c_str(), "r");
  ASSERT_NE(promtool, nullptr);
  std::string said;
  for (int c; (c = std::fgetc(promtool)) != EOF;) said.push_back(static_cast<char>(c));
  EXPECT_EQ(pclose(promtool), 0);
  EXPECT_EQ(said, "");
  std::remove(path.c_str());
}

TEST(MetricsTest, RetryDelayFollowsTheQueueWithinBounds) {
  Metrics metrics;
  EXPECT_EQ(metrics.RetryDelay(), absl::Milliseconds(100));
  FinishEvent event;
  metrics.OnFinished(event, absl::ZeroDuration());
  metrics.OnFinished(event, absl::ZeroDuration());
  metrics.OnQueue(int64_t{1} << 60, 0);
  EXPECT_EQ(metrics.RetryDelay(), absl::Seconds(30));
}

}  // namespace
}  // namespace t2r::server
