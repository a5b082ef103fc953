// score, tokenize, detokenize, model, health.
#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/cli/commands.h"
#include "client/cli/json.h"
#include "client/cli/table.h"

namespace t2r::client {
namespace {

int Fail(const absl::Status& status, const CommandLine& line, const Console& console) {
  console.err << Explain(status, line.server);
  return kRpcErrorExitCode;
}

// "10 linear_attention, 2 full_attention", in order of appearance.
std::string SummarizeLayers(const std::vector<std::string>& layer_types) {
  std::vector<std::pair<std::string, int>> counts;
  for (const std::string& type : layer_types) {
    auto it = counts.begin();
    while (it != counts.end() && it->first != type) ++it;
    if (it == counts.end()) it = counts.insert(it, {type, 0});
    ++it->second;
  }
  return absl::StrJoin(counts, ", ", [](std::string* out, const auto& entry) {
    absl::StrAppend(out, entry.second, " ", entry.first);
  });
}

std::string OrNone(uint64_t limit) { return limit == 0 ? "none" : absl::StrCat(limit); }

std::string DefaultsOf(const GenerationDefaults& defaults) {
  std::vector<std::string> all;
  const auto add = [&all](const char* name, const auto& value) {
    if (value) all.push_back(absl::StrCat(name, " ", *value));
  };
  add("temperature", defaults.temperature);
  add("top-k", defaults.top_k);
  add("top-p", defaults.top_p);
  add("min-p", defaults.min_p);
  add("repetition penalty", defaults.repetition_penalty);
  add("tokens", defaults.max_tokens);
  return all.empty() ? "none" : absl::StrJoin(all, ", ");
}

}  // namespace

int RunScore(const CommandLine& line, Client& client, const Console& console) {
  const Prompt target = line.tokens ? Prompt(*line.tokens) : Prompt(line.text.value_or(""));
  const CallOptions options = MakeCallOptions(line);
  const absl::StatusOr<ScoreResult> result =
      line.source ? client.ScoreTranslation(*line.source, target, options)
                  : client.Score(target, options);
  if (!result.ok()) return Fail(result.status(), line, console);
  double total = 0;
  for (const float logprob : result->logprobs) total += logprob;
  const size_t n = result->logprobs.size();
  const double mean = total / static_cast<double>(n);
  const double perplexity = std::exp(-mean);
  if (line.json) {
    console.out << ToJson(*result, total, perplexity) << '\n';
    return 0;
  }
  Table table({"position", "token", "logprob"});
  // The first token has no score where nothing comes before it.
  const size_t unscored = result->tokens.size() - std::min(n, result->tokens.size());
  for (size_t i = 0; i < result->tokens.size(); ++i) {
    table.AddRow({absl::StrCat(i), absl::StrCat(result->tokens[i]),
                  i < unscored ? "-" : FormatNumber(result->logprobs[i - unscored], 4)});
  }
  console.out << table.ToString() << "total " << FormatNumber(total, 4) << " over " << n
              << " tokens, " << FormatNumber(-mean, 4) << " nats/token, perplexity "
              << FormatNumber(perplexity, 3) << '\n';
  return 0;
}

int RunTokenize(const CommandLine& line, Client& client, const Console& console) {
  const absl::StatusOr<TokenIds> tokens =
      client.Tokenize(line.text.value_or(""), MakeCallOptions(line));
  if (!tokens.ok()) return Fail(tokens.status(), line, console);
  console.out << (line.json ? TokensToJson(*tokens) : absl::StrJoin(*tokens, ",")) << '\n';
  return 0;
}

int RunDetokenize(const CommandLine& line, Client& client, const Console& console) {
  const absl::StatusOr<std::string> text =
      client.Detokenize(line.tokens.value_or(TokenIds()), MakeCallOptions(line));
  if (!text.ok()) return Fail(text.status(), line, console);
  console.out << (line.json ? TextToJson(*text) : *text) << '\n';
  return 0;
}

int RunModel(const CommandLine& line, Client& client, const Console& console) {
  const absl::StatusOr<ModelInfo> info = client.GetModel(MakeCallOptions(line));
  if (!info.ok()) return Fail(info.status(), line, console);
  if (line.json) {
    console.out << ToJson(*info) << '\n';
    return 0;
  }
  const Limits& l = info->limits;
  std::vector<std::pair<std::string, std::string>> rows = {
      {"model", info->name},
      {"architecture", info->architecture},
      {"layers",
       absl::StrCat(info->layer_types.size(), " (", SummarizeLayers(info->layer_types), ")")},
      {"feature map", info->feature_map.empty()
                          ? "none"
                          : absl::StrCat(info->feature_map, ", k = ", info->feature_size)},
      {"state a session", FormatBytes(info->state_bytes_per_session)},
      {"cache a position",
       info->kv_bytes_per_position == 0 ? "none" : FormatBytes(info->kv_bytes_per_position)},
      {"vocabulary", absl::StrCat(info->vocab_size)},
      {"tokenizer", info->has_tokenizer ? "yes" : "no, token ids only"},
      {"BOS", info->bos_token_id ? absl::StrCat(*info->bos_token_id) : "none"},
      {"EOS", info->eos_token_ids.empty() ? "none" : absl::StrJoin(info->eos_token_ids, ", ")},
      {"weights", absl::StrCat(info->dtype, ", ", FormatBytes(info->parameters_bytes))},
      {"backend", info->backend},
  };
  // Servers tell the whole and what is free of it only where --tell-memory says so.
  const Memory& memory = info->memory;
  for (const auto& [name, bytes] : {std::pair{"memory", memory.total},
                                    {"  workspace", memory.workspace},
                                    {"  states", memory.states},
                                    {"  keys and values", memory.kv},
                                    {"  prefixes", memory.prefix_cache},
                                    {"  free", memory.free}}) {
    if (bytes > 0) rows.emplace_back(name, FormatBytes(bytes));
  }
  rows.insert(rows.end(),
              {
                  {"sessions at once", absl::StrCat(l.max_sessions)},
                  {"positions a session", OrNone(l.max_positions)},
                  {"tokens a request", OrNone(l.max_tokens)},
                  {"queue", absl::StrCat(l.max_queue_requests, " requests, ", l.max_queue_tokens,
                                         " tokens")},
                  {"stop texts", absl::StrCat(l.max_stop_strings)},
                  {"logprobs", absl::StrCat(l.max_logprobs)},
                  {"beams", absl::StrCat(l.max_beams)},
                  {"request size", FormatBytes(l.max_request_bytes)},
                  {"answer size",
                   l.max_response_bytes == 0 ? "no limit" : FormatBytes(l.max_response_bytes)},
                  {"defaults", DefaultsOf(info->defaults)},
                  {"keeps sessions", info->has_sessions ? "yes" : "no"},
                  {"exactness class", info->exactness_class},
              });
  if (info->encoder_decoder) {
    rows.insert(rows.end(),
                {{"encoder layers", absl::StrCat(info->encoder_layers)},
                 {"cross attention", SummarizeLayers(info->cross_layer_types)},
                 {"cache a source token", info->source_kv_bytes_per_position == 0
                                              ? "none"
                                              : FormatBytes(info->source_kv_bytes_per_position)},
                 {"source vocabulary", absl::StrCat(info->source_vocab_size)},
                 {"tokens a source", absl::StrCat(l.max_source_tokens)}});
  }
  size_t width = 0;
  for (const auto& [name, value] : rows) width = std::max(width, name.size());
  for (const auto& [name, value] : rows) {
    console.out << name << std::string(width + 2 - name.size(), ' ') << value << '\n';
  }
  return 0;
}

int RunHealth(const CommandLine& line, Client& client, const Console& console) {
  CallOptions options = MakeCallOptions(line);
  if (line.timeout_seconds == 0) options.timeout = absl::Seconds(1);
  const absl::Status status = client.WaitUntilServing(options);
  if (!status.ok()) return Fail(status, line, console);
  console.out << "serving\n";
  return 0;
}

}  // namespace t2r::client
