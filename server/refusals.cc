#include "server/refusals.h"

#include "absl/strings/str_cat.h"

namespace t2r::server {

absl::Status TooManyOf(const PeerShares& peers) {
  return absl::ResourceExhaustedError(
      absl::StrCat("this address has ", peers.limit(),
                   " requests here already, the limit (--max-requests-per-peer); try again later"));
}

absl::Status BuffersFull(const BufferBudget& buffers) {
  return absl::ResourceExhaustedError(
      absl::StrCat("the server's buffers are full: ", buffers.used(), " of ", buffers.limit(),
                   " bytes (--max-buffer-mib); try again later"));
}

}  // namespace t2r::server
