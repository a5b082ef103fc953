// What a tier keeps of a session beside its states.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/sampling/params.h"
#include "engine/sessions/session_info.h"

namespace t2r {

// All that a turn's request said, so that the turn can be gone on with, or made again, by anyone
// who has the state that it began from.
struct TurnParameters {
  int64_t start = 0;            // position of the session before the turn
  std::vector<int32_t> prompt;  // as Request::prompt, without the token the turn goes on from
  std::vector<int32_t> source;  // as Request::source
  int64_t max_tokens = 0;
  SamplingParams sampling;
  std::vector<std::string> stop;
  bool include_stop = false;
  std::vector<int32_t> stop_token_ids;
  bool ignore_eos = false;
  int32_t top_logprobs = 0;

  int64_t prompt_tokens() const { return static_cast<int64_t>(prompt.size() + source.size()); }
  int64_t bytes() const { return prompt_tokens() * static_cast<int64_t>(sizeof(int32_t)); }
  // Position behind the prompt: where what is generated begins.
  int64_t begin() const { return start + static_cast<int64_t>(prompt.size()); }
  // Tokens of the turn that a state at `position` has generated.
  int64_t generated(int64_t position) const { return std::max<int64_t>(position - begin(), 0); }
};

// States lie beside the record, under names that are never used twice; 0: there is none.
using StateName = uint64_t;

struct SessionRecord {
  struct Checkpoint {
    StateName name = 0;
    int64_t position = 0;
  };

  SessionInfo info;
  StateName state = 0;  // where the session stands; none: it has no tokens
  // The turn that began last, if there was one. While it is not over `state` is what it began from,
  // and `checkpoints` how far it is known to have come; then `before` is what it began from.
  std::optional<TurnParameters> turn;
  bool turn_over = false;
  StateName before = 0;
  // The last kMaxCheckpoints, oldest first: a client may not have read up to the newest when its
  // stream breaks.
  std::vector<Checkpoint> checkpoints;

  // Replaces those that a turn that is gone on with had left from its position on, and the oldest
  // of too many.
  void AddCheckpoint(Checkpoint checkpoint);
  // Of all its states.
  std::vector<StateName> states() const;
};

inline constexpr size_t kMaxCheckpoints = 2;  // of a turn

// States that `before` names and `after` does not.
std::vector<StateName> DroppedStates(const SessionRecord& before, const SessionRecord& after);

// A name that no state has had, from the system's randomness.
StateName NewStateName();

// Without owner and id, which are its key. The bytes may come from anyone: DATA_LOSS for what no
// EncodeRecord wrote, naming the field.
std::string EncodeRecord(const SessionRecord& record);
absl::StatusOr<SessionRecord> DecodeRecord(const SessionKey& key, std::string_view bytes);

}  // namespace t2r
