#include "engine/prefix/prefix_stops.h"

#include <algorithm>

namespace t2r {

std::vector<PrefixStop> StopsOf(int64_t tokens, int64_t stored, int64_t known,
                                const PrefixRules& rules) {
  std::vector<PrefixStop> stops;
  const int64_t last = (tokens - 1) / rules.unit * rules.unit;
  const int64_t branch = std::min(known, last) / rules.unit * rules.unit;
  int64_t from = stored;
  if (branch - stored >= kLeastPrefix) {
    stops.push_back({branch, false});
    from = branch;
  }
  // The last of them leaves a token at least.
  const int64_t chunks = (tokens - 1 - from) / rules.chunk;
  if (chunks == 0) {
    if (from == 0 && last >= kLeastPrefix) stops.push_back({last, false});
    return stops;
  }
  const auto first_spare = static_cast<int64_t>(stops.size());
  for (int64_t before = 1; before < chunks; before *= 2) {
    stops.push_back({from + (chunks - before) * rules.chunk, true});
  }
  std::reverse(stops.begin() + first_spare, stops.end());
  stops.push_back({from + chunks * rules.chunk, false});
  return stops;
}

}  // namespace t2r
