#include "engine/scheduler/validate.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "engine/ops/batch.h"
#include "engine/scheduler/beam_search.h"

namespace t2r {
namespace {

template <typename... Parts>
absl::Status Invalid(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(parts...));
}

absl::Status CheckId(const char* field, size_t index, int32_t id, int vocab_size) {
  if (id >= 0 && id < vocab_size) return absl::OkStatus();
  return Invalid(field, "[", index, "] is ", id, ", outside the vocabulary of ", vocab_size,
                 " tokens (0 to ", vocab_size - 1, ")");
}

absl::Status CheckRange(const char* field, float value, float low, float high) {
  if (value >= low && value <= high) return absl::OkStatus();  // false for NaN
  return Invalid(field, " is ", value, ", outside [", low, ", ", high, "]");
}

absl::Status CheckCount(const char* field, size_t count, int limit) {
  if (count <= static_cast<size_t>(limit)) return absl::OkStatus();
  return Invalid(field, " has ", count, " entries, more than the limit of ", limit);
}

absl::Status CheckSampling(const SamplingParams& sampling, int vocab_size,
                           const SchedulerOptions& options) {
  const struct {
    const char* field;
    float value, low, high;
  } ranges[] = {
      {"temperature", sampling.temperature, 0.0F, 100.0F},
      {"min_p", sampling.min_p, 0.0F, 1.0F},
      {"frequency_penalty", sampling.frequency_penalty, -2.0F, 2.0F},
      {"presence_penalty", sampling.presence_penalty, -2.0F, 2.0F},
  };
  for (const auto& range : ranges) {
    absl::Status status = CheckRange(range.field, range.value, range.low, range.high);
    if (!status.ok()) return status;
  }
  if (sampling.top_k < 0) return Invalid("top_k is ", sampling.top_k, ", must be at least 0 (off)");
  if (!(sampling.top_p > 0.0F && sampling.top_p <= 1.0F)) {
    return Invalid("top_p is ", sampling.top_p, ", outside (0, 1]");
  }
  if (!(sampling.repetition_penalty > 0.0F && sampling.repetition_penalty <= 100.0F)) {
    return Invalid("repetition_penalty is ", sampling.repetition_penalty, ", outside (0, 100]");
  }
  absl::Status status =
      CheckCount("logit_bias", sampling.logit_bias.size(), options.max_logit_bias);
  if (!status.ok()) return status;
  for (const auto& [id, bias] : sampling.logit_bias) {
    if (id < 0 || id >= vocab_size) {
      return Invalid("logit_bias names the token ", id, ", outside the vocabulary of ", vocab_size,
                     " tokens (0 to ", vocab_size - 1, ")");
    }
    if (!(bias >= -100.0F && bias <= 100.0F)) {
      return Invalid("logit_bias of token ", id, " is ", bias, ", outside [-100, 100]");
    }
  }
  return absl::OkStatus();
}

absl::Status CheckStops(const Request& request, int vocab_size, const SchedulerOptions& options,
                        bool has_tokenizer) {
  absl::Status status = CheckCount("stop", request.stop.size(), options.max_stop_strings);
  if (!status.ok()) return status;
  if (!request.stop.empty() && !has_tokenizer) {
    return Invalid("stop needs a tokenizer, which this model has not: use stop_token_ids");
  }
  for (size_t i = 0; i < request.stop.size(); ++i) {
    const size_t bytes = request.stop[i].size();
    if (bytes == 0) return Invalid("stop[", i, "] is empty");
    if (bytes > static_cast<size_t>(options.max_stop_string_bytes)) {
      return Invalid("stop[", i, "] has ", bytes, " bytes, more than the limit of ",
                     options.max_stop_string_bytes);
    }
  }
  status = CheckCount("stop_token_ids", request.stop_token_ids.size(), options.max_stop_token_ids);
  if (!status.ok()) return status;
  for (size_t i = 0; i < request.stop_token_ids.size(); ++i) {
    status = CheckId("stop_token_ids", i, request.stop_token_ids[i], vocab_size);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

// What a request with beams may not have besides: they choose by score alone.
absl::Status CheckBeamsAlone(const Request& request) {
  constexpr char kAlone[] = " does not go with beams, which choose by score: leave it unset";
  const SamplingParams& sampling = request.sampling;
  if (sampling.temperature != 0.0F) {
    return Invalid("temperature is ", sampling.temperature,
                   ", and beams are not sampled: leave it unset or set it to 0");
  }
  const struct {
    const char* field;
    bool set;
  } fields[] = {
      {"top_k", sampling.top_k != 0},
      {"top_p", sampling.top_p != 1.0F},
      {"min_p", sampling.min_p != 0.0F},
      {"repetition_penalty", sampling.repetition_penalty != 1.0F},
      {"frequency_penalty", sampling.frequency_penalty != 0.0F},
      {"presence_penalty", sampling.presence_penalty != 0.0F},
      {"logit_bias", !sampling.logit_bias.empty()},
      {"logprobs", request.top_logprobs != 0},
  };
  for (const auto& field : fields) {
    if (field.set) return Invalid(field.field, kAlone);
  }
  if (request.stop.empty()) return absl::OkStatus();
  return Invalid("stop does not go with beams: use stop_token_ids");
}

absl::Status CheckBeams(const Request& request, const ExecutorLimits& limits,
                        const SchedulerOptions& options) {
  const BeamParams& beams = request.beams;
  if (beams.count == 0) return absl::OkStatus();
  if (beams.count < 1 || beams.count > options.max_beams) {
    return Invalid("beams.count is ", beams.count, ", outside [1, ", options.max_beams,
                   "] (max_beams)");
  }
  if (beams.count > limits.slots) {
    return Invalid("beams.count is ", beams.count, ", more than the ", limits.slots,
                   " sessions that run at once: each beam is one");
  }
  if (beams.num_return < 1 || beams.num_return > beams.count) {
    return Invalid("beams.num_return is ", beams.num_return, ", outside [1, ", beams.count,
                   "]: there are no more hypotheses than beams");
  }
  absl::Status status = CheckRange("beams.length_penalty", beams.length_penalty, -10.0F, 10.0F);
  if (!status.ok()) return status;
  const int64_t alternatives =
      BeamSearch::AlternativesOf(beams.count, request.TerminalIds(options.eos_token_ids).size(),
                                 limits.suppressed_token_ids.size());
  if (alternatives > kMaxAlternatives && limits.vocab_size > kMaxAlternatives) {
    return Invalid("beams.count of ", beams.count, " with all tokens that end or may not occur is ",
                   alternatives, " alternatives a step, more than the limit of ", kMaxAlternatives,
                   ": take fewer beams or stop_token_ids");
  }
  const int64_t pages = (request.positions() - 1) / kKvPageSize + 1;
  if (limits.kv_pages > 0 && pages > limits.kv_pages / beams.count) {
    return Invalid("beams.count of ", beams.count, " with ", request.positions(),
                   " positions each needs more than the ", limits.kv_pages,
                   " pages of the key/value cache (", kKvPageSize,
                   " positions each): take fewer beams or lower max_tokens");
  }
  return CheckBeamsAlone(request);
}

absl::Status CheckSession(const Request& request) {
  if (!request.keep) return absl::OkStatus();
  if (request.score) return Invalid("a score is no turn of a session");
  if (request.beams.count > 0) {
    return Invalid("beams do not go with a session: leave one of them unset");
  }
  if (request.from == nullptr) return absl::OkStatus();
  if (request.prompt.front() != request.from->last_token) {
    return Invalid("prompt begins with ", request.prompt.front(), ", not with the session's token ",
                   request.from->last_token);
  }
  return absl::OkStatus();
}

absl::Status CheckSource(const Request& request, const ExecutorLimits& limits) {
  const size_t size = request.source.size();
  if (request.from != nullptr) {
    if (size == 0) return absl::OkStatus();
    return Invalid("source has ", size,
                   " tokens, and the session has a source already: leave it "
                   "empty");
  }
  if (limits.max_source == 0) {
    if (size == 0) return absl::OkStatus();
    return Invalid("source has ", size, " tokens, and the model has no encoder: leave it empty");
  }
  if (size == 0) return Invalid("source is empty: the model's encoder needs at least 1 token");
  if (size > static_cast<size_t>(limits.max_source)) {
    return Invalid("source has ", size, " tokens, more than the limit of ", limits.max_source,
                   ": shorten it");
  }
  for (size_t i = 0; !request.ids_checked && i < size; ++i) {
    absl::Status status = CheckId("source", i, request.source[i], limits.source_vocab_size);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status CheckLength(const Request& request, const ExecutorLimits& limits) {
  const int64_t positions = request.positions();
  const int64_t limit = limits.max_positions();
  if (limit == 0 || positions <= limit) return absl::OkStatus();
  const char* const what = limit == limits.position_limit
                               ? " positions of the model"
                               : " positions that the key/value cache holds";
  if (request.from != nullptr) {
    return Invalid("session of ", request.from->position(), " tokens, prompt of ",
                   request.prompt_tokens(), " and max_tokens of ", request.max_tokens, " need ",
                   positions, " positions, more than the ", limit, what,
                   ": lower max_tokens, or "
                   "begin another session");
  }
  // An encoder-decoder's prompt is the decoder's start token and how the target begins.
  const char* const prompt = request.source.empty() ? "prompt" : "target";
  if (request.score) {
    return Invalid(prompt, " of ", request.prompt.size(), " tokens needs ", positions,
                   " positions to score, more than the ", limit, what, ": shorten it");
  }
  return Invalid(prompt, " of ", request.prompt.size(), " tokens and max_tokens of ",
                 request.max_tokens, " need ", positions, " positions, more than the ", limit, what,
                 ": shorten the ", prompt, " or lower max_tokens");
}

}  // namespace

absl::Status ValidateRequest(const Request& request, const ExecutorLimits& limits,
                             const SchedulerOptions& options, bool has_tokenizer) {
  if (request.prompt.empty()) return Invalid("prompt is empty: it needs at least 1 token");
  if (options.max_prompt_tokens > 0 && request.queue_tokens() > options.max_prompt_tokens) {
    return Invalid("prompt of ", request.queue_tokens(), " tokens is longer than the limit of ",
                   options.max_prompt_tokens, " (max_prompt_tokens): shorten it");
  }
  for (size_t i = 0; !request.ids_checked && i < request.prompt.size(); ++i) {
    absl::Status status = CheckId("prompt", i, request.prompt[i], limits.vocab_size);
    if (!status.ok()) return status;
  }
  absl::Status session = CheckSession(request);
  if (!session.ok()) return session;
  absl::Status source = CheckSource(request, limits);
  if (!source.ok()) return source;
  if (!request.score) {
    if (request.max_tokens < 1) {
      return Invalid("max_tokens is ", request.max_tokens, ", must be at least 1");
    }
    if (request.top_logprobs < 0 || request.top_logprobs > options.max_top_logprobs) {
      return Invalid("logprobs is ", request.top_logprobs, ", outside [0, ",
                     options.max_top_logprobs, "]");
    }
    absl::Status status = CheckSampling(request.sampling, limits.vocab_size, options);
    if (!status.ok()) return status;
    status = CheckStops(request, limits.vocab_size, options, has_tokenizer);
    if (!status.ok()) return status;
  }
  absl::Status length = CheckLength(request, limits);
  if (!length.ok() || request.score) return length;
  return CheckBeams(request, limits, options);
}

}  // namespace t2r
