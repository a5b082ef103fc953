// A file mapped for reading.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace t2r {

// Immutable. What another process cuts off a mapped file is gone: reading there ends the program.
class MappedFile {
 public:
  // NOT_FOUND where it cannot be opened, INVALID_ARGUMENT where it is not a regular file,
  // RESOURCE_EXHAUSTED where it cannot be mapped; the message names the path.
  static absl::StatusOr<std::unique_ptr<MappedFile>> Open(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  // All of it, as long as this object lives.
  std::string_view bytes() const { return bytes_; }

 private:
  explicit MappedFile(std::string_view bytes) : bytes_(bytes) {}

  std::string_view bytes_;
};

}  // namespace t2r
