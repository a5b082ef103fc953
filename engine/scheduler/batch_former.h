// Chooses what runs in a step.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/time/time.h"
#include "engine/executor/executor.h"
#include "engine/scheduler/session.h"

namespace t2r {

// What one step runs: chunks[i] is rows[i] rows of sessions[i]. A session with beams has a chunk
// for each of those that take part, in their order.
struct Step {
  std::vector<ScheduledChunk> chunks;
  std::vector<Session*> sessions;
  std::vector<int64_t> rows;
  int64_t decode_rows = 0;
  int64_t prompt_rows = 0;  // tokens of sources included

  void Clear();
  void Add(Session* session, int64_t count);
};

// Every decoding session with room gets its row, one with beams a row for each; what is left of
// max_step_tokens, at most max_prompt_chunk, goes to prompts: half of it to those with the fewest
// rows left, the rest in order of arrival, each half to as many as share it. So a short prompt runs
// at once whatever long ones are there, and the oldest takes at most twice as long as alone. A
// prompt is cut only at multiples of the alignment: what is left of a step is unused where it
// reaches none. It is cut, too, where its state is to be kept. A source cannot be cut: of those
// that start, as many go into a step as have max_prompt_chunk tokens together, and one in any case.
// A session whose sink has no room for the token it would yield sits out.
//
// With more decoding sessions than rows they take turns: each step goes on, in order of ids, after
// the last one served; beams that got no row come in a later step. Prompts then keep an eighth of
// the rows (at least what the first of them needs to get on; where that is the whole step, every
// other step), so neither side starves. Engine thread only.
class BatchFormer {
 public:
  // All at least 1; max_step_tokens at least the alignment. A chunk below the alignment counts as
  // one of that size.
  BatchFormer(int64_t max_step_tokens, int64_t max_prompt_chunk, int64_t prompt_alignment = 1);

  // active: the sessions that have slots, by ascending id.
  void Form(std::span<Session* const> active, absl::Time now, Step* step);

 private:
  // Rows to keep free for prompts, of which the first gets on with `need`, where decoding sessions
  // would leave less.
  int64_t PromptReserve(int64_t need);
  void AddDecoding(int64_t rows, Step* step);
  void AddPrompts(int64_t budget, absl::Time now, Step* step);

  const int64_t max_step_tokens_;
  const int64_t alignment_;
  const int64_t max_prompt_chunk_;
  RequestId last_served_ = 0;
  bool prompt_turn_ = false;
  bool shortest_turn_ = false;
  struct Share {
    Session* session = nullptr;
    int64_t rows = 0;
  };
  std::vector<Share> shares_;  // of the prompts, in order of arrival
  std::vector<size_t> order_;  // places in shares_
  std::vector<Session*> decoding_;
  int64_t decode_rows_ = 0;  // that they would all take
};

}  // namespace t2r
