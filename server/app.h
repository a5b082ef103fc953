// The life of the t2r-server process.
#pragma once

#include "server/options.h"
#include "server/served_model.h"

namespace t2r::server {

// Listens, prints the addresses, loads the model, serves until SIGTERM or SIGINT, drains. Returns
// the exit status: 0 after a drain, 1 when start-up failed (one line on stderr). A second signal
// ends the process at once. Call once, from main, before other threads are made: it blocks these
// signals. load_engine: called once, on a thread of its own.
int RunServer(const ServerOptions& options, const EngineLoader& load_engine = LoadEngine);

}  // namespace t2r::server
