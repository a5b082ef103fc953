// What the scheduler drives: sessions in fixed slots, stepped together.
//
// One thread (the engine thread) makes all calls. Implemented by ModelExecutor over a Backend, and
// by fakes in tests. Nothing here knows requests, queues or text.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/ops/batch.h"
#include "engine/sampling/params.h"
#include "engine/sampling/sample.h"

namespace t2r {

struct ExecutorLimits {
  int slots = 0;                // sessions that fit at once
  int64_t max_step_tokens = 0;  // rows of one step
  int vocab_size = 0;
  int64_t position_limit = 0;         // positions a session may use; 0: no limit
  int64_t kv_pages = 0;               // pages of the key/value cache; 0: no full layer
  int64_t state_bytes = 0;            // of one session: every linear layer's window, S and z
  int64_t kv_bytes_per_position = 0;  // 0: no full layer
  // Prompts are split at multiples of this (Backend::prompt_alignment).
  int64_t prompt_alignment = 1;
  int64_t max_source = 0;                    // tokens of a source; 0: the model has no encoder
  int source_vocab_size = 0;                 // of source tokens; 0: the model has no encoder
  int64_t source_kv_bytes_per_position = 0;  // 0: no full cross attention
  // What KeepPrefix has room for: states, and pages of full layers, as many as they own together;
  // 0 states: it keeps none. A state is prefix_state_bytes, and has as many positions as it likes.
  int prefix_states = 0;
  int64_t prefix_pages = 0;
  int64_t prefix_state_bytes = 0;
  // About the floating-point operations that a prompt's token costs, and its attention to each
  // position before it (full layers).
  double token_flops = 1;
  double pair_flops = 0;
  // Never sampled, whatever a session's own logit biases; a search must leave them out too.
  std::vector<int32_t> suppressed_token_ids;

  // Positions that one session can come to have, by the model and by the cache; 0: no limit.
  int64_t max_positions() const {
    const int64_t cached = kv_pages * kKvPageSize;
    if (position_limit == 0 || cached == 0) return std::max(position_limit, cached);
    return std::min(position_limit, cached);
  }
};

// What a session may come to need, reserved when it opens.
struct SessionSize {
  int64_t positions = 0;
  int64_t source = 0;    // tokens of its source; encoder-decoders only
  bool lasting = false;  // Save may be called: what it needs is kept from the start
};

// All that a slot holds of its session, in host memory.
struct SlotState {
  int64_t positions = 0;  // tokens that went through the model
  int64_t source = 0;     // tokens of its source
  // What was seen and generated, ascending tokens, whatever the sampling parameters use of it.
  std::vector<TokenAdjustment> history;
  std::vector<std::byte> state;         // of every linear layer: ExecutorLimits::state_bytes
  std::vector<std::byte> pages;         // of full layers, as many whole pages as hold `positions`
  std::vector<std::byte> source_pages;  // of full cross attention, as many as hold `source`

  int64_t bytes() const {
    return static_cast<int64_t>(state.size() + pages.size() + source_pages.size() +
                                history.size() * sizeof(TokenAdjustment));
  }
};

struct TokenLogprob {
  int32_t token = 0;
  float logprob = 0;  // natural log of the raw (unpenalised, temperature 1) distribution
};

// Prompt tokens of one step, unless an engine is told otherwise.
inline constexpr int64_t kDefaultPromptChunk = 128;

// Part of one session in one step.
struct ScheduledChunk {
  int slot = 0;
  std::span<const int32_t> tokens;  // ≥ 1, the session's next tokens in order
  int64_t position = 0;             // of tokens[0]; equals the tokens the slot has consumed so far
  // Sample the token after the last of `tokens`.
  bool sample = false;
  // Alternatives to report beside the sampled token, at most kMaxAlternatives and the vocabulary
  // (0: none; its own logprob is always reported).
  int top_logprobs = 0;
  // Encoder-decoders: the source, with the session's first chunk; else empty. The encoder runs over
  // it before the step.
  std::span<const int32_t> source;
  // Score: targets[i] is the token that follows tokens[i]; size 0 (no scoring) up to tokens.size().
  std::span<const int32_t> targets;
};

struct ChunkResult {
  TokenLogprob sampled;           // when ScheduledChunk::sample
  std::vector<TokenLogprob> top;  // top_logprobs most likely tokens, best first
  std::vector<float> scores;      // log p(targets[i] | … tokens[i])
  // The first position whose logits were wanted and were not all finite; -1: none. The rest of the
  // result then means nothing.
  int64_t not_finite = -1;
};

class Executor {
 public:
  virtual ~Executor() = default;
  virtual const ExecutorLimits& limits() const = 0;

  // Whether Open would succeed `count` times in a row for sessions of up to this size.
  virtual bool CanOpen(const SessionSize& size, int count) const = 0;
  // Takes a free slot, its state zero, and reserves every key/value page it can ever need.
  // Returns -1 when CanOpen(size, 1) is false.
  virtual int Open(const SessionSize& size, const SamplingParams& sampling) = 0;
  // Makes `to`, an open slot of the same size that has consumed no more tokens, go on from where
  // `from` is: state, keys and values, what was seen and generated. Its sampling parameters stay.
  // Copies a state, but of keys and values one page at most: full ones are shared.
  virtual void Fork(int from, int to) = 0;
  // Frees the slot and clears its state.
  virtual void Close(int slot) = 0;
  // What an open slot holds, between steps; opened as lasting.
  virtual SlotState Save(int slot);
  // Makes a slot that was opened as lasting, for at least as many positions and as long a source,
  // and has consumed nothing, go on from what Save took: of this executor, or of one with the same
  // model, backend and dtypes. Both throw DeviceError.
  virtual void Restore(int slot, const SlotState& state);

  // States of prompts' beginnings, which other sessions may go on from. They take no slot, and the
  // pages that they own are beside limits().kv_pages. The first two throw DeviceError and cost what
  // Fork costs, but that StartFromPrefix also looks at the tokens where sampling counts them.
  //
  // Keeps where an open slot stands between steps, a multiple of limits().prompt_alignment, and of
  // kKvPageSize where there are pages: a number for it, from 0, or -1 where there is no room.
  virtual int KeepPrefix(int slot);
  // Makes a slot that was just opened, for more positions, go on from there. tokens: those that led
  // there, as many as it has positions.
  virtual void StartFromPrefix(int slot, int prefix, std::span<const int32_t> tokens);
  virtual void DropPrefix(int prefix);
  // What all that are kept take, bytes.
  virtual int64_t prefix_bytes() const { return 0; }

  // Starts the chunks through the model in one batch; a slot appears at most once, and the tokens
  // add up to at most max_step_tokens; sources do not count. What the chunks point at must stay
  // until Wait, which comes before any other call. Throws DeviceError, or another exception: then
  // the sessions of the step are to be closed, and unless the device is lost the others can go on.
  virtual void Launch(std::span<const ScheduledChunk> chunks) = 0;
  // Waits for the step launched last; results is resized to its chunks. Throws as Launch.
  virtual void Wait(std::vector<ChunkResult>* results) = 0;

  void Step(std::span<const ScheduledChunk> chunks, std::vector<ChunkResult>* results) {
    Launch(chunks);
    Wait(results);
  }
};

}  // namespace t2r
