// Chooses what runs in a step.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/time/time.h"
#include "engine/model/executor.h"
#include "engine/scheduler/session.h"

namespace t2r {

// One step's work: works[i] is rows[i] rows of sessions[i].
struct Step {
  std::vector<Work> works;
  std::vector<Session*> sessions;
  std::vector<int64_t> rows;
  int64_t decode_rows = 0;
  int64_t prompt_rows = 0;

  void Clear();
  void Add(Session* session, int64_t count);
};

// Every decoding session with room gets its row; what is left of max_step_tokens, at most
// max_prompt_chunk, goes to prompts in order of arrival, as many as share it. A session whose sink
// has no room for the token it would yield sits out.
//
// With more decoding sessions than rows they take turns: each step goes on, in order of ids, after
// the last one served. Prompts then keep an eighth of the rows (at least one; with a single row a
// step, every other step), so neither side starves. Engine thread only.
class BatchFormer {
 public:
  // Both at least 1.
  BatchFormer(int64_t max_step_tokens, int64_t max_prompt_chunk);

  // active: the sessions that have slots, by ascending id.
  void Form(std::span<Session* const> active, absl::Time now, Step* step);

 private:
  // Rows to keep free for prompts where decoding sessions would take all.
  int64_t PromptReserve();

  const int64_t max_step_tokens_;
  const int64_t max_prompt_chunk_;
  RequestId last_served_ = 0;
  bool prompt_turn_ = false;
  std::vector<Session*> decoding_;
};

}  // namespace t2r
