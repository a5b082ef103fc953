#include "engine/executor/executor.h"

#include "engine/ops/tensor.h"

namespace t2r {
namespace {

[[noreturn]] void KeepsNone() {
  throw DeviceError(DeviceErrorKind::kInvalidArgument, "this executor cannot save its sessions");
}

}  // namespace

SlotState Executor::Save(int /*slot*/) { KeepsNone(); }

void Executor::Restore(int /*slot*/, const SlotState& /*state*/) { KeepsNone(); }

}  // namespace t2r
