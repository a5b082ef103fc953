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
absl::Status FillSampling(const v1::Sampling& in, bool beams, const ModelLimits& limits,
                          SamplingParams* out) {
  if (!beams) {
    *out = limits.defaults;
  } else {
    out->temperature = 0;  // the model's defaults are not meant for beams, which are not sampled
  }
  if (in.has_temperature()) out->temperature = in.temperature();
  if (in.has_top_k()) out->top_k = ClampToInt(in.top_k());
  if (in.has_top_p()) out->top_p = in.top_p() == 0 ? 1.0F : in.top_p();
  if (in.has_min_p()) out->min_p = in.min_p();
  if (in.has_repetition_penalty()) {
    out->repetition_penalty = in.repetition_penalty() == 0 ? 1.0F : in.repetition_penalty();
  }
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

absl::Status FillBeams(const v1::Beams& in, BeamParams* out) {
  if (in.count() == 0) {
    return absl::InvalidArgumentError("beams.count: 0; give at least 1, or leave beams unset");
  }
  out->count = ClampToInt(in.count());
  out->length_penalty = in.has_length_penalty() ? in.length_penalty() : 1.0F;
  out->num_return = in.num_return() == 0 ? 1 : ClampToInt(in.num_return());
  switch (in.early_stopping()) {
    case v1::EARLY_STOPPING_FALSE:
      out->early_stopping = EarlyStopping::kFalse;
      return absl::OkStatus();
    case v1::EARLY_STOPPING_TRUE:
      out->early_stopping = EarlyStopping::kTrue;
      return absl::OkStatus();
    case v1::EARLY_STOPPING_NEVER:
      out->early_stopping = EarlyStopping::kNever;
      return absl::OkStatus();
    default:
      return absl::InvalidArgumentError(
          absl::StrCat("beams.early_stopping: ", static_cast<int>(in.early_stopping()),
                       " is none of FALSE, TRUE and NEVER"));
  }
}

// A oneof of a text or ids, as Generate and Score have several.
struct TextOrIds {
  const char* text_field = "";
  const char* ids_field = "";
  const std::string* text = nullptr;
  const v1::TokenIds* ids = nullptr;

  bool given() const { return text != nullptr || ids != nullptr; }
  bool empty() const { return text != nullptr ? text->empty() : ids->ids().empty(); }
};

// Takes ids as they are, at least `least` of them, and leaves a text for later.
absl::Status Take(const TextOrIds& in, int64_t vocab_size, int least, const ServedModel& model,
                  std::vector<int32_t>* ids, std::optional<Text>* text) {
  if (in.text != nullptr) {
    *text = Text{in.text_field, *in.text};
    return CheckText(in.text_field, *in.text, model);
  }
  if (in.ids->ids_size() < least) {
    return absl::InvalidArgumentError(absl::StrCat(in.ids_field, ": no ids; give at least one"));
  }
  return AppendIds(in.ids_field, *in.ids, vocab_size, ids);
}

absl::Status NotSet(const char* what, const std::string& advice) {
  return absl::InvalidArgumentError(absl::StrCat(what, ": not set; ", advice));
}

absl::Status NoEncoder(const char* what) {
  return absl::InvalidArgumentError(
      absl::StrCat(what, ": the model is not an encoder-decoder; leave it out"));
}

TextOrIds PromptOf(const v1::GenerateRequest& in) {
  return {"text", "tokens", in.has_text() ? &in.text() : nullptr,
          in.has_tokens() ? &in.tokens() : nullptr};
}
TextOrIds PrefixOf(const v1::GenerateRequest& in) {
  return {"target_prefix_text", "target_prefix_tokens",
          in.has_target_prefix_text() ? &in.target_prefix_text() : nullptr,
          in.has_target_prefix_tokens() ? &in.target_prefix_tokens() : nullptr};
}
TextOrIds TargetOf(const v1::ScoreRequest& in) {
  return {"text", "tokens", in.has_text() ? &in.text() : nullptr,
          in.has_tokens() ? &in.tokens() : nullptr};
}
TextOrIds SourceOf(const v1::ScoreRequest& in) {
  return {"source_text", "source_tokens", in.has_source_text() ? &in.source_text() : nullptr,
          in.has_source_tokens() ? &in.source_tokens() : nullptr};
}

absl::Status TakePrompt(const v1::GenerateRequest& in, const ServedModel& model,
                        PreparedRequest* out) {
  const ModelLimits& limits = model.limits;
  const TextOrIds prompt = PromptOf(in);
  const TextOrIds prefix = PrefixOf(in);
  // A turn may go on without one.
  const bool may_lack = in.has_session() && (!prompt.given() || prompt.empty());
  if (!prompt.given() && !may_lack) return NotSet("prompt", "give text or tokens");
  Request& request = out->request;
  if (!limits.encoder_decoder()) {
    if (prefix.given()) return NoEncoder("target_prefix");
    if (may_lack) return absl::OkStatus();
    return Take(prompt, limits.vocab_size, 1, model, &request.prompt, &out->target);
  }
  request.prompt = {limits.decoder_start_token_id};
  absl::Status status;
  if (!may_lack) {
    status = Take(prompt, limits.source_vocab_size, 1, model, &request.source, &out->source);
  }
  if (!status.ok() || !prefix.given()) return status;
  return Take(prefix, limits.vocab_size, 0, model, &request.prompt, &out->target);
}

absl::Status TakeTarget(const v1::ScoreRequest& in, const ServedModel& model,
                        PreparedRequest* out) {
  const ModelLimits& limits = model.limits;
  const TextOrIds target = TargetOf(in);
  const TextOrIds source = SourceOf(in);
  if (!target.given()) return NotSet("target", "give text or tokens");
  Request& request = out->request;
  if (!limits.encoder_decoder()) {
    if (source.given()) return NoEncoder("source");
    return Take(target, limits.vocab_size, 1, model, &request.prompt, &out->target);
  }
  if (!source.given()) {
    return NotSet("source", "the model is an encoder-decoder: give source_text or source_tokens");
  }
  absl::Status status =
      Take(source, limits.source_vocab_size, 1, model, &request.source, &out->source);
  request.prompt = {limits.decoder_start_token_id};
  if (!status.ok()) return status;
  return Take(target, limits.vocab_size, 1, model, &request.prompt, &out->target);
}

// At least the tokens of a text: every token has a byte, besides what goes before and after it and
// a leading space.
int64_t TokenBound(const std::string& text) { return static_cast<int64_t>(text.size()) + 2; }

int64_t VarintBytes(int64_t value) {
  int64_t bytes = 1;
  for (; value >= 128; value >>= 7) ++bytes;
  return bytes;
}

// A field of `bytes` bytes on the wire, with its tag, of a number below 16, and its length.
int64_t FieldBytes(int64_t bytes) { return 1 + VarintBytes(bytes) + bytes; }

// The most that hypotheses' ids take, of each token of each that is returned.
int64_t HypothesisBytes(const ModelLimits& limits, const Request& request) {
  return VarintBytes(limits.vocab_size - 1) * request.beams.num_return;
}

// Sets max_tokens where it was 0: the model's default or the server's limit, or as many as still
// fit the model's positions and the answer.
void ResolveMaxTokens(const ModelLimits& limits, Request* request) {
  if (request->max_tokens > 0) return;
  request->max_tokens = limits.default_max_tokens;
  if (request->beams.count > 0 && request->beams.num_return > 0 && limits.max_response_bytes > 0) {
    const int64_t fit = limits.max_response_bytes / HypothesisBytes(limits, *request);
    request->max_tokens = std::clamp<int64_t>(fit, 1, request->max_tokens);
  }
  if (limits.max_positions > 0) {
    const int64_t before = request->from == nullptr ? 0 : request->from->slot.positions;
    const int64_t left =
        limits.max_positions - before - static_cast<int64_t>(request->prompt.size()) + 1;
    request->max_tokens = std::clamp<int64_t>(left, 1, request->max_tokens);
  }
}

// The answer to a Score: exactly its size.
int64_t ScoreAnswerBytes(const Request& request) {
  // An encoder-decoder's start token is not in the answer, and is not predicted.
  const auto ids = std::span<const int32_t>(request.prompt).subspan(request.source.empty() ? 0 : 1);
  const auto scores = static_cast<int64_t>(request.prompt.size()) - 1;
  int64_t bytes = 0;
  for (const int32_t id : ids) bytes += VarintBytes(id);
  return (scores > 0 ? FieldBytes(4 * scores) : 0) +
         FieldBytes(ids.empty() ? 0 : FieldBytes(bytes));
}

// Whether the answer fits --max-response-bytes, as far as that is known before the work.
absl::Status CheckAnswer(const Request& request, const ModelLimits& limits) {
  const int64_t limit = limits.max_response_bytes;
  if (limit == 0) return absl::OkStatus();
  if (request.score) {
    const int64_t bytes = ScoreAnswerBytes(request);
    if (bytes <= limit) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("target: the answer to ", request.prompt.size(), " tokens has ", bytes,
                     " bytes, more than ", "this server's limit of ", limit,
                     " (--max-response-bytes); score fewer at a time"));
  }
  if (request.beams.count == 0 || request.beams.num_return == 0) return absl::OkStatus();
  if (request.max_tokens <= limit / HypothesisBytes(limits, request)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("max_tokens: ", request.beams.num_return, " hypotheses of ", request.max_tokens,
                   " tokens can have more bytes than this server's limit of ", limit,
                   " (--max-response-bytes); lower max_tokens or beams.num_return"));
}

