#include "client/load/positions.h"

#include <algorithm>

namespace t2r::client {

std::optional<PositionResult> MeasurePosition(const std::vector<Arrival>& arrivals, uint64_t at,
                                              uint32_t window) {
  const uint64_t from = at - std::min<uint64_t>(at, window / 2);
  const uint64_t to = at + window / 2;
  const auto before = [](const Arrival& a, uint64_t position) { return a.position < position; };
  auto first =
      std::upper_bound(arrivals.begin(), arrivals.end(), from,
                       [](uint64_t position, const Arrival& a) { return position < a.position; });
  if (first != arrivals.begin()) --first;
  const auto last = std::lower_bound(arrivals.begin(), arrivals.end(), to, before);
  if (last == arrivals.end() || last <= first) return std::nullopt;

  WeightedSamples gaps;
  for (auto it = first; it != last; ++it) {
    const uint64_t tokens = (it + 1)->position - it->position;
    gaps.Add(((it + 1)->seconds - it->seconds) / static_cast<double>(tokens), tokens);
  }
  return PositionResult{at, gaps.count(), gaps.Mean(), gaps.Percentile(50)};
}

}  // namespace t2r::client
