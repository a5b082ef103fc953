// What a scheduler may be told: the bounds of its queue and of a request, and its clock.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/executor/executor.h"

namespace t2r {

struct SchedulerOptions {
  int64_t max_queue_requests = 1024;                 // waiting for a slot, reservations included
  int64_t max_queue_tokens = 1 << 20;                // their prompts' and sources' tokens
  int64_t max_prompt_chunk = kDefaultPromptChunk;    // prompt tokens a step
  int64_t max_prompt_tokens = 1 << 20;               // of a request, its source too; 0: no limit
  absl::Duration stall_timeout = absl::Seconds(60);  // see StallMeter; zero: never
  int64_t min_read_rate = 4096;                      // bytes a second of a lagging client; 0: any
  bool prefix_cache_shared = false;  // states of prompts' beginnings serve every tenant
  std::vector<int32_t> eos_token_ids;
  // Bounds of one request.
  int max_top_logprobs = 20;  // counts as kMaxAlternatives where it is more
  int max_stop_strings = 16;
  int max_stop_string_bytes = 256;  // of each
  int max_stop_token_ids = 128;
  int max_logit_bias = 1024;  // entries
  int max_beams = 16;         // of a request; never more than there are slots
  // Told once, on the engine thread, that the device has failed (health() as it is from then on),
  // before any request ends for it; null: nobody.
  std::function<void(const absl::Status& health)> on_failure;
  // Told, on the engine thread, of each request that ends by a fault (kError) while the device goes
  // on; must not block. Null: nobody.
  std::function<void(const absl::Status& fault)> on_fault;
  // Time for deadlines, stalls and durations; null: absl::Now. Called from any thread. After moving
  // a clock of their own, tests call Wake.
  std::function<absl::Time()> clock;
};

}  // namespace t2r
