// When the tokens of one stream arrived.
#ifndef T2R_CLIENT_BENCH_STREAM_TIMING_H_
#define T2R_CLIENT_BENCH_STREAM_TIMING_H_

#include <chrono>
#include <cstdint>
#include <optional>

#include "client/load/samples.h"

namespace t2r::client {

using Clock = std::chrono::steady_clock;

// Durations are in seconds. A Delta that carries m tokens was written by a server that had made
// them one after another since the Delta before it: each counts as 1/m of the time between the two.
// For the tokens of the first Delta there is no such time; they count in the rate of nothing.
class StreamTiming {
 public:
  explicit StreamTiming(Clock::time_point start) : start_(start) {}

  // gaps, if not null, gets the latency of each of these tokens but those of the first call.
  void OnTokens(Clock::time_point now, uint64_t tokens, WeightedSamples* gaps);

  uint64_t tokens() const { return tokens_; }
  std::optional<Clock::time_point> last() const { return last_; }
  std::optional<double> TimeToFirstToken() const;
  // Tokens/s from the first Delta on; nullopt before the second.
  std::optional<double> DecodeRate() const;

 private:
  Clock::time_point start_;
  std::optional<Clock::time_point> first_;
  std::optional<Clock::time_point> last_;
  uint64_t first_tokens_ = 0;
  uint64_t tokens_ = 0;
};

}  // namespace t2r::client

#endif  // T2R_CLIENT_BENCH_STREAM_TIMING_H_
