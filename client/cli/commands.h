// The subcommands of `t2r`: each prints its result and returns the process's exit code.
#ifndef T2R_CLIENT_CLI_COMMANDS_H_
#define T2R_CLIENT_CLI_COMMANDS_H_

#include <functional>
#include <istream>
#include <ostream>
#include <string>

#include "absl/status/status.h"
#include "client/cli/interrupt.h"
#include "client/cli/options.h"
#include "client/client.h"

namespace t2r::client {

struct Console {
  std::ostream& out;               // results
  std::ostream& err;               // errors, progress, statistics
  bool err_is_terminal = false;    // draw a progress bar
  bool in_is_terminal = false;     // somebody types: say when a line is waited for
  Interrupt* interrupt = nullptr;  // null: not watched
};

inline constexpr int kRpcErrorExitCode = 1;

// What went wrong and what to do about it, as lines for stderr.
std::string Explain(const absl::Status& status, const std::string& server);

// client.Generate, cancelled by Ctrl-C; on_event as there.
absl::Status GenerateInterruptibly(Client& client, const Console& console,
                                   const GenerateRequest& request, const CallOptions& options,
                                   const std::function<bool(const Event&)>& on_event);

CallOptions MakeCallOptions(const CommandLine& line);

// line.text is the text itself here, never "-".
int RunGenerate(const CommandLine& line, Client& client, const Console& console);
// Reads line.translate.file, or standard input.
int RunTranslate(const CommandLine& line, Client& client, const Console& console);
int RunScore(const CommandLine& line, Client& client, const Console& console);
int RunTokenize(const CommandLine& line, Client& client, const Console& console);
int RunDetokenize(const CommandLine& line, Client& client, const Console& console);
int RunModel(const CommandLine& line, Client& client, const Console& console);
int RunHealth(const CommandLine& line, Client& client, const Console& console);
int RunSession(const CommandLine& line, Client& client, const Console& console);
// A conversation: a turn for each line of `in`, until it ends.
int RunChat(const CommandLine& line, Client& client, std::istream& in, const Console& console);
int RunBench(const CommandLine& line, Client& client, const Console& console);

}  // namespace t2r::client

#endif  // T2R_CLIENT_CLI_COMMANDS_H_
