// A load on a server: random prompts in a closed loop, and what came of them.
#ifndef T2R_CLIENT_LOAD_LOAD_H_
#define T2R_CLIENT_LOAD_LOAD_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <string>

#include "client/client.h"
#include "client/load/samples.h"

namespace t2r::client {

struct LoadOptions {
  uint32_t sessions = 1;
  uint32_t requests = 1;  // over all sessions
  uint32_t prompt_tokens = 1;
  uint32_t output_tokens = 1;
  uint32_t vocab_size = 1;  // prompts are uniform over it
  uint64_t seed = 0;        // of prompts and sampling: the same seed, the same requests
  absl::Duration max_time = absl::InfiniteDuration();  // then running requests are cancelled
  CallOptions call;                                    // of each request
};

struct LoadResult {
  uint32_t sessions = 0;
  uint32_t completed = 0;                  // requests that ran to their end
  uint32_t cut = 0;                        // requests cancelled at max_time or on stop
  uint64_t tokens = 0;                     // received, those of cut and failed requests included
  uint64_t messages = 0;                   // that they came in
  double seconds = 0;                      // from the start to the last token received
  WeightedSamples time_to_first_token;     // seconds, from the request's start, retries included
  WeightedSamples inter_token;             // seconds, see StreamTiming
  std::map<std::string, uint32_t> errors;  // the failed requests by "CODE: message"

  double TokensPerSecond() const;
  uint32_t ErrorCount() const;
};

struct LoadProgress {
  uint32_t ended = 0;  // requests
  uint64_t tokens = 0;
  double seconds = 0;
};

// The index-th request of a load, but for max_tokens: random ids and a sampling seed, goes on after
// end-of-sequence tokens.
GenerateRequest MakeLoadRequest(uint64_t seed, uint32_t index, uint32_t prompt_tokens,
                                uint32_t vocab_size);

// Blocks. on_progress runs on the calling thread a few times a second. stop ends the load early.
LoadResult RunLoad(Client& client, const LoadOptions& options, const std::atomic<bool>& stop,
                   const std::function<void(const LoadProgress&)>& on_progress);

}  // namespace t2r::client

#endif  // T2R_CLIENT_LOAD_LOAD_H_
