// `t2r-server key`: makes API keys.
#pragma once

#include <ostream>

namespace t2r::server {

// The command line after "t2r-server". Prints a new key and the line that stands for it in the file
// of
// --api-keys. Returns the exit status, 2 for a wrong command line (one line to `err`).
int RunKeyCommand(int argc, const char* const* argv, std::ostream& out, std::ostream& err);

}  // namespace t2r::server