// All that Submit will check, now, before anything is reserved or tokenised: with the ids, or with
// the fewest that a text can become.
absl::Status Validate(PreparedRequest& prepared, const ServedModel& model) {
  prepared.request.ids_checked = true;
  if (prepared.complete()) {
    if (absl::Status s = CheckAnswer(prepared.request, model.limits); !s.ok()) return s;
    const bool nothing = prepared.request.score && ScoresNothing(prepared.request);
    return nothing ? absl::OkStatus() : model.scheduler->Validate(prepared.request);
  }
  // What is not complete has few ids, if any.
  Request probe = prepared.request;
  const bool lacks_source = prepared.turn && probe.source.empty();
  if (prepared.source || (lacks_source && model.limits.encoder_decoder())) probe.source = {0};
  // A target prefix may be empty; a prompt or a target that is scored has a token, and a turn goes
  // on from one.
  const bool lacks_prompt = prepared.turn && probe.prompt.empty();
  if (lacks_prompt || (prepared.target && (probe.score || probe.prompt.empty()))) {
    probe.prompt.push_back(0);
  }
  if (probe.score && ScoresNothing(probe)) return absl::OkStatus();
  if (!probe.score) {
    if (absl::Status s = CheckAnswer(probe, model.limits); !s.ok()) return s;
    probe.max_tokens = std::max<int64_t>(probe.max_tokens, 1);
  }
  return model.scheduler->Validate(probe);
}

