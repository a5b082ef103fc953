#include "engine/sessions/session_ids.h"

#include <algorithm>
#include <random>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "engine/sessions/session_store.h"

namespace t2r {
namespace {

constexpr size_t kMaxIdBytes = 128;

bool MayStandInId(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
         std::string_view("-_.:").find(c) != std::string_view::npos;
}

}  // namespace

absl::Status CheckSessionId(const std::string& id) {
  if (!id.empty() && id.size() <= kMaxIdBytes && std::all_of(id.begin(), id.end(), MayStandInId)) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("session.id: 1 to ", kMaxIdBytes, " letters, digits and \"-_.:\""));
}

std::string MakeUpSessionId() {
  std::random_device device;
  std::string id;
  for (int i = 0; i < 4; ++i) {
    absl::StrAppend(&id, absl::Hex(uint32_t{device()}, absl::kZeroPad8));
  }
  return id;
}

absl::Status CheckSessionTtl(absl::Duration ttl) {
  if (ttl >= absl::ZeroDuration() && ttl <= kMaxSessionTtl) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("session.ttl: ", absl::FormatDuration(ttl),
                                                 "; it must be above 0 and at most ",
                                                 absl::FormatDuration(kMaxSessionTtl)));
}

void UseSession(SessionInfo* info, absl::Duration ttl, absl::Time now) {
  if (ttl > absl::ZeroDuration()) info->ttl = ttl;
  info->used = now;
  info->expires = now + info->ttl;
}

}  // namespace t2r
