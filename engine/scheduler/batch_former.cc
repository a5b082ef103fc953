#include "engine/scheduler/batch_former.h"

#include <algorithm>

namespace t2r {

void Step::Clear() {
  works.clear();
  sessions.clear();
  rows.clear();
  decode_rows = 0;
  prompt_rows = 0;
}

void Step::Add(Session* session, int64_t count) {
  (session->prefilling() ? prompt_rows : decode_rows) += count;
  works.push_back(session->NextWork(count));
  sessions.push_back(session);
  rows.push_back(count);
}

BatchFormer::BatchFormer(int64_t max_step_tokens, int64_t max_prompt_chunk)
    : max_step_tokens_(std::max<int64_t>(max_step_tokens, 1)),
      max_prompt_chunk_(std::max<int64_t>(max_prompt_chunk, 1)) {}

int64_t BatchFormer::PromptReserve() {
  if (max_step_tokens_ == 1) {
    prompt_turn_ = !prompt_turn_;
    return prompt_turn_ ? 1 : 0;
  }
  return std::min(max_prompt_chunk_, std::max<int64_t>(max_step_tokens_ / 8, 1));
}

void BatchFormer::Form(std::span<Session* const> active, absl::Time now, Step* step) {
  step->Clear();
  decoding_.clear();
  bool prompts = false;
  for (Session* session : active) {
    if (session->prefilling()) {
      prompts = true;
    } else if (session->HasRoom(now)) {
      decoding_.push_back(session);
    }
  }

  const auto decoding = static_cast<int64_t>(decoding_.size());
  int64_t decode_rows = std::min(decoding, max_step_tokens_);
  if (prompts && decoding >= max_step_tokens_) decode_rows = max_step_tokens_ - PromptReserve();
  if (decode_rows == decoding) {
    for (Session* session : decoding_) step->Add(session, 1);
  } else {
    const auto after =
        std::upper_bound(decoding_.begin(), decoding_.end(), last_served_,
                         [](RequestId id, const Session* session) { return id < session->id(); });
    const auto first = static_cast<int64_t>(after - decoding_.begin());
    for (int64_t i = 0; i < decode_rows; ++i) {
      Session* session = decoding_[static_cast<size_t>((first + i) % decoding)];
      step->Add(session, 1);
      last_served_ = session->id();
    }
  }

  int64_t budget = std::min(max_prompt_chunk_, max_step_tokens_ - decode_rows);
  for (Session* session : active) {
    if (!prompts || budget <= 0) break;
    if (!session->prefilling()) continue;
    const int64_t rows = std::min(budget, session->prompt_rows_left());
    if (session->Yields(rows) && !session->HasRoom(now)) continue;
    step->Add(session, rows);
    budget -= rows;
  }
}

}  // namespace t2r