// Of a text whose ids must be the model's own: a tokenizer may know tokens that the model has no
// rows for. `names`: whether the tokenizer names the ids.
absl::Status CheckKnown(const char* field, std::span<const int32_t> ids, bool names,
                        int64_t vocab_size, const Tokenizer& tokenizer) {
  const auto unknown =
      std::find_if(ids.begin(), ids.end(), [&](int32_t id) { return id < 0 || id >= vocab_size; });
  if (unknown == ids.end()) return absl::OkStatus();
  const std::string text = names ? absl::StrCat(" \"", tokenizer.TokenText(*unknown), "\"") : "";
  return absl::InvalidArgumentError(
      absl::StrCat(field, ": holds the token", text, " of id ", *unknown,
                   ", which the tokenizer knows and the model does not: its vocabulary has ",
                   vocab_size, " tokens"));
}

// Appends the text's ids.
absl::Status Encode(const Text& text, bool source, bool special_tokens, const ServedModel& model,
                    std::vector<int32_t>* ids) {
  const Tokenizer& tokenizer = *model.tokenizer;
  const absl::StatusOr<std::vector<int32_t>> encoded =
      source ? tokenizer.Encode(text.text, special_tokens)
             : tokenizer.EncodeTarget(text.text, special_tokens);
  if (!encoded.ok()) {
    return absl::Status(encoded.status().code(),
                        absl::StrCat(text.field, ": ", encoded.status().message()));
  }
  const ModelLimits& limits = model.limits;
  const bool of_source = source && limits.encoder_decoder();
  absl::Status known =
      CheckKnown(text.field, *encoded, !of_source,
                 of_source ? limits.source_vocab_size : limits.vocab_size, tokenizer);
  if (!known.ok()) return known;
  ids->insert(ids->end(), encoded->begin(), encoded->end());
  if (!ids->empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      text.field,
      ": empty, and the model's tokenizer adds nothing to it; give at least one token"));
}

}  // namespace

