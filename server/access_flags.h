// The flags of t2r-server that say who may call, how much, and what is written of it.
#pragma once

#include <string>

#include "CLI/CLI.hpp"
#include "absl/time/time.h"
#include "server/options.h"

namespace t2r::server {

// A time that is given in seconds, from `least` to a day.
CLI::Option* AddSeconds(CLI::App& app, const std::string& name, absl::Duration* value,
                        const std::string& help, double least = 0);

void AddAccessFlags(CLI::App& app, ServerOptions* options);
void AddLogFlags(CLI::App& app, GrpcServerOptions* options);
void AddConnectionFlags(CLI::App& app, GrpcServerOptions* options);

// What is wrong with them together, or "".
std::string CheckAccess(const ServerOptions& options);

}  // namespace t2r::server
