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

int Executor::KeepPrefix(int /*slot*/) { return -1; }

void Executor::StartFromPrefix(int /*slot*/, int /*prefix*/, std::span<const int32_t> /*tokens*/) {
  KeepsNone();
}

void Executor::DropPrefix(int /*prefix*/) { KeepsNone(); }

}  // namespace t2r
