#include "client/cli/access.h"

#include <fstream>
#include <iterator>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

namespace t2r::client {
namespace {

// Nothing where no file is named.
absl::Status Read(const std::string& flag, const std::string& path, std::string* content) {
  if (path.empty()) return absl::OkStatus();
  std::ifstream file(path, std::ios::binary);
  content->assign(std::istreambuf_iterator<char>(file), {});
  if (!file.is_open() || file.bad() || content->empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(flag, " ", path, ": cannot be read, or is empty"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ReadAccess(const CommandLine& line, const std::string& environment_key,
                        ConnectOptions* options) {
  if (line.tls || !line.tls_ca.empty() || !line.tls_cert.empty()) {
    TlsOptions tls;
    if (absl::Status s = Read("--tls-ca", line.tls_ca, &tls.ca); !s.ok()) return s;
    if (absl::Status s = Read("--tls-cert", line.tls_cert, &tls.certificate); !s.ok()) return s;
    if (absl::Status s = Read("--tls-key", line.tls_key, &tls.key); !s.ok()) return s;
    options->tls = std::move(tls);
  }
  std::string key = environment_key;
  if (absl::Status s = Read("--api-key-file", line.api_key_file, &key); !s.ok()) return s;
  options->api_key = std::string(absl::StripAsciiWhitespace(key));
  return absl::OkStatus();
}

}  // namespace t2r::client
