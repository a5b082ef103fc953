// From what a backend throws to absl::Status, the one place where it happens.
#pragma once

#include <exception>
#include <new>

#include "absl/status/status.h"
#include "engine/ops/tensor.h"

namespace t2r {

// Whether the device can compute nothing any more.
inline bool IsLost(const std::exception& error) {
  const auto* device = dynamic_cast<const DeviceError*>(&error);
  return device != nullptr && device->kind() == DeviceErrorKind::kLost;
}

// The code that belongs to the error: for a DeviceError by its kind, RESOURCE_EXHAUSTED for a
// failed allocation, INTERNAL for anything else. The message is the error's own.
inline absl::Status StatusOf(const std::exception& error) {
  const char* what = error.what();
  if (dynamic_cast<const std::bad_alloc*>(&error) != nullptr) {
    return absl::ResourceExhaustedError("there is not enough memory");
  }
  const auto* device = dynamic_cast<const DeviceError*>(&error);
  if (device == nullptr) return absl::InternalError(what);
  switch (device->kind()) {
    case DeviceErrorKind::kInvalidArgument:
      return absl::InvalidArgumentError(what);
    case DeviceErrorKind::kOutOfMemory:
      return absl::ResourceExhaustedError(what);
    case DeviceErrorKind::kUnavailable:
    case DeviceErrorKind::kLost:
      return absl::UnavailableError(what);
    case DeviceErrorKind::kInternal:
      break;
  }
  return absl::InternalError(what);
}

}  // namespace t2r
