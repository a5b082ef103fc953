#include "server/requests.h"

#include <algorithm>
#include <limits>
#include <random>

#include "absl/strings/str_cat.h"

namespace t2r::server {
namespace {

absl::Status CheckId(const std::string& field, uint32_t id, int64_t vocab_size) {
  if (id < vocab_size) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(field, ": id ", id, " is outside the vocabulary of ", vocab_size));
}

int32_t ClampToInt(uint32_t value) {
  return static_cast<int32_t>(std::min<uint32_t>(value, std::numeric_limits<int32_t>::max()));
}

uint64_t RandomSeed() {
  std::random_device device;
  return (uint64_t{device()} << 32) | device();
}

// Ranges are left to Scheduler::Validate, which every front end shares.
absl::Status FillSampling(const v1::Sampling& in, const ModelLimits& limits, SamplingParams* out) {
  out->temperature = in.has_temperature() ? in.temperature() : limits.default_temperature;
  out->top_k = ClampToInt(in.top_k());
  out->top_p = in.top_p() == 0 ? 1.0F : in.top_p();
  out->min_p = in.min_p();
  out->repetition_penalty = in.repetition_penalty() == 0 ? 1.0F : in.repetition_penalty();
  out->frequency_penalty = in.frequency_penalty();
  out->presence_penalty = in.presence_penalty();
  for (const auto& [id, bias] : in.logit_bias()) {
    if (absl::Status s = CheckId("sampling.logit_bias", id, limits.vocab_size); !s.ok()) return s;
    out->logit_bias.emplace_back(static_cast<int32_t>(id), bias);
  }
  // The map's order is not defined; what is computed from it should be.
  std::sort(out->logit_bias.begin(), out->logit_bias.end());
  out->seed = in.has_seed() ? in.seed() : RandomSeed();
  return absl::OkStatus();
}

absl::Status CheckTokens(const v1::TokenIds& ids, int64_t vocab_size) {
  if (ids.ids().empty()) return absl::InvalidArgumentError("tokens: no ids; give at least one");
  return CheckIds(ids, vocab_size);
}

}  // namespace

absl::Status CheckIds(const v1::TokenIds& ids, int64_t vocab_size) {
  for (const uint32_t id : ids.ids()) {
    if (id >= vocab_size) return CheckId("tokens", id, vocab_size);
  }
  return absl::OkStatus();
}

absl::Status CheckHasTokenizer(const ServedModel& model, const std::string& what) {
  if (model.tokenizer != nullptr) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat(what, ": the model directory has no tokenizer; only token ids are served"));
}

absl::StatusOr<Request> MakeRequest(const v1::GenerateRequest& in, const ServedModel& model) {
  Request out;
  const ModelLimits& limits = model.limits;
  if (in.max_tokens() > limits.max_tokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_tokens: ", in.max_tokens(), " is above this server's limit of ",
                     limits.max_tokens, " tokens a request (--max-tokens)"));
  }
  out.max_tokens = in.max_tokens();
  out.top_logprobs = ClampToInt(in.logprobs());
  if (absl::Status s = FillSampling(in.sampling(), limits, &out.sampling); !s.ok()) return s;
  out.stop.assign(in.stop().begin(), in.stop().end());
  if (!out.stop.empty()) {
    if (absl::Status s = CheckHasTokenizer(model, "stop"); !s.ok()) return s;
  }
  out.include_stop = in.include_stop();
  for (const uint32_t id : in.stop_token_ids()) {
    if (absl::Status s = CheckId("stop_token_ids", id, limits.vocab_size); !s.ok()) return s;
    out.stop_token_ids.push_back(static_cast<int32_t>(id));
  }
  out.ignore_eos = in.ignore_eos();

  // All that Submit will check, now, before anything is reserved or tokenised: with the ids, or
  // with the shortest prompt that a text can become.
  if (in.prompt_case() == v1::GenerateRequest::kTokens) {
    out.prompt = ToIds(in.tokens());
    ResolveMaxTokens(limits, &out);
    if (absl::Status s = model.scheduler->Validate(out); !s.ok()) return s;
  } else {
    out.prompt = {0};
    out.max_tokens = std::max<int64_t>(out.max_tokens, 1);
    if (absl::Status s = model.scheduler->Validate(out); !s.ok()) return s;
    out.max_tokens = in.max_tokens();
    out.prompt.clear();
  }
  return out;
}

absl::Status CheckPrompt(const v1::GenerateRequest& in, const ServedModel& model) {
  switch (in.prompt_case()) {
    case v1::GenerateRequest::kText:
      return CheckHasTokenizer(model, "text");
    case v1::GenerateRequest::kTokens:
      return CheckTokens(in.tokens(), model.limits.vocab_size);
    case v1::GenerateRequest::PROMPT_NOT_SET:
      break;
  }
  return absl::InvalidArgumentError("prompt: not set; give text or tokens");
}

absl::Status CheckTarget(const v1::ScoreRequest& in, const ServedModel& model) {
  switch (in.target_case()) {
    case v1::ScoreRequest::kText:
      return CheckHasTokenizer(model, "text");
    case v1::ScoreRequest::kTokens:
      return CheckTokens(in.tokens(), model.limits.vocab_size);
    case v1::ScoreRequest::TARGET_NOT_SET:
      break;
  }
  return absl::InvalidArgumentError("target: not set; give text or tokens");
}

std::vector<int32_t> ToIds(const v1::TokenIds& ids) { return {ids.ids().begin(), ids.ids().end()}; }

void FromIds(std::span<const int32_t> ids, v1::TokenIds* out) {
  out->mutable_ids()->Assign(ids.begin(), ids.end());
}

int64_t TokenBound(const std::string& text) { return static_cast<int64_t>(text.size()) + 2; }

absl::StatusOr<std::vector<int32_t>> EncodeText(const std::string& text, const ServedModel& model) {
  absl::StatusOr<std::vector<int32_t>> ids = model.tokenizer->Encode(text, true);
  if (!ids.ok()) {
    return absl::Status(ids.status().code(), absl::StrCat("text: ", ids.status().message()));
  }
  if (ids->empty()) {
    return absl::InvalidArgumentError(
        "text: empty, and the model's tokenizer adds no BOS; give at least one token");
  }
  return ids;
}

void ResolveMaxTokens(const ModelLimits& limits, Request* request) {
  if (request->max_tokens > 0) return;
  request->max_tokens = limits.max_tokens;
  if (limits.max_positions > 0) {
    const int64_t left = limits.max_positions - static_cast<int64_t>(request->prompt.size()) + 1;
    request->max_tokens = std::clamp<int64_t>(left, 1, request->max_tokens);
  }
}

}  // namespace t2r::server
