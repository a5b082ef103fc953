#include <algorithm>
#include <atomic>
#include <chrono>
#include <fstream>
#include <iostream>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "client/cli/commands.h"
#include "client/cli/json.h"
#include "client/cli/progress.h"
#include "client/cli/table.h"
#include "client/cli/translation.h"

namespace t2r::client {
namespace {

// The lines' sources; blank ones are not sent, and stay blank lines in the output.
struct Input {
  std::vector<std::string> sources;
  std::vector<size_t> lines;  // of each source, from 0
  size_t count = 0;           // of lines
};

absl::Status Read(const TranslateOptions& options, std::istream& in, Input* input) {
  for (std::string line; std::getline(in, line); ++input->count) {
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (options.column > 0 && !line.empty()) {
      const std::vector<std::string> columns = absl::StrSplit(line, '\t');
      if (columns.size() < options.column) {
        return absl::InvalidArgumentError(
            absl::StrCat("line ", input->count + 1, " has ", columns.size(),
                         " columns; --column asks for ", options.column));
      }
      line = columns[options.column - 1];
    }
    if (line.find_first_not_of(" \t") == std::string::npos) continue;
    input->sources.push_back(std::move(line));
    input->lines.push_back(input->count);
  }
  return absl::OkStatus();
}

absl::Status ReadFile(const TranslateOptions& options, Input* input) {
  if (options.file == "-") return Read(options, std::cin, input);
  std::ifstream file(options.file);
  if (!file) return absl::NotFoundError(absl::StrCat("cannot read ", options.file));
  return Read(options, file, input);
}

// Prints translations a line each, and the blank lines between them.
class Lines {
 public:
  Lines(const CommandLine& line, const Input& input, std::ostream& out)
      : line_(line), input_(input), out_(out) {}

  bool Print(size_t index, const Translated& translated) {
    Blank(input_.lines[index]);
    std::string text = line_.translate.target_prefix + translated.text;
    if (line_.json) {
      out_ << ToJson(input_.lines[index] + 1, input_.sources[index], text, translated) << '\n';
    } else {
      // A translation is a line, whatever is in it.
      std::replace(text.begin(), text.end(), '\n', ' ');
      out_ << text << '\n';
    }
    ++printed_;
    out_.flush();
    return out_.good();
  }
  // The blank lines before `line`.
  void Blank(size_t line) {
    for (; printed_ < line; ++printed_) {
      if (!line_.json) out_ << '\n';
    }
  }

 private:
  const CommandLine& line_;
  const Input& input_;
  std::ostream& out_;
  size_t printed_ = 0;
};

}  // namespace

int RunTranslate(const CommandLine& line, Client& client, const Console& console) {
  Input input;
  if (const absl::Status status = ReadFile(line.translate, &input); !status.ok()) {
    console.err << "t2r: " << status.message() << '\n';
    return kRpcErrorExitCode;
  }
  const absl::StatusOr<ModelInfo> model = client.GetModel(MakeCallOptions(line));
  if (!model.ok()) {
    console.err << Explain(model.status(), line.server);
    return kRpcErrorExitCode;
  }
  if (!model->encoder_decoder) {
    console.err << "t2r: " << model->name << " (" << model->architecture << ") at " << line.server
                << " is not an encoder-decoder and does not translate; "
                   "`t2r generate` continues a text\n";
    return kRpcErrorExitCode;
  }
  TranslationOptions options;
  options.streams = line.translate.streams;
  options.request = line.generate;
  if (!line.translate.target_prefix.empty()) {
    options.request.target_prefix = line.translate.target_prefix;
  }
  options.call = MakeCallOptions(line);

  std::atomic<bool> stop = false;
  if (console.interrupt != nullptr) console.interrupt->SetHandler([&stop] { stop = true; });
  Lines lines(line, input, console.out);
  Progress progress(console.err, console.err_is_terminal);
  const auto start = std::chrono::steady_clock::now();
  Translation translation(client, input.sources, options);
  const TranslationError error = translation.Run(
      stop,
      [&](size_t index, const Translated& translated) { return lines.Print(index, translated); },
      [&](const Translation::Progress& now) {
        const double seconds =
            std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
        progress.Update("translating",
                        static_cast<double>(now.ended) / static_cast<double>(input.sources.size()),
                        absl::StrCat(now.ended, "/", input.sources.size(), " lines, ",
                                     FormatNumber(static_cast<double>(now.tokens) / seconds, 0),
                                     " tokens/s, ", FormatNumber(seconds, 0), " s"));
      });
  progress.Clear();
  if (console.interrupt != nullptr) console.interrupt->SetHandler(nullptr);
  if (stop) return kInterruptedExitCode;
  if (!console.out.good()) {
    console.err << "t2r: cannot write to standard output: is the disk full?\n";
    return kRpcErrorExitCode;
  }
  if (!error.status.ok()) {
    console.err << "t2r: line " << input.lines[error.index] + 1 << ":\n"
                << Explain(error.status, line.server);
    return kRpcErrorExitCode;
  }
  lines.Blank(input.count);
  console.out.flush();
  return 0;
}

}  // namespace t2r::client