int64_t PreparedRequest::queue_bound() const {
  return request.queue_tokens() + (source ? TokenBound(source->text) : 0) +
         (target ? TokenBound(target->text) : 0);
}

absl::Status AppendIds(const char* field, const v1::TokenIds& ids, int64_t vocab_size,
                       std::vector<int32_t>* out) {
  out->reserve(out->size() + static_cast<size_t>(ids.ids_size()));
  for (const uint32_t id : ids.ids()) {
    if (id >= vocab_size) return CheckId(field, id, vocab_size);
    out->push_back(static_cast<int32_t>(id));
  }
  return absl::OkStatus();
}

absl::Status CheckText(const char* field, const std::string& text, const ServedModel& model) {
  const int64_t limit = model.limits.max_text_bytes;
  if (limit > 0 && static_cast<int64_t>(text.size()) > limit) {
    return absl::InvalidArgumentError(
        absl::StrCat(field, ": ", text.size(), " bytes, and this server tokenises ", limit,
                     " at most (--max-text-bytes); send a shorter text, or token ids"));
  }
  return CheckHasTokenizer(model, field);
}

absl::Status CheckHasTokenizer(const ServedModel& model, const std::string& what) {
  if (model.tokenizer != nullptr) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat(what, ": the model directory has no tokenizer; only token ids are served"));
}

absl::StatusOr<PreparedRequest> MakeRequest(const v1::GenerateRequest& in,
                                            const ServedModel& model) {
  PreparedRequest prepared;
  Request& out = prepared.request;
  const ModelLimits& limits = model.limits;
  if (absl::Status s = TakePrompt(in, model, &prepared); !s.ok()) return s;
  if (in.max_tokens() > limits.max_tokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_tokens: ", in.max_tokens(), " is above this server's limit of ",
                     limits.max_tokens, " tokens a request (--max-tokens)"));
  }
  out.max_tokens = in.max_tokens();
  out.top_logprobs = ClampToInt(in.logprobs());
  if (absl::Status s = FillSampling(in.sampling(), in.has_beams(), limits, &out.sampling);
      !s.ok()) {
    return s;
  }
  if (in.has_beams()) {
    if (absl::Status s = FillBeams(in.beams(), &out.beams); !s.ok()) return s;
  }
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
  if (in.has_session()) {
    out.keep = true;
    prepared.turn = {.takes_sampling = !in.has_sampling(), .takes_seed = !in.sampling().has_seed()};
  }

  if (prepared.complete()) ResolveMaxTokens(limits, &out);
  if (absl::Status s = Validate(prepared, model); !s.ok()) return s;
  return prepared;
}

absl::StatusOr<PreparedRequest> MakeRequest(const v1::ScoreRequest& in, const ServedModel& model) {
  PreparedRequest prepared;
  prepared.request.score = true;
  if (absl::Status s = TakeTarget(in, model, &prepared); !s.ok()) return s;
  if (absl::Status s = Validate(prepared, model); !s.ok()) return s;
  return prepared;
}

