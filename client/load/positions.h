// Decode time a token at chosen positions of one long session.
#ifndef T2R_CLIENT_BENCH_POSITIONS_H_
#define T2R_CLIENT_BENCH_POSITIONS_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "client/load/samples.h"

namespace t2r::client {

// A Delta's arrival: the tokens of prompt and output so far, and when.
struct Arrival {
  uint64_t position = 0;
  double seconds = 0;
};

struct PositionResult {
  uint64_t at = 0;
  uint64_t tokens = 0;  // measured
  double mean = 0;      // seconds a token over the window
  double median = 0;    // of the single tokens' times
};

// Over the Deltas that lead from position at - window/2 to at + window/2 (from the first Delta on,
// where the session starts later). arrivals ascend. nullopt: the session did not get that far.
std::optional<PositionResult> MeasurePosition(const std::vector<Arrival>& arrivals, uint64_t at,
                                              uint32_t window);

}  // namespace t2r::client

#endif  // T2R_CLIENT_BENCH_POSITIONS_H_
