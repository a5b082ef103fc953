// Plain structs of the client library: what t2r.v1.Generation takes and gives, without gRPC or
// Protobuf types. Field meanings, defaults and limits are those of proto/t2r/v1/generation.proto.
#ifndef T2R_CLIENT_TYPES_H_
#define T2R_CLIENT_TYPES_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/time/time.h"

namespace t2r::client {

using TokenId = uint32_t;
using TokenIds = std::vector<TokenId>;

// Text gets what the model's tokenizer adds (a BOS, or the end of a source or target); ids are
// taken as they are.
using Prompt = std::variant<std::string, TokenIds>;

// Unset: as ModelInfo::defaults, else off (temperature: 1).
struct Sampling {
  std::optional<float> temperature;         // 0: greedy
  std::optional<uint32_t> top_k;            // 0: off
  std::optional<float> top_p;               // (0, 1]; 0: off
  std::optional<float> min_p;               // [0, 1]; 0: off
  std::optional<float> repetition_penalty;  // > 0; 0: off
  float frequency_penalty = 0;              // [-2, 2]
  float presence_penalty = 0;               // [-2, 2]
  std::map<TokenId, float> logit_bias;
  std::optional<uint64_t> seed;  // unset: random; Started tells which

  bool operator==(const Sampling&) const = default;
};

enum class EarlyStopping { kFalse, kTrue, kNever };

// Beam search: hypotheses in Finished, no Deltas.
struct Beams {
  uint32_t count = 1;
  float length_penalty = 1;
  uint32_t num_return = 1;
  EarlyStopping early_stopping = EarlyStopping::kFalse;
};

// The request is a turn of a session.
struct SessionRef {
  std::string id;
  bool create = false;  // begins one where there is none of this id
  std::optional<uint64_t> expected_position;
  absl::Duration ttl;  // zero: as it is, or the server's
  // The rest of the session's last turn, whose tokens the caller has up to here.
  std::optional<uint64_t> resume_at = std::nullopt;
  bool allow_inexact = false;
};

struct GenerateRequest {
  Prompt prompt;  // encoder-decoders: the source; an empty text: none, in a session
  // Encoder-decoders: how the target begins; Deltas hold what follows.
  std::optional<Prompt> target_prefix;
  uint32_t max_tokens = 0;  // 0: the model's default, else the server's limit
  Sampling sampling;
  std::vector<std::string> stop;
  bool include_stop = false;
  TokenIds stop_token_ids;
  bool ignore_eos = false;
  uint32_t logprobs = 0;  // alternatives to report for each token
  std::optional<Beams> beams;
  // Sampling without a field that is set is then that of the turn before.
  std::optional<SessionRef> session;
};

struct Started {
  uint64_t seed = 0;
  uint32_t prompt_tokens = 0;
  uint32_t max_tokens = 0;
  std::string session_id;
  uint64_t session_position = 0;  // tokens in the session with this prompt
};

struct Logprob {
  TokenId token_id = 0;
  float logprob = 0;  // natural logarithm
};

struct TokenLogprobs {
  Logprob chosen;
  std::vector<Logprob> top;  // most likely first
};

struct Delta {
  std::string text;  // whole code points; may be empty
  TokenIds token_ids;
  std::vector<TokenLogprobs> logprobs;  // one for each of token_ids, where the server sends them
  uint64_t position = 0;                // in a session: its tokens, these included
};

enum class FinishReason { kUnspecified, kStop, kLength, kEos, kDrained, kOther };

// "stop", "length", "eos", "drained"; "other" for one this client does not know.
const char* FinishReasonName(FinishReason reason);

struct Hypothesis {
  std::string text;
  TokenIds token_ids;
  float score = 0;
  FinishReason reason = FinishReason::kUnspecified;
};

struct Finished {
  FinishReason reason = FinishReason::kUnspecified;
  std::string stop;                    // the stop string that matched, if one did
  std::vector<Hypothesis> hypotheses;  // of a beam search, best first
  uint64_t session_position = 0;       // in a session: its tokens from now on
  std::string
      held_text;  // held back for a stop string; a next turn without a prompt begins with it
  uint32_t prompt_tokens = 0;
  uint32_t cached_prompt_tokens = 0;  // of these, saved by a state that the server had kept
  uint64_t generated_tokens = 0;
  absl::Duration queue_time;
  absl::Duration prefill_time;
  absl::Duration decode_time;
};

using Event = std::variant<Started, Delta, Finished>;

struct SessionInfo {
  std::string id;
  uint64_t position = 0;  // tokens
  uint64_t bytes = 0;
  absl::Time created, used, expires;
  absl::Duration ttl;
};

struct SessionPage {
  std::vector<SessionInfo> sessions;
  std::string next;  // asks for the page behind; empty: there is none
};

struct ScoreResult {
  TokenIds tokens;  // the n ids that were scored
  // n - 1 values: log p(tokens[i+1] | tokens[0..i]); encoder-decoders n: log p(tokens[i] | source,
  // tokens[0..i-1]).
  std::vector<float> logprobs;
};

// How the server shared its model's memory out, in bytes; zeros where it does not say.
struct Memory {
  uint64_t total = 0;
  uint64_t weights = 0;
  uint64_t workspace = 0;  // activations and logits of the largest step
  uint64_t states = 0;     // of all sessions
  uint64_t kv = 0;         // keys and values of full layers
  uint64_t free = 0;
  uint64_t prefix_cache = 0;  // states of prompts' beginnings
};

struct Limits {
  uint32_t max_sessions = 0;   // run at once
  uint64_t max_positions = 0;  // prompt + max_tokens - 1; 0: none
  uint32_t max_tokens = 0;     // a request
  uint64_t max_queue_requests = 0;
  uint64_t max_queue_tokens = 0;
  uint32_t max_stop_strings = 0;
  uint32_t max_logprobs = 0;
  uint64_t max_request_bytes = 0;
  uint32_t max_beams = 0;           // of a request
  uint64_t max_source_tokens = 0;   // 0: no encoder
  uint64_t max_response_bytes = 0;  // 0: none, or the server does not say
};

// What the model asks for where a request leaves it unset.
struct GenerationDefaults {
  std::optional<float> temperature;
  std::optional<uint32_t> top_k;
  std::optional<float> top_p;
  std::optional<float> min_p;
  std::optional<float> repetition_penalty;
  std::optional<uint32_t> max_tokens;
};

struct ModelInfo {
  std::string name;
  std::string architecture;
  std::vector<std::string> layer_types;  // one a layer
  std::string feature_map;               // empty: no linear layer
  uint32_t feature_size = 0;
  uint64_t state_bytes_per_session = 0;
  uint64_t kv_bytes_per_position = 0;  // 0: no full layer
  uint32_t vocab_size = 0;
  TokenIds eos_token_ids;
  std::optional<TokenId> bos_token_id;
  bool has_tokenizer = false;
  uint64_t parameters_bytes = 0;
  std::string dtype;
  std::string backend;
  Memory memory;
  Limits limits;
  GenerationDefaults defaults;
  // Encoder-decoders; vocab_size and the ids above are then the target's.
  bool encoder_decoder = false;
  std::vector<std::string> cross_layer_types;  // one a decoder layer
  uint32_t source_vocab_size = 0;
  uint32_t encoder_layers = 0;
  uint64_t source_kv_bytes_per_position = 0;  // 0: no full cross attention
  std::optional<TokenId> decoder_start_token_id;
  std::string exactness_class;  // decides the bits of a session's next token
  bool has_sessions = false;
};

}  // namespace t2r::client

#endif  // T2R_CLIENT_TYPES_H_
