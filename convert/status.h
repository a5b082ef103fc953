// From the engine's statuses to the converter's exceptions.
#pragma once

#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "convert/error.h"

namespace t2r::convert {

inline void ThrowIfError(const absl::Status& status) {
  if (!status.ok()) throw ConvertError(std::string(status.message()));
}

template <typename T>
T Unwrap(absl::StatusOr<T> result) {
  ThrowIfError(result.status());
  return *std::move(result);
}

}  // namespace t2r::convert
