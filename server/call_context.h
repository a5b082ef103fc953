// What every RPC of the generation service works with.
#pragma once

#include "absl/time/time.h"
#include "server/metrics.h"
#include "server/outbox.h"
#include "server/served_model.h"
#include "server/worker_pool.h"
#include "server/write_queue.h"

namespace t2r::server {

// Owned by the server; outlives every RPC.
struct CallContext {
  ModelHost& host;
  Metrics& metrics;
  WorkerPool& workers;
  WriteQueue& writes;
  OutboxLimits outbox;
  // What a client that stalled gets to take the rest and the status before the RPC is cut.
  absl::Duration stall_grace = absl::Seconds(10);
};

}  // namespace t2r::server
