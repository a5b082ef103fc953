#include <algorithm>
#include <atomic>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/cli/commands.h"
#include "client/cli/json.h"
#include "client/cli/progress.h"
#include "client/cli/table.h"
#include "client/load/load.h"
#include "client/load/positions.h"
#include "client/load/stream_timing.h"

namespace t2r::client {
namespace {

// Of prompts: an encoder-decoder's are sources.
uint32_t PromptVocabulary(const ModelInfo& info) {
  return info.encoder_decoder ? info.source_vocab_size : info.vocab_size;
}

// What can never fit is said before anything is measured. "" where it fits.
std::string CheckFits(const ModelInfo& info, uint64_t prompt, uint64_t output) {
  const Limits& l = info.limits;
  if (l.max_tokens != 0 && output > l.max_tokens) {
    return absl::StrCat(output, " output tokens in one request are over the server's limit of ",
                        l.max_tokens, " tokens a request: ask for fewer, or raise it there");
  }
  if (info.encoder_decoder && prompt > l.max_source_tokens) {
    return absl::StrCat(prompt, " prompt tokens in one source are over the limit of ",
                        l.max_source_tokens);
  }
  // A source takes no positions of the decoder; its start token takes one.
  const uint64_t before = info.encoder_decoder ? 1 : prompt;
  if (l.max_positions != 0 && before + output - 1 > l.max_positions) {
    return absl::StrCat(prompt, " prompt and ", output, " output tokens need ", before + output - 1,
                        " positions; this model has ", l.max_positions);
  }
  if (PromptVocabulary(info) == 0) return "the server reports an empty vocabulary";
  return "";
}

void AddPercentiles(const WeightedSamples& samples, std::vector<std::string>* row) {
  for (const double percent : {50.0, 95.0, 99.0}) {
    row->push_back(FormatMilliseconds(samples.Percentile(percent)));
  }
}

int Measure(const CommandLine& line, Client& client, const Console& console,
            const ModelInfo& info) {
  const BenchOptions& bench = line.bench;
  std::atomic<bool> stop = false;
  if (console.interrupt != nullptr) console.interrupt->SetHandler([&stop] { stop = true; });
  Table table({"sessions", "requests", "tokens/s", "TTFT p50", "p95", "p99", "ITL p50", "p95",
               "p99", "errors"});
  std::string notes;
  bool failed = false;
  for (const uint32_t sessions : bench.sessions) {
    if (stop) break;
    LoadOptions options;
    options.sessions = sessions;
    options.requests = bench.requests != 0 ? bench.requests : std::max(8u, 2 * sessions);
    options.prompt_tokens = bench.prompt_tokens;
    options.output_tokens = bench.output_tokens;
    options.vocab_size = PromptVocabulary(info);
    options.seed = bench.seed;
    options.max_time = absl::Seconds(bench.max_seconds);
    options.call = MakeCallOptions(line);
    const std::string label = absl::StrCat(sessions, " sessions");
    const double all_tokens = static_cast<double>(options.requests) * bench.output_tokens;
    Progress progress(console.err, console.err_is_terminal);
    const LoadResult result = RunLoad(client, options, stop, [&](const LoadProgress& now) {
      progress.Update(
          label, static_cast<double>(now.tokens) / all_tokens,
          absl::StrCat(
              now.ended, "/", options.requests, " requests, ",
              FormatNumber(static_cast<double>(now.tokens) / std::max(now.seconds, 1e-9), 0),
              " tokens/s, ", FormatNumber(now.seconds, 0), " s"));
    });
    progress.Clear();
    if (line.json) console.out << ToJson(result, options) << std::endl;
    std::vector<std::string> row = {absl::StrCat(sessions), absl::StrCat(result.completed),
                                    FormatNumber(result.TokensPerSecond(), 1)};
    AddPercentiles(result.time_to_first_token, &row);
    AddPercentiles(result.inter_token, &row);
    row.push_back(absl::StrCat(result.ErrorCount()));
    table.AddRow(std::move(row));
    if (result.cut > 0) {
      absl::StrAppend(&notes, label, ": ", result.cut, " requests were cut after ",
                      FormatNumber(bench.max_seconds, 0), " s (--max-seconds)\n");
    }
    if (sessions > info.limits.max_sessions && info.limits.max_sessions != 0) {
      absl::StrAppend(&notes, label, ": the server runs ", info.limits.max_sessions,
                      " at once; TTFT includes the queue\n");
    }
    for (const auto& [error, count] : result.errors) {
      absl::StrAppend(&notes, label, ": ", count, " x ", error, "\n");
    }
    failed |= result.ErrorCount() > 0 && result.completed == 0;
  }
  if (console.interrupt != nullptr) console.interrupt->SetHandler(nullptr);
  if (!line.json) {
    console.out << info.name << ": prompt " << bench.prompt_tokens << ", output "
                << bench.output_tokens
                << " tokens; TTFT time to first token, ITL inter-token latency, in ms\n"
                << table.ToString() << std::flush;
  }
  console.err << notes;
  if (stop) return kInterruptedExitCode;
  return failed ? kRpcErrorExitCode : 0;
}

int MeasurePositions(const CommandLine& line, Client& client, const Console& console,
                     const ModelInfo& info, uint64_t output) {
  const BenchOptions& bench = line.bench;
  // The one request that the first session of a load would send, only longer.
  GenerateRequest request =
      MakeLoadRequest(bench.seed, 0, bench.prompt_tokens, PromptVocabulary(info));
  request.max_tokens = static_cast<uint32_t>(output);
  CallOptions options = MakeCallOptions(line);
  options.timeout = std::min(options.timeout, absl::Seconds(bench.max_seconds));

  std::vector<Arrival> arrivals;
  uint64_t position = bench.prompt_tokens;
  Progress progress(console.err, console.err_is_terminal);
  const Clock::time_point start = Clock::now();
  double drawn = 0;
  const absl::Status status =
      GenerateInterruptibly(client, console, request, options, [&](const Event& event) {
        const auto* delta = std::get_if<Delta>(&event);
        if (delta == nullptr || delta->token_ids.empty()) return true;
        const double now = std::chrono::duration<double>(Clock::now() - start).count();
        position += delta->token_ids.size();
        arrivals.push_back({position, now});
        if (now > drawn + 0.2) {
          drawn = now;
          const double done = static_cast<double>(position - bench.prompt_tokens);
          progress.Update(
              "one session", done / static_cast<double>(output),
              absl::StrCat("position ", position, ", ", FormatNumber(done / now, 0), " tokens/s"));
        }
        return true;
      });
  progress.Clear();

  Table table({"position", "tokens", "ms/token", "p50", "vs first"});
  std::optional<double> first;
  for (const uint64_t at : bench.at_positions) {
    const std::optional<PositionResult> result = MeasurePosition(arrivals, at, bench.window);
    if (!result) {
      table.AddRow({absl::StrCat(at), "0", "-", "-", "-"});
      continue;
    }
    if (!first) first = result->mean;
    if (line.json) console.out << ToJson(*result) << std::endl;
    table.AddRow({absl::StrCat(at), absl::StrCat(result->tokens), FormatMilliseconds(result->mean),
                  FormatMilliseconds(result->median), FormatNumber(result->mean / *first, 3)});
  }
  if (!line.json) {
    console.out << info.name << ": decode time a token of one session, over " << bench.window
                << " tokens around each position\n"
                << table.ToString() << std::flush;
  }
  if (console.interrupt != nullptr && console.interrupt->interrupted()) {
    return kInterruptedExitCode;
  }
  if (status.ok()) return 0;
  if (absl::IsDeadlineExceeded(status)) {
    console.err << "t2r: stopped at position " << position << " after "
                << absl::FormatDuration(options.timeout)
                << ": raise --max-seconds (and --timeout, if given)\n";
  } else {
    console.err << Explain(status, line.server);
  }
  return kRpcErrorExitCode;
}

}  // namespace

int RunBench(const CommandLine& line, Client& client, const Console& console) {
  const absl::StatusOr<ModelInfo> info = client.GetModel(MakeCallOptions(line));
  if (!info.ok()) {
    console.err << Explain(info.status(), line.server);
    return kRpcErrorExitCode;
  }
  const BenchOptions& bench = line.bench;
  uint64_t output = bench.output_tokens;
  if (!bench.at_positions.empty()) {
    const uint64_t end =
        *std::max_element(bench.at_positions.begin(), bench.at_positions.end()) + bench.window / 2;
    output = std::max<uint64_t>(end, bench.prompt_tokens + 2) - bench.prompt_tokens;
  }
  const std::string error = CheckFits(*info, bench.prompt_tokens, output);
  if (!error.empty()) {
    console.err << "t2r: " << error << '\n';
    return kRpcErrorExitCode;
  }
  return bench.at_positions.empty() ? Measure(line, client, console, *info)
                                    : MeasurePositions(line, client, console, *info, output);
}

}  // namespace t2r::client
