// What a connection needs of files: certificates, keys.
#ifndef T2R_CLIENT_CLI_ACCESS_H_
#define T2R_CLIENT_CLI_ACCESS_H_

#include <string>

#include "absl/status/status.h"
#include "client/cli/options.h"
#include "client/client.h"

namespace t2r::client {

// Reads the files that the command line names into *options. `environment_key`: the API key where
// no file is named. INVALID_ARGUMENT naming the flag of a file that cannot be read or is empty.
absl::Status ReadAccess(const CommandLine& line, const std::string& environment_key,
                        ConnectOptions* options);

}  // namespace t2r::client

#endif  // T2R_CLIENT_CLI_ACCESS_H_
