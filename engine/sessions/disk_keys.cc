#include "engine/sessions/disk_keys.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace t2r::disk {
namespace {

// Big-endian, so that keys are in the order of numbers.
std::string Ordered(uint64_t number) {
  std::string bytes(kNumberBytes, '\0');
  for (size_t i = 0; i < kNumberBytes; ++i) {
    bytes[kNumberBytes - 1 - i] = static_cast<char>(number >> (8 * i));
  }
  return bytes;
}

uint64_t FromOrdered(std::string_view bytes) {
  uint64_t number = 0;
  for (const char c : bytes.substr(0, kNumberBytes)) {
    number = (number << 8) | static_cast<unsigned char>(c);
  }
  return number;
}

std::string Place(const SessionKey& key) {
  return absl::StrCat(Ordered(key.owner.size()), key.owner, key.id);
}

bool FromPlace(std::string_view place, SessionKey* key) {
  if (place.size() < kNumberBytes) return false;
  const uint64_t size = FromOrdered(place);
  place.remove_prefix(kNumberBytes);
  if (size > place.size()) return false;
  key->owner = place.substr(0, size);
  key->id = place.substr(size);
  return true;
}

}  // namespace

std::string RecordKey(const SessionKey& key) {
  return absl::StrCat(std::string(1, kRecord), Place(key));
}

bool FromRecordKey(std::string_view raw, SessionKey* key) {
  return !raw.empty() && FromPlace(raw.substr(1), key);
}

std::string StatesOf(const SessionKey& key) {
  return absl::StrCat(std::string(1, kState), Ordered(key.id.size()), Place(key));
}

std::string StateKey(const SessionKey& key, StateName name) {
  return StatesOf(key) + Ordered(name);
}

std::string ExpiriesFrom(absl::Time time) {
  const int64_t nanoseconds = std::max<int64_t>(absl::ToUnixNanos(time), 0);
  return absl::StrCat(std::string(1, kExpiry), Ordered(static_cast<uint64_t>(nanoseconds)));
}

std::string ExpiryKey(const SessionInfo& info) {
  return absl::StrCat(ExpiriesFrom(info.expires), Place(info.key()));
}

Expiry FromExpiryKey(std::string_view raw) {
  raw.remove_prefix(std::min<size_t>(raw.size(), 1));
  Expiry expiry;
  expiry.time = absl::FromUnixNanos(static_cast<int64_t>(FromOrdered(raw)));
  expiry.known = raw.size() > kNumberBytes && FromPlace(raw.substr(kNumberBytes), &expiry.key);
  return expiry;
}

}  // namespace t2r::disk
