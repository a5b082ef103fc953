// How a backend's memory is shared out when an engine starts: after the weights, the workspace of
// the largest step, then sessions, each with its states and its share of the key/value pages. See
// docs/serving.md.
#pragma once

#include <cstdint>
#include <string>

#include "engine/executor/executor.h"
#include "engine/model/model.h"

namespace t2r {

// Sessions that an engine may have, and that decode in one step unless more are asked for.
inline constexpr int kMaxSessions = 1 << 16;
inline constexpr int64_t kMaxDecodeRows = 8192;
// Rows of a step, whatever is asked for.
inline constexpr int64_t kMaxStepTokens = 1 << 16;
// What a state of a prompt's beginning is thought to have where its pages are counted.
inline constexpr int64_t kPrefixPositions = 1024;
inline constexpr int kMaxPrefixStates = 1 << 16;

struct PlanOptions {
  int sessions = 0;  // 0: as many as fit
  // Rows of the largest step, which an encoder-decoder's longest source must fit; 0: one for each
  // session, up to kMaxDecodeRows, and a prompt chunk. At least a row a session where both are
  // given.
  int64_t step_tokens = 0;
  int64_t prompt_chunk = kDefaultPromptChunk;
  int64_t position_limit = 0;  // positions of a session; 0: no limit
  int64_t kv_cache_bytes = 0;  // for full layers; 0: 2,048 positions (or the limit) a session
  // For states of prompts' beginnings: at most an eighth of what sessions could have, and no more
  // than sessions that were asked for leave. None for encoder-decoders.
  int64_t prefix_cache_bytes = 0;
  DType kv_dtype = DType::kFloat32;      // of keys and values
  DType window_dtype = DType::kFloat32;  // of those in windows
};

// Bytes are the backend's; pages hold kKvPageSize positions.
struct MemoryPlan {
  int64_t total_bytes = 0;  // the device's, or what this process may have of the machine's
  int64_t weight_bytes = 0;
  int64_t workspace_bytes = 0;
  int64_t slot_bytes = 0;  // a session's states
  int slots = 0;
  int64_t page_bytes = 0;
  int64_t pages = 0;
  int64_t source_page_bytes = 0;  // of the encoder's outputs, for full cross attention
  int64_t source_pages = 0;
  // States of prompts' beginnings, a slot each, and pages for them: with full layers as many as
  // kPrefixPositions need a state.
  int prefix_states = 0;
  int64_t prefix_pages = 0;
  int64_t free_bytes = 0;  // left: on a device for scratch and recorded steps
  int64_t max_step_tokens = 0;
  int64_t max_step_logit_rows = 0;  // rows of a step whose logits are wanted

  int64_t states_bytes() const { return slots * slot_bytes; }
  int64_t prefix_bytes() const { return prefix_states * slot_bytes + prefix_pages * page_bytes; }
  int64_t kv_bytes() const { return pages * page_bytes + source_pages * source_page_bytes; }
};

// What stays free on a device: a thirty-second of it, 16 MiB to 2 GiB.
int64_t DeviceReserve(int64_t total_bytes);

// Shares out what is free once the model is loaded. Where the memory is the backend's alone,
// DeviceReserve stays free, and with options.sessions 0 sessions take all the rest. Where it is
// shared with other programs they take at most half of what is free, and are at most 64: more would
// only slow each other. Throws DeviceError, naming bytes and limit, when that is not enough for the
// sessions asked for, or for one; ModelError for a kv_cache_bytes of less than a page.
MemoryPlan PlanMemory(const Model& model, const MemoryInfo& memory, const PlanOptions& options);

// A table of it for people, six lines.
std::string ToTable(const MemoryPlan& plan);

}  // namespace t2r
