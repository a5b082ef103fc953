// What every RPC of the generation service works with.
#pragma once

#include <cstdint>

#include "absl/time/time.h"
#include "server/access_log.h"
#include "server/buffer_budget.h"
#include "server/call_watch.h"
#include "server/credentials.h"
#include "server/metrics.h"
#include "server/options.h"
#include "server/outbox.h"
#include "server/peer_shares.h"
#include "server/served_model.h"
#include "server/tenants.h"
#include "server/trace_exporter.h"
#include "server/worker_pool.h"
#include "server/write_queue.h"

namespace t2r::server {

// Owned by the server; outlives every RPC.
struct CallContext {
  ModelHost& host;
  Metrics& metrics;
  WorkerPool& workers;        // of what waits for nothing: texts, and large messages
  WorkerPool& store_workers;  // of what may wait for a store of sessions
  WriteQueue& writes;
  CallWatch& watch;
  BufferBudget& buffers;
  BufferBudget& imports;  // the part of it that snapshots on their way in may have
  PeerShares& peers;
  const Access& access;
  Tenants& tenants;
  OutboxLimits outbox;
  ReadLimits reading;
  int64_t max_response_bytes = 0;   // 0: no limit
  bool tell_memory = false;         // GetModel says how much memory the machine has
  AccessLog* access_log = nullptr;  // null: none is written
  TraceExporter* traces = nullptr;  // null: none are sent
  double trace_ratio = 0;           // of the traces that begin here
  bool log_prompts = false;
  // Of turns: tokens between two checkpoints (0: none), and whether requests without a session are
  // turns of one of their own.
  int64_t checkpoint_tokens = 0;
  bool resumable_streams = false;
};

}  // namespace t2r::server
