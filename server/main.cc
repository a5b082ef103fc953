#include <iostream>
#include <optional>

#include "server/app.h"
#include "server/options.h"

int main(int argc, char** argv) {
  t2r::server::ServerOptions options;
  const std::optional<int> code =
      t2r::server::ParseOptions(argc, argv, &options, std::cout, std::cerr);
  return code ? *code : t2r::server::RunServer(options);
}
