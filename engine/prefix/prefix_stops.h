// Where the run of a prompt stops so that the state there can be kept.
#pragma once

#include <cstdint>
#include <vector>

namespace t2r {

// A beginning of fewer tokens is not worth a state, nor one that is longer by fewer.
inline constexpr int64_t kLeastPrefix = 16;

struct PrefixRules {
  int64_t unit = 1;     // prompts can be cut at multiples of this
  int64_t chunk = 128;  // prompt tokens that one step takes of a prompt that is alone
};

struct PrefixStop {
  int64_t position = 0;  // tokens of the prompt
  // Only kept where nothing else needs the room, and only if a step ends there anyway.
  bool spare = false;

  friend bool operator==(const PrefixStop&, const PrefixStop&) = default;
};

// The stops, ascending, of a prompt of `tokens` of which the first `stored` come from a state and
// `known` are those of a prompt seen before. The last token is always run, since it yields the
// first one generated. States are kept
//   at a branch   where the prompt leaves known ones, which others are likely to do too;
//   at its end    at the end of its last whole chunk, which costs no step of its own; of a prompt
//                 shorter than a chunk that begins like no other, before its last token;
//   as spares     1, 2, 4, … chunks before the end: they let a second prompt profit that leaves
//   this
//                 one before its end, where no branch was known yet.
std::vector<PrefixStop> StopsOf(int64_t tokens, int64_t stored, int64_t known,
                                const PrefixRules& rules);

}  // namespace t2r
