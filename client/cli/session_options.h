// The options of `t2r session` and `t2r chat`.
#ifndef T2R_CLIENT_CLI_SESSION_OPTIONS_H_
#define T2R_CLIENT_CLI_SESSION_OPTIONS_H_

#include <CLI/CLI.hpp>

#include "client/cli/option_groups.h"
#include "client/cli/options.h"

namespace t2r::client {

void AddSession(CLI::App* app, CommandLine* out);
void AddChat(CLI::App* app, CommandLine* out, RawOptions* raw);
// --session and what goes with it, of a single turn.
void AddTurn(CLI::App* app, RawOptions* raw);

}  // namespace t2r::client

#endif  // T2R_CLIENT_CLI_SESSION_OPTIONS_H_
