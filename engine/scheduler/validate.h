// What a request must fulfil to be accepted.
#pragma once

#include "absl/status/status.h"
#include "engine/executor/executor.h"
#include "engine/scheduler/options.h"
#include "engine/scheduler/request.h"

namespace t2r {

// INVALID_ARGUMENT naming the field, its value and the limit when the request can never run on an
// executor of these limits. A Score looks at its prompt only. Pure; any thread.
absl::Status ValidateRequest(const Request& request, const ExecutorLimits& limits,
                             const SchedulerOptions& options, bool has_tokenizer);

}  // namespace t2r
