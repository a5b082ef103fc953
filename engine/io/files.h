// Files read and written whole. Statuses name the file.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace t2r {

// The largest file that is read unless a caller says otherwise.
inline constexpr size_t kMaxFileBytes = size_t{256} << 20;

// A whole file: NOT_FOUND when there is none, INVALID_ARGUMENT for a directory and beyond
// max_bytes.
absl::StatusOr<std::string> ReadTextFile(const std::string& path, size_t max_bytes = kMaxFileBytes);
// The same; nullopt when there is no such file.
absl::StatusOr<std::optional<std::string>> ReadOptionalFile(const std::string& path);

// Writes all of the bytes to an open file or pipe, whatever the system takes at once, waiting where
// it takes nothing yet. INTERNAL with the system's reason.
absl::Status WriteAll(int fd, std::string_view bytes);

// A file that comes into its place whole: a reader, and whoever looks after a crash, finds what was
// there before or all of it, on the disk with its directory. Until Commit it is PATH.tmp. Errors
// are INTERNAL. Not thread-safe.
class AtomicFile {
 public:
  static absl::StatusOr<std::unique_ptr<AtomicFile>> Create(const std::string& path);
  // Removes what was written unless it was committed.
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  absl::Status Write(std::string_view bytes);
  // Once, as the last call.
  absl::Status Commit();

 private:
  explicit AtomicFile(const std::string& path) : path_(path), temporary_(path + ".tmp") {}

  const std::string path_, temporary_;
  int fd_ = -1;
};

// The whole file in one call.
absl::Status WriteFileAtomically(const std::string& path, std::string_view bytes);

// Makes the directory `staged` stand at `target`, beside it on the same file system; a directory
// that is there goes. There is no moment without a whole one: the two change places. (Where the
// file system cannot do that, the old one is moved aside first, and a crash right there leaves it
// as `target`.replaced.) INTERNAL on failure.
absl::Status ReplaceDirectory(const std::string& staged, const std::string& target);

}  // namespace t2r
