// What calls of every kind are refused with.
#pragma once

#include "absl/status/status.h"
#include "server/call_context.h"

namespace t2r::server {

// RESOURCE_EXHAUSTED naming the limit: the client's address has as many requests as it may.
absl::Status TooManyOf(const PeerShares& peers);
// RESOURCE_EXHAUSTED naming the limit: messages, outboxes and answers fill the server's buffers.
absl::Status BuffersFull(const BufferBudget& buffers);

}  // namespace t2r::server
