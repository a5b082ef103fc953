#include "engine/scheduler/request.h"

#include <algorithm>
#include <limits>

namespace t2r {

int64_t Request::positions() const {
  const auto n = static_cast<int64_t>(prompt.size());
  if (score) return n - 1;
  int64_t sum = from == nullptr ? 0 : from->slot.positions;
  if (__builtin_add_overflow(sum, n, &sum) || __builtin_add_overflow(sum, max_tokens - 1, &sum)) {
    return std::numeric_limits<int64_t>::max();
  }
  return sum;
}

int64_t Request::queue_tokens() const {
  return static_cast<int64_t>(prompt.size() + source.size());
}

std::vector<int32_t> Request::TerminalIds(const std::vector<int32_t>& eos_token_ids) const {
  std::vector<int32_t> ids = stop_token_ids;
  if (!ignore_eos) ids.insert(ids.end(), eos_token_ids.begin(), eos_token_ids.end());
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  return ids;
}

}  // namespace t2r
