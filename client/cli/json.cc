#include "client/cli/json.h"

#include <nlohmann/json.hpp>

namespace t2r::client {
namespace {

using Json = nlohmann::ordered_json;

std::string Line(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

Json Logprobs(const std::vector<TokenLogprobs>& logprobs) {
  Json list = Json::array();
  for (const TokenLogprobs& token : logprobs) {
    Json top = Json::array();
    for (const Logprob& l : token.top) {
      top.push_back({{"token_id", l.token_id}, {"logprob", l.logprob}});
    }
    list.push_back({{"token_id", token.chosen.token_id},
                    {"logprob", token.chosen.logprob},
                    {"top", std::move(top)}});
  }
  return list;
}

Json Body(const Started& started) {
  Json body = {{"seed", started.seed},
               {"prompt_tokens", started.prompt_tokens},
               {"max_tokens", started.max_tokens}};
  if (!started.session_id.empty()) {
    body["session_id"] = started.session_id;
    body["session_position"] = started.session_position;
  }
  return {{"started", std::move(body)}};
}

Json Body(const Delta& delta) {
  Json body = {{"text", delta.text}, {"token_ids", delta.token_ids}};
  if (delta.position > 0) body["position"] = delta.position;
  if (!delta.logprobs.empty()) body["logprobs"] = Logprobs(delta.logprobs);
  return {{"delta", std::move(body)}};
}

Json Hypotheses(const std::vector<Hypothesis>& hypotheses) {
  Json list = Json::array();
  for (const Hypothesis& each : hypotheses) {
    list.push_back({{"text", each.text},
                    {"token_ids", each.token_ids},
                    {"score", each.score},
                    {"reason", FinishReasonName(each.reason)}});
  }
  return list;
}

Json Body(const Finished& finished) {
  Json body = {{"reason", FinishReasonName(finished.reason)},
               {"prompt_tokens", finished.prompt_tokens},
               {"cached_prompt_tokens", finished.cached_prompt_tokens},
               {"generated_tokens", finished.generated_tokens},
               {"queue_seconds", absl::ToDoubleSeconds(finished.queue_time)},
               {"prefill_seconds", absl::ToDoubleSeconds(finished.prefill_time)},
               {"decode_seconds", absl::ToDoubleSeconds(finished.decode_time)}};
  if (!finished.stop.empty()) body["stop"] = finished.stop;
  if (finished.session_position > 0) body["session_position"] = finished.session_position;
  if (!finished.held_text.empty()) body["held_text"] = finished.held_text;
  if (!finished.hypotheses.empty()) body["hypotheses"] = Hypotheses(finished.hypotheses);
  return {{"finished", std::move(body)}};
}

// Milliseconds; null where there are no samples.
Json Percentiles(const WeightedSamples& samples) {
  Json json;
  json["p50"] = samples.Percentile(50) * 1e3;
  json["p95"] = samples.Percentile(95) * 1e3;
  json["p99"] = samples.Percentile(99) * 1e3;
  return json;
}

}  // namespace

std::string ToJson(const Event& event) {
  return Line(std::visit([](const auto& e) { return Body(e); }, event));
}

std::string ToJson(size_t line, const std::string& source, const std::string& text,
                   const Translated& translated) {
  return Line({{"line", line},
               {"source", source},
               {"text", text},
               {"token_ids", translated.token_ids},
               {"reason", FinishReasonName(translated.reason)}});
}

std::string ToJson(const ScoreResult& result, double total, double perplexity) {
  return Line({{"tokens", result.tokens},
               {"logprobs", result.logprobs},
               {"total", total},
               {"perplexity", perplexity}});
}

std::string TokensToJson(const TokenIds& tokens) { return Line({{"tokens", tokens}}); }

std::string TextToJson(const std::string& text) { return Line({{"text", text}}); }

std::string ToJson(const ModelInfo& info) {
  const Limits& l = info.limits;
  Json json = {{"name", info.name},
               {"architecture", info.architecture},
               {"layer_types", info.layer_types},
               {"feature_map", info.feature_map},
               {"feature_size", info.feature_size},
               {"state_bytes_per_session", info.state_bytes_per_session},
               {"exactness_class", info.exactness_class},
               {"has_sessions", info.has_sessions},
               {"kv_bytes_per_position", info.kv_bytes_per_position},
               {"vocab_size", info.vocab_size},
               {"eos_token_ids", info.eos_token_ids},
               {"bos_token_id", nullptr},
               {"has_tokenizer", info.has_tokenizer},
               {"parameters_bytes", info.parameters_bytes},
               {"dtype", info.dtype},
               {"backend", info.backend}};
  if (info.bos_token_id) json["bos_token_id"] = *info.bos_token_id;
  if (info.encoder_decoder) {
    json["cross_layer_types"] = info.cross_layer_types;
    json["source_vocab_size"] = info.source_vocab_size;
    json["encoder_layers"] = info.encoder_layers;
    json["source_kv_bytes_per_position"] = info.source_kv_bytes_per_position;
    if (info.decoder_start_token_id) json["decoder_start_token_id"] = *info.decoder_start_token_id;
  }
  json["memory"] = {{"total_bytes", info.memory.total},
                    {"weights_bytes", info.memory.weights},
                    {"workspace_bytes", info.memory.workspace},
                    {"states_bytes", info.memory.states},
                    {"kv_bytes", info.memory.kv},
                    {"free_bytes", info.memory.free},
                    {"prefix_cache_bytes", info.memory.prefix_cache}};
  json["limits"] = {{"max_sessions", l.max_sessions},
                    {"max_positions", l.max_positions},
                    {"max_tokens", l.max_tokens},
                    {"max_queue_requests", l.max_queue_requests},
                    {"max_queue_tokens", l.max_queue_tokens},
                    {"max_stop_strings", l.max_stop_strings},
                    {"max_logprobs", l.max_logprobs},
                    {"max_request_bytes", l.max_request_bytes},
                    {"max_beams", l.max_beams},
                    {"max_source_tokens", l.max_source_tokens},
                    {"max_response_bytes", l.max_response_bytes}};
  Json defaults = Json::object();
  const auto add = [&defaults](const char* name, const auto& value) {
    if (value) defaults[name] = *value;
  };
  add("temperature", info.defaults.temperature);
  add("top_k", info.defaults.top_k);
  add("top_p", info.defaults.top_p);
  add("min_p", info.defaults.min_p);
  add("repetition_penalty", info.defaults.repetition_penalty);
  add("max_tokens", info.defaults.max_tokens);
  json["defaults"] = std::move(defaults);
  return Line(json);
}

std::string ToJson(const SessionInfo& session) {
  return Line({{"id", session.id},
               {"position", session.position},
               {"bytes", session.bytes},
               {"created", absl::FormatTime(session.created, absl::UTCTimeZone())},
               {"used", absl::FormatTime(session.used, absl::UTCTimeZone())},
               {"expires", absl::FormatTime(session.expires, absl::UTCTimeZone())},
               {"ttl_seconds", absl::ToDoubleSeconds(session.ttl)}});
}

std::string ToJson(const LoadResult& result, const LoadOptions& options) {
  return Line({{"sessions", result.sessions},
               {"prompt_tokens", options.prompt_tokens},
               {"output_tokens", options.output_tokens},
               {"completed", result.completed},
               {"cut", result.cut},
               {"tokens", result.tokens},
               {"messages", result.messages},
               {"seconds", result.seconds},
               {"tokens_per_second", result.TokensPerSecond()},
               {"time_to_first_token_ms", Percentiles(result.time_to_first_token)},
               {"inter_token_ms", Percentiles(result.inter_token)},
               {"errors", result.errors}});
}

std::string ToJson(const PositionResult& result) {
  return Line({{"position", result.at},
               {"tokens", result.tokens},
               {"mean_ms", result.mean * 1e3},
               {"p50_ms", result.median * 1e3}});
}

}  // namespace t2r::client
