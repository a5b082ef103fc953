// The keys of a directory of sessions, which are in the order of their bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "engine/sessions/session_info.h"
#include "engine/sessions/session_record.h"

namespace t2r::disk {

// Records of a kind lie together, so that sessions are listed without reading a state.
inline constexpr char kRecord = 'r';
inline constexpr char kState = 'S';
inline constexpr char kExpiry = 'x';
inline constexpr size_t kNumberBytes = 8;

// Of a record: an owner's lie together, in the order of their ids.
std::string RecordKey(const SessionKey& key);
bool FromRecordKey(std::string_view raw, SessionKey* key);

// What the keys of all states of the session begin with; each has kNumberBytes more.
std::string StatesOf(const SessionKey& key);
std::string StateKey(const SessionKey& key, StateName name);

// Of the index by expiry: what ends first lies first.
std::string ExpiryKey(const SessionInfo& info);
std::string ExpiriesFrom(absl::Time time);
struct Expiry {
  absl::Time time;
  SessionKey key;
  bool known = false;  // the key is one that a session has
};
Expiry FromExpiryKey(std::string_view raw);

}  // namespace t2r::disk
