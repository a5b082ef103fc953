// Writes a safetensors file piece by piece: what is in memory is the caller's affair.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/io/files.h"
#include "engine/ops/dtype.h"

namespace t2r {

// Name, type and shape of a tensor, before its data are there.
struct SafetensorsSpec {
  std::string name;
  DType dtype = DType::kFloat32;
  std::vector<int64_t> shape;
};

// Writes to a temporary file beside the path; Finish puts it in place, whole. Without Finish
// nothing is left behind. Not thread-safe.
class SafetensorsWriter {
 public:
  // Writes the header. The tensors' data follow without gaps in the order given, which should put
  // wider elements first, so that each is aligned. Names must be unique.
  static absl::StatusOr<std::unique_ptr<SafetensorsWriter>> Create(
      const std::string& path, const std::vector<SafetensorsSpec>& tensors);

  // The next bytes of the data, wherever tensors begin and end.
  absl::Status Write(const void* data, size_t bytes);
  // Makes the file durable and renames it. INTERNAL unless exactly the data of all tensors came.
  absl::Status Finish();

 private:
  SafetensorsWriter() = default;

  std::unique_ptr<AtomicFile> file_;
  uint64_t left_ = 0;  // bytes of data that have not come yet
};

}  // namespace t2r
