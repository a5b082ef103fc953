#include "absl/strings/str_join.h"
#include "client/cli/commands.h"
#include "client/cli/json.h"
#include "client/cli/table.h"
#include "client/load/stream_timing.h"

namespace t2r::client {
namespace {

// Prints events as they come, each flushed.
class Printer {
 public:
  Printer(const CommandLine& line, std::ostream& out) : line_(line), out_(out) {}

  // Whether there is still somebody to print to.
  bool Print(const Event& event) {
    if (line_.json) {
      out_ << ToJson(event) << '\n';
    } else if (const auto* delta = std::get_if<Delta>(&event)) {
      PrintDelta(*delta);
    } else if (const auto* finished = std::get_if<Finished>(&event)) {
      for (const Hypothesis& each : finished->hypotheses) PrintHypothesis(each);
    }
    out_.flush();
    return out_.good();
  }

  // The newline that ends streamed text.
  void End() {
    if (line_wanted_) out_ << '\n' << std::flush;
  }

  bool printed_text() const { return line_wanted_; }

 private:
  void PrintDelta(const Delta& delta) {
    if (line_.generate.logprobs > 0) {
      for (const TokenLogprobs& token : delta.logprobs) PrintLogprobs(token);
      return;
    }
    if (!line_.ids) {
      out_ << delta.text;
      line_wanted_ |= !delta.text.empty();
      return;
    }
    for (const TokenId id : delta.token_ids) {
      if (line_wanted_) out_ << ' ';
      out_ << id;
      line_wanted_ = true;
    }
  }

  // One alone prints as other text does, several with their scores.
  void PrintHypothesis(const Hypothesis& hypothesis) {
    const bool scored = line_.generate.beams && line_.generate.beams->num_return > 1;
    if (scored) out_ << FormatNumber(hypothesis.score, 4) << '\t';
    out_ << (line_.ids ? absl::StrJoin(hypothesis.token_ids, " ") : hypothesis.text) << '\n';
  }

  void PrintLogprobs(const TokenLogprobs& token) {
    out_ << token.chosen.token_id << '\t' << FormatNumber(token.chosen.logprob, 4);
    for (const Logprob& l : token.top) {
      out_ << '\t' << l.token_id << ':' << FormatNumber(l.logprob, 4);
    }
    out_ << '\n';
  }

  const CommandLine& line_;
  std::ostream& out_;
  bool line_wanted_ = false;
};

void PrintStats(const StreamTiming& timing, const Started& started, const Finished* finished,
                std::ostream& err) {
  // Of a search, what it returned: nothing was streamed.
  const bool searched = finished != nullptr && !finished->hypotheses.empty();
  err << "prompt " << started.prompt_tokens << " tokens";
  if (finished != nullptr && finished->cached_prompt_tokens > 0) {
    err << " (" << finished->cached_prompt_tokens << " cached)";
  }
  err << ", generated " << (searched ? finished->generated_tokens : timing.tokens()) << " tokens";
  if (const std::optional<double> first = timing.TimeToFirstToken()) {
    err << ", first token after " << FormatMilliseconds(*first) << " ms";
  }
  if (const std::optional<double> rate = timing.DecodeRate()) {
    err << ", then " << FormatNumber(*rate, 1) << " tokens/s";
  }
  err << ", seed " << started.seed;
  if (finished != nullptr) err << ", ended by " << FinishReasonName(finished->reason);
  err << '\n';
}

}  // namespace

int RunGenerate(const CommandLine& line, Client& client, const Console& console) {
  GenerateRequest request = line.generate;
  if (line.tokens) {
    request.prompt = *line.tokens;
  } else {
    request.prompt = line.text.value_or("");
  }
  Printer printer(line, console.out);
  StreamTiming timing(Clock::now());
  Started started;
  std::optional<Finished> finished;
  bool written = true;
  const absl::Status status = GenerateInterruptibly(
      client, console, request, MakeCallOptions(line), [&](const Event& event) {
        if (const auto* s = std::get_if<Started>(&event)) {
          started = *s;
        } else if (const auto* delta = std::get_if<Delta>(&event)) {
          timing.OnTokens(Clock::now(), delta->token_ids.size(), nullptr);
        } else {
          finished = std::get<Finished>(event);
        }
        written = written && printer.Print(event);
        return written;
      });
  if (written) printer.End();
  if (line.stats) PrintStats(timing, started, finished ? &*finished : nullptr, console.err);
  if (console.interrupt != nullptr && console.interrupt->interrupted()) {
    return kInterruptedExitCode;
  }
  if (!written) {
    console.err << "t2r: cannot write to standard output: is the disk full?\n";
    return kRpcErrorExitCode;
  }
  if (!status.ok()) {
    console.err << Explain(status, line.server);
    return kRpcErrorExitCode;
  }
  if (timing.tokens() > 0 && !printer.printed_text() && !line.json && !line.ids &&
      line.generate.logprobs == 0) {
    console.err << "t2r: " << timing.tokens()
                << " tokens came without text; --ids prints their ids\n";
  }
  return 0;
}

}  // namespace t2r::client
