#include "client/wire.h"

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "client/client.h"
#include "engine/text/utf8.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace t2r::client {
namespace {

constexpr char kRetryInfoUrl[] = "type.googleapis.com/google.rpc.RetryInfo";

absl::Duration FromProto(const google::protobuf::Duration& d) {
  return absl::Seconds(d.seconds()) + absl::Nanoseconds(d.nanos());
}

Logprob FromProto(const v1::Logprob& l) { return {l.token_id(), l.logprob()}; }

FinishReason FromProto(v1::FinishReason reason) {
  switch (reason) {
    case v1::FINISH_REASON_UNSPECIFIED:
      return FinishReason::kUnspecified;
    case v1::FINISH_REASON_STOP:
      return FinishReason::kStop;
    case v1::FINISH_REASON_LENGTH:
      return FinishReason::kLength;
    case v1::FINISH_REASON_EOS:
      return FinishReason::kEos;
    case v1::FINISH_REASON_DRAINED:
      return FinishReason::kDrained;
    default:
      return FinishReason::kOther;
  }
}

// prompt: ids.
void SetIds(const Prompt& prompt, v1::TokenIds* out) {
  const TokenIds& ids = std::get<TokenIds>(prompt);
  out->mutable_ids()->Add(ids.begin(), ids.end());
}

Delta FromProto(const v1::Delta& proto) {
  Delta delta;
  delta.text = proto.text();
  delta.position = proto.position();
  delta.token_ids.assign(proto.token_ids().begin(), proto.token_ids().end());
  delta.logprobs.reserve(proto.logprobs_size());
  for (const v1::TokenLogprobs& token : proto.logprobs()) {
    TokenLogprobs& out = delta.logprobs.emplace_back();
    out.chosen = FromProto(token.chosen());
    for (const v1::Logprob& l : token.top()) out.top.push_back(FromProto(l));
  }
  return delta;
}

Finished FromProto(const v1::Finished& proto) {
  Finished finished;
  finished.reason = FromProto(proto.reason());
  finished.stop = proto.stop();
  finished.session_position = proto.session_position();
  finished.held_text = proto.held_text();
  for (const v1::Hypothesis& from : proto.hypotheses()) {
    Hypothesis& to = finished.hypotheses.emplace_back();
    to.text = from.text();
    to.token_ids.assign(from.token_ids().begin(), from.token_ids().end());
    to.score = from.score();
    to.reason = FromProto(from.reason());
  }
  finished.prompt_tokens = proto.usage().prompt_tokens();
  finished.cached_prompt_tokens = proto.usage().cached_prompt_tokens();
  finished.generated_tokens = proto.usage().generated_tokens();
  finished.queue_time = FromProto(proto.usage().queue_time());
  finished.prefill_time = FromProto(proto.usage().prefill_time());
  finished.decode_time = FromProto(proto.usage().decode_time());
  return finished;
}

GenerationDefaults FromProto(const v1::GenerationDefaults& proto) {
  GenerationDefaults defaults;
  if (proto.has_temperature()) defaults.temperature = proto.temperature();
  if (proto.has_top_k()) defaults.top_k = proto.top_k();
  if (proto.has_top_p()) defaults.top_p = proto.top_p();
  if (proto.has_min_p()) defaults.min_p = proto.min_p();
  if (proto.has_repetition_penalty()) defaults.repetition_penalty = proto.repetition_penalty();
  if (proto.has_max_tokens()) defaults.max_tokens = proto.max_tokens();
  return defaults;
}

absl::Time FromProto(const google::protobuf::Timestamp& t) {
  return absl::FromUnixSeconds(t.seconds()) + absl::Nanoseconds(t.nanos());
}

void ToProto(const SessionRef& session, v1::SessionRef* proto) {
  proto->set_id(session.id);
  proto->set_create(session.create);
  if (session.expected_position) proto->set_expected_position(*session.expected_position);
  if (session.resume_at) proto->set_resume_at(*session.resume_at);
  proto->set_allow_inexact(session.allow_inexact);
  if (session.ttl != absl::ZeroDuration()) client::ToProto(session.ttl, proto->mutable_ttl());
}

void ToProto(const Beams& beams, v1::Beams* proto) {
  proto->set_count(beams.count);
  proto->set_length_penalty(beams.length_penalty);
  proto->set_num_return(beams.num_return);
  switch (beams.early_stopping) {
    case EarlyStopping::kFalse:
      proto->set_early_stopping(v1::EARLY_STOPPING_FALSE);
      break;
    case EarlyStopping::kTrue:
      proto->set_early_stopping(v1::EARLY_STOPPING_TRUE);
      break;
    case EarlyStopping::kNever:
      proto->set_early_stopping(v1::EARLY_STOPPING_NEVER);
      break;
  }
}

absl::Status CheckText(const std::string& field, const std::string& text) {
  const size_t invalid = FindInvalidUtf8(text);
  if (invalid == std::string::npos) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(field, ": the text is not valid UTF-8 at byte ", invalid));
}

}  // namespace