absl::Status Join(std::shared_ptr<const SessionState> state, const ServedModel& model,
                  PreparedRequest* prepared) {
  const PreparedRequest::Turn turn = *prepared->turn;
  prepared->turn.reset();
  Request& request = prepared->request;
  const bool encoder_decoder = model.limits.encoder_decoder();
  const bool has_source = prepared->source || !request.source.empty();
  if (state == nullptr) {
    const bool prompted =
        encoder_decoder ? has_source : prepared->target || !request.prompt.empty();
    if (prompted) return absl::OkStatus();
    return absl::InvalidArgumentError(
        "prompt: not set, and the session has no tokens to go on from; give text or tokens");
  }
  if (encoder_decoder) {
    if (has_source || prepared->target || request.prompt.size() > 1) {
      return absl::InvalidArgumentError(
          "prompt: the session has a source already, and its target goes on; leave prompt and "
          "target_prefix out");
    }
    request.prompt.clear();
  }
  request.prompt.insert(request.prompt.begin(), state->last_token);
  if (turn.takes_sampling) {
    request.sampling = state->sampling;
  } else if (turn.takes_seed) {
    request.sampling.seed = state->sampling.seed;
  }
  request.from = std::move(state);
  return absl::OkStatus();
}

PreparedRequest MakeResumption() {
  PreparedRequest prepared;
  prepared.request.keep = true;
  prepared.turn = {.resumes = true};
  return prepared;
}

absl::Status Resume(const TurnParameters& turn, std::shared_ptr<const SessionState> state,
                    PreparedRequest* prepared) {
  prepared->turn.reset();
  Request& request = prepared->request;
  const int64_t position = state == nullptr ? 0 : state->position();
  const int64_t generated = turn.generated(position);
  if (generated == 0 && position != turn.start) {
    return absl::InvalidArgumentError(absl::StrCat("resume_at: the turn began at position ",
                                                   turn.start, ", and its state is at ", position));
  }
  request.max_tokens = turn.max_tokens - generated;
  if (request.max_tokens < 1) {
    return absl::InvalidArgumentError("resume_at: the turn has no tokens left");
  }
  if (generated == 0) {
    request.prompt = turn.prompt;
    request.source = turn.source;
  }
  if (state != nullptr) request.prompt.insert(request.prompt.begin(), state->last_token);
  request.from = std::move(state);
  request.sampling = turn.sampling;
  request.stop = turn.stop;
  request.include_stop = turn.include_stop;
  request.stop_token_ids = turn.stop_token_ids;
  request.ignore_eos = turn.ignore_eos;
  request.top_logprobs = turn.top_logprobs;
  return absl::OkStatus();
}

TurnParameters TurnOf(const Request& request, int64_t start) {
  TurnParameters turn;
  turn.start = start;
  turn.prompt.assign(request.prompt.begin() + (request.from == nullptr ? 0 : 1),
                     request.prompt.end());
  turn.source = request.source;
  turn.max_tokens = request.max_tokens;
  turn.sampling = request.sampling;
  turn.stop = request.stop;
  turn.include_stop = request.include_stop;
  turn.stop_token_ids = request.stop_token_ids;
  turn.ignore_eos = request.ignore_eos;
  turn.top_logprobs = request.top_logprobs;
  return turn;
}

absl::StatusOr<Request> Complete(PreparedRequest prepared, const ServedModel& model) {
  Request& request = prepared.request;
  if (prepared.source) {
    absl::Status s = Encode(*prepared.source, true, true, model, &request.source);
    if (!s.ok()) return s;
  }
  if (prepared.target) {
    // A prefix goes on, so it has no end; what a turn adds goes on too, and begins nothing.
    const bool special_tokens =
        request.score || (!model.limits.encoder_decoder() && request.from == nullptr);
    absl::Status s = Encode(*prepared.target, false, special_tokens, model, &request.prompt);
    if (!s.ok()) return s;
  }
  if (!request.score) ResolveMaxTokens(model.limits, &request);
  if (absl::Status s = CheckAnswer(request, model.limits); !s.ok()) return s;
  return std::move(request);
}

bool ScoresNothing(const Request& request) { return request.prompt.size() <= 1; }

void FromIds(std::span<const int32_t> ids, v1::TokenIds* out) {
  out->mutable_ids()->Assign(ids.begin(), ids.end());
}

}  // namespace t2r::server
