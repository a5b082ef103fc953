#include "engine/scheduler/batch_former.h"

#include <algorithm>
#include <cassert>
#include <numeric>

namespace t2r {

void Step::Clear() {
  chunks.clear();
  sessions.clear();
  rows.clear();
  decode_rows = 0;
  prompt_rows = 0;
}

void Step::Add(Session* session, int64_t count) {
  prompt_rows += session->source_rows();
  const bool prompt = session->prefilling();
  (prompt ? prompt_rows : decode_rows) += count;
  const int64_t each = prompt ? count : 1;
  for (int64_t row = 0; row < count; row += each) {
    session->NextChunk(each, row, &chunks.emplace_back());
    sessions.push_back(session);
    rows.push_back(each);
  }
}

BatchFormer::BatchFormer(int64_t max_step_tokens, int64_t max_prompt_chunk,
                         int64_t prompt_alignment)
    : max_step_tokens_(std::max<int64_t>(max_step_tokens, 1)),
      alignment_(std::max<int64_t>(prompt_alignment, 1)),
      max_prompt_chunk_(std::max(max_prompt_chunk, alignment_)) {
  assert(max_step_tokens_ >= alignment_);
}

int64_t BatchFormer::PromptReserve(int64_t need) {
  if (need == max_step_tokens_) {
    prompt_turn_ = !prompt_turn_;
    return prompt_turn_ ? need : 0;
  }
  return std::max(need, std::min(max_prompt_chunk_, max_step_tokens_ / 8));
}

void BatchFormer::AddDecoding(int64_t rows, Step* step) {
  if (rows >= decode_rows_) {
    for (Session* session : decoding_) step->Add(session, session->decode_rows());
    return;
  }
  const auto after =
      std::upper_bound(decoding_.begin(), decoding_.end(), last_served_,
                       [](RequestId id, const Session* session) { return id < session->id(); });
  const auto first = static_cast<size_t>(after - decoding_.begin());
  for (size_t i = 0; rows > 0; ++i) {
    Session* session = decoding_[(first + i) % decoding_.size()];
    const int64_t count = std::min(rows, session->decode_rows());
    step->Add(session, count);
    last_served_ = session->id();
    rows -= count;
  }
}

void BatchFormer::Form(std::span<Session* const> active, absl::Time now, Step* step) {
  step->Clear();
  decoding_.clear();
  decode_rows_ = 0;
  int64_t need = 0;  // rows with which the first prompt gets on
  for (Session* session : active) {
    if (session->prefilling()) {
      if (need == 0) need = std::min(session->prompt_rows_left(), alignment_);
    } else if (session->HasRoom(now)) {
      decoding_.push_back(session);
      decode_rows_ += session->decode_rows();
    }
  }

  int64_t decode_rows = max_step_tokens_;
  if (need > 0 && decode_rows_ + need > max_step_tokens_) {
    decode_rows -= PromptReserve(need);
  }
  AddDecoding(decode_rows, step);
  if (need == 0) return;

  shares_.clear();
  for (Session* session : active) {
    if (session->prefilling()) shares_.push_back({session, 0});
  }
  AddPrompts(std::min(max_prompt_chunk_, max_step_tokens_ - step->decode_rows), now, step);
}

void BatchFormer::AddPrompts(int64_t budget, absl::Time now, Step* step) {
  int64_t sources = 0;
  // Takes from `budget` for shares_[i], and returns what is left of it.
  const auto share = [&](size_t i, int64_t rows_free) {
    Session* session = shares_[i].session;
    const int64_t before = shares_[i].rows;
    int64_t rows = session->prompt_rows_to_stop();
    // What it has already lies at a multiple of the alignment, unless it is all.
    if (rows > before + rows_free) rows = (before + rows_free) / alignment_ * alignment_;
    if (rows <= before || (session->Yields(rows) && !session->HasRoom(now))) return rows_free;
    const int64_t source = before == 0 ? session->source_rows() : 0;
    if (source > 0 && sources > 0 && sources + source > max_prompt_chunk_) return rows_free;
    sources += source;
    shares_[i].rows = rows;
    return rows_free - (rows - before);
  };

  order_.resize(shares_.size());
  std::iota(order_.begin(), order_.end(), size_t{0});
  // Where no two prompts can share the rows they take turns: one step the shortest, one the oldest.
  int64_t half = budget / 2;
  if (half < alignment_) {
    shortest_turn_ = !shortest_turn_;
    half = shortest_turn_ ? budget : 0;
  }
  budget -= half;
  if (half > 0) {
    std::stable_sort(order_.begin(), order_.end(), [this](size_t a, size_t b) {
      return shares_[a].session->prompt_rows_left() < shares_[b].session->prompt_rows_left();
    });
    for (const size_t i : order_) {
      if (half == 0) break;
      half = share(i, half);
    }
  }
  budget += half;
  for (size_t i = 0; i < shares_.size() && budget > 0; ++i) budget = share(i, budget);
  for (const Share& mine : shares_) {
    if (mine.rows > 0) step->Add(mine.session, mine.rows);
  }
}

}  // namespace t2r
