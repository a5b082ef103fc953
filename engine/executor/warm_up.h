// What a backend takes and prepares at first use, done before the first request.
#pragma once

#include "engine/model/model.h"
#include "engine/ops/backend.h"

namespace t2r {

// Runs steps of padding rows only, which no session sees: the largest step of prompts, for which
// the backend takes the scratch memory that any step may need, then each size of a step of up to
// `sessions` decodes twice, so that it is recorded where the backend records such steps. After it
// no step within the limits allocates. For backends that are asynchronous. Throws DeviceError, when
// the device's memory does not hold it too.
void WarmUp(Model& model, const Caches& caches, const StepLimits& limits, int64_t sessions);

// Runs a step without rows, in which ops reserve their scratch memory (Backend::PrepareSteps) and
// compute nothing: enough for backends whose scratch does not depend on the batch. Throws
// DeviceError.
void ReserveScratch(Model& model, const Caches& caches);

}  // namespace t2r
