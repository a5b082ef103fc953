// The `t2r` command.
#include <unistd.h>

#include <cstdlib>
#include <iostream>
#include <iterator>

#include "client/cli/access.h"
#include "client/cli/commands.h"
#include "client/cli/interrupt.h"
#include "client/cli/options.h"
#include "client/client.h"

namespace t2r::client {
namespace {

int Run(const CommandLine& line, Client& client, const Console& console) {
  switch (line.command) {
    case Command::kGenerate:
      return RunGenerate(line, client, console);
    case Command::kTranslate:
      return RunTranslate(line, client, console);
    case Command::kScore:
      return RunScore(line, client, console);
    case Command::kTokenize:
      return RunTokenize(line, client, console);
    case Command::kDetokenize:
      return RunDetokenize(line, client, console);
    case Command::kModel:
      return RunModel(line, client, console);
    case Command::kHealth:
      return RunHealth(line, client, console);
    case Command::kBench:
      return RunBench(line, client, console);
    case Command::kSession:
      return RunSession(line, client, console);
    case Command::kChat:
      return RunChat(line, client, std::cin, console);
  }
  return 2;
}

int Main(int argc, char** argv) {
  // Before any thread exists.
  const char* server = std::getenv("T2R_SERVER");  // NOLINT(concurrency-mt-unsafe)
  ParseResult parsed = ParseCommandLine(argc, argv, server == nullptr ? "" : server);
  if (!parsed.command_line) {
    (parsed.exit_code == 0 ? std::cout : std::cerr) << parsed.message;
    return parsed.exit_code;
  }
  CommandLine& line = *parsed.command_line;
  if (line.text == "-") {
    line.text = std::string(std::istreambuf_iterator<char>(std::cin), {});
  }

  Interrupt interrupt;
  const Console console{std::cout, std::cerr, isatty(STDERR_FILENO) == 1, isatty(STDIN_FILENO) == 1,
                        &interrupt};
  ConnectOptions options;
  if (line.command == Command::kHealth) {
    options.connect_timeout = absl::ZeroDuration();  // it waits for a server that is yet to start
  } else if (line.timeout_seconds > 0) {
    options.connect_timeout = absl::Seconds(line.timeout_seconds);
  }
  const char* key = std::getenv("T2R_API_KEY");  // NOLINT(concurrency-mt-unsafe)
  if (const absl::Status read = ReadAccess(line, key == nullptr ? "" : key, &options); !read.ok()) {
    std::cerr << "t2r: " << read.message() << "\n";
    return 2;
  }
  const absl::StatusOr<std::unique_ptr<Client>> client = Client::Connect(line.server, options);
  if (!client.ok()) {
    std::cerr << Explain(client.status(), line.server);
    return kRpcErrorExitCode;
  }
  return Run(line, **client, console);
}

}  // namespace
}  // namespace t2r::client

int main(int argc, char** argv) {
  std::ios::sync_with_stdio(false);
  return t2r::client::Main(argc, argv);
}