absl::Status CheckTexts(const google::protobuf::Message& message) {
  using google::protobuf::FieldDescriptor;
  const google::protobuf::Reflection& reflection = *message.GetReflection();
  std::vector<const FieldDescriptor*> fields;
  reflection.ListFields(message, &fields);
  for (const FieldDescriptor* field : fields) {
    absl::Status status;
    if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE && !field->is_repeated()) {
      status = CheckTexts(reflection.GetMessage(message, field));
    } else if (field->type() == FieldDescriptor::TYPE_STRING && !field->is_repeated()) {
      status = CheckText(field->name(), reflection.GetString(message, field));
    } else if (field->type() == FieldDescriptor::TYPE_STRING) {
      for (int i = 0; status.ok() && i < reflection.FieldSize(message, field); ++i) {
        status = CheckText(field->name(), reflection.GetRepeatedString(message, field, i));
      }
    }
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

const char* FinishReasonName(FinishReason reason) {
  switch (reason) {
    case FinishReason::kUnspecified:
      return "unspecified";
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kEos:
      return "eos";
    case FinishReason::kDrained:
      return "drained";
    case FinishReason::kOther:
      break;
  }
  return "other";
}

v1::GenerateRequest ToProto(const GenerateRequest& request) {
  v1::GenerateRequest proto;
  if (const auto* text = std::get_if<std::string>(&request.prompt)) {
    proto.set_text(*text);
  } else {
    SetIds(request.prompt, proto.mutable_tokens());
  }
  if (request.target_prefix) {
    if (const auto* text = std::get_if<std::string>(&*request.target_prefix)) {
      proto.set_target_prefix_text(*text);
    } else {
      SetIds(*request.target_prefix, proto.mutable_target_prefix_tokens());
    }
  }
  proto.set_max_tokens(request.max_tokens);
  const Sampling& s = request.sampling;
  if (request.session) ToProto(*request.session, proto.mutable_session());
  // A turn without is one that samples as the turn before.
  v1::Sampling none;
  v1::Sampling& sampling = request.session && s == Sampling() ? none : *proto.mutable_sampling();
  if (s.temperature) sampling.set_temperature(*s.temperature);
  if (s.top_k) sampling.set_top_k(*s.top_k);
  if (s.top_p) sampling.set_top_p(*s.top_p);
  if (s.min_p) sampling.set_min_p(*s.min_p);
  if (s.repetition_penalty) sampling.set_repetition_penalty(*s.repetition_penalty);
  sampling.set_frequency_penalty(s.frequency_penalty);
  sampling.set_presence_penalty(s.presence_penalty);
  for (const auto& [id, bias] : s.logit_bias) (*sampling.mutable_logit_bias())[id] = bias;
  if (s.seed) sampling.set_seed(*s.seed);
  for (const std::string& stop : request.stop) proto.add_stop(stop);
  proto.set_include_stop(request.include_stop);
  proto.mutable_stop_token_ids()->Add(request.stop_token_ids.begin(), request.stop_token_ids.end());
  proto.set_ignore_eos(request.ignore_eos);
  proto.set_logprobs(request.logprobs);
  if (request.beams) ToProto(*request.beams, proto.mutable_beams());
  return proto;
}

v1::ScoreRequest ToScoreProto(const Prompt* source, const Prompt& target) {
  v1::ScoreRequest proto;
  if (const auto* text = std::get_if<std::string>(&target)) {
    proto.set_text(*text);
  } else {
    SetIds(target, proto.mutable_tokens());
  }
  if (source == nullptr) return proto;
  if (const auto* text = std::get_if<std::string>(source)) {
    proto.set_source_text(*text);
  } else {
    SetIds(*source, proto.mutable_source_tokens());
  }
  return proto;
}

std::optional<Event> FromProto(const v1::GenerateResponse& response) {
  switch (response.event_case()) {
    case v1::GenerateResponse::kStarted:
      return Started{response.started().seed(), response.started().prompt_tokens(),
                     response.started().max_tokens(), response.started().session_id(),
                     response.started().session_position()};
    case v1::GenerateResponse::kDelta:
      return FromProto(response.delta());
    case v1::GenerateResponse::kFinished:
      return FromProto(response.finished());
    case v1::GenerateResponse::EVENT_NOT_SET:
      break;
  }
  return std::nullopt;
}

ScoreResult FromProto(const v1::ScoreResponse& response) {
  return {{response.tokens().ids().begin(), response.tokens().ids().end()},
          {response.logprobs().begin(), response.logprobs().end()}};
}

ModelInfo FromProto(const v1::GetModelResponse& response) {
  ModelInfo info;
  info.name = response.name();
  info.architecture = response.architecture();
  info.layer_types.assign(response.layer_types().begin(), response.layer_types().end());
  info.feature_map = response.feature_map();
  info.feature_size = response.feature_size();
  info.state_bytes_per_session = response.state_bytes_per_session();
  info.kv_bytes_per_position = response.kv_bytes_per_position();
  info.vocab_size = response.vocab_size();
  info.eos_token_ids.assign(response.eos_token_ids().begin(), response.eos_token_ids().end());
  if (response.has_bos_token_id()) info.bos_token_id = response.bos_token_id();
  info.has_tokenizer = response.has_tokenizer();
  info.parameters_bytes = response.parameters_bytes();
  info.dtype = response.dtype();
  info.backend = response.backend();
  info.exactness_class = response.exactness_class();
  info.has_sessions = response.has_sessions();
  info.encoder_decoder = response.encoder_decoder();
  info.cross_layer_types.assign(response.cross_layer_types().begin(),
                                response.cross_layer_types().end());
  info.source_vocab_size = response.source_vocab_size();
  info.encoder_layers = response.encoder_layers();
  info.source_kv_bytes_per_position = response.source_kv_bytes_per_position();
  if (response.has_decoder_start_token_id()) {
    info.decoder_start_token_id = response.decoder_start_token_id();
  }
  const v1::Memory& memory = response.memory();
  info.memory = {memory.total_bytes(),       memory.weights_bytes(), memory.workspace_bytes(),
                 memory.states_bytes(),      memory.kv_bytes(),      memory.free_bytes(),
                 memory.prefix_cache_bytes()};
  const v1::Limits& limits = response.limits();
  info.limits = {limits.max_sessions(),       limits.max_positions(),     limits.max_tokens(),
                 limits.max_queue_requests(), limits.max_queue_tokens(),  limits.max_stop_strings(),
                 limits.max_logprobs(),       limits.max_request_bytes(), limits.max_beams(),
                 limits.max_source_tokens(),  limits.max_response_bytes()};
  info.defaults = FromProto(response.defaults());
  return info;
}

SessionInfo FromProto(const v1::Session& session) {
  return {session.id(),
          session.position(),
          session.bytes(),
          FromProto(session.create_time()),
          FromProto(session.use_time()),
          FromProto(session.expire_time()),
          FromProto(session.ttl())};
}

void ToProto(absl::Duration from, google::protobuf::Duration* to) {
  to->set_seconds(absl::ToInt64Seconds(from));
  to->set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(from % absl::Seconds(1))));
}

absl::Status MakeStatus(int code, const std::string& message, const std::string& details) {
  // gRPC's and abseil's codes have the same numbers.
  absl::Status status(static_cast<absl::StatusCode>(code), message);
  google::rpc::Status rich;
  if (!status.ok() && !details.empty() && rich.ParseFromString(details)) {
    for (const google::protobuf::Any& any : rich.details()) {
      status.SetPayload(any.type_url(), absl::Cord(any.value()));
    }
  }
  return status;
}

std::optional<absl::Duration> RetryDelay(const absl::Status& status) {
  const absl::optional<absl::Cord> payload = status.GetPayload(kRetryInfoUrl);
  google::rpc::RetryInfo info;
  if (!payload || !info.ParseFromString(std::string(*payload))) return std::nullopt;
  return FromProto(info.retry_delay());
}

}  // namespace t2r::client
