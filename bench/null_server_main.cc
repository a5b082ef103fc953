// t2r-bench-null-server: t2r-server over a model that computes nothing. Its front end, from the
// sockets to the scheduler's steps, is the server's own, and so are its flags. Before them all,
// --one-token makes every message one token long, however far a stream lags; --in-step also has
// each stream's model wait until its last token is on its way.
#include <iostream>
#include <memory>
#include <optional>
#include <string>

#include "bench/null_executor.h"
#include "server/app.h"
#include "server/options.h"

namespace t2r::bench {
namespace {

// The directory's model with what it may hold, but an executor that answers at once.
absl::StatusOr<std::unique_ptr<Engine>> LoadNullEngine(const std::string& directory,
                                                       const EngineOptions& options) {
  absl::StatusOr<std::unique_ptr<Engine>> engine = LoadEngine(directory, options);
  if (!engine.ok()) return engine;
  (*engine)->executor = std::make_unique<NullExecutor>((*engine)->executor->limits());
  return engine;
}

}  // namespace
}  // namespace t2r::bench

int main(int argc, char** argv) {
  t2r::server::ServerOptions options;
  const std::string mode = argc > 1 ? argv[1] : "";
  if (mode == "--one-token" || mode == "--in-step") {
    options.grpc.outbox.message_tokens = 1;
    if (mode == "--in-step") options.grpc.outbox.tokens = 1;
    ++argv;  // ParseOptions looks at what follows the first
    --argc;
  }
  const std::optional<int> code =
      t2r::server::ParseOptions(argc, argv, &options, std::cout, std::cerr);
  return code ? *code : t2r::server::RunServer(options, t2r::bench::LoadNullEngine);
}
