#include "engine/io/files.h"

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>  // renameat2
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "engine/io/git_lfs.h"

namespace t2r {
namespace {

absl::Status Failed(const char* what, const std::string& path) {
  const std::string why = std::generic_category().message(errno);
  return absl::InternalError(absl::StrCat("cannot ", what, " ", path, ": ", why));
}

// The folder that holds the path's last part.
std::string FolderOf(const std::string& path) {
  const std::string folder = std::filesystem::path(path).parent_path().string();
  return folder.empty() ? "." : folder;
}

// Renames in a directory are durable once it is synced. Some file systems cannot sync one; then
// there is nothing more to do.
void SyncDirectory(const std::string& directory) {
  const int fd = open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return;
  fsync(fd);
  close(fd);
}

}  // namespace

absl::StatusOr<std::string> ReadTextFile(const std::string& path, size_t max_bytes) {
  std::error_code error;
  // Opening a FIFO would wait for its writer.
  if (std::filesystem::exists(path, error) && !std::filesystem::is_regular_file(path, error)) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": is not a file"));
  }
  std::ifstream file(path, std::ios::binary);
  if (!file) return absl::NotFoundError(absl::StrCat(path, ": cannot be read"));
  std::string text;
  char block[65536];
  while (file.read(block, sizeof(block)) || file.gcount() > 0) {
    text.append(block, static_cast<size_t>(file.gcount()));
    if (text.size() > max_bytes) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": more than the ", max_bytes, " bytes that are read"));
    }
  }
  if (file.bad()) return absl::NotFoundError(absl::StrCat(path, ": cannot be read"));
  if (IsGitLfsPointer(text)) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": ", kGitLfsPointer));
  }
  return text;
}

absl::StatusOr<std::optional<std::string>> ReadOptionalFile(const std::string& path) {
  std::error_code error;
  if (!std::filesystem::exists(path, error)) return std::optional<std::string>();
  absl::StatusOr<std::string> text = ReadTextFile(path);
  if (absl::IsNotFound(text.status())) {  // it is there, but not for us
    return absl::InvalidArgumentError(absl::StrCat(path, ": cannot be read"));
  }
  if (!text.ok()) return text.status();
  return std::optional<std::string>(*std::move(text));
}

absl::Status WriteAll(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written = write(fd, bytes.data(), std::min(bytes.size(), size_t{1} << 30));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0 && errno == EAGAIN) {  // a pipe that does not block
      pollfd wanted = {fd, POLLOUT, 0};
      poll(&wanted, 1, -1);
      continue;
    }
    if (written <= 0) return absl::InternalError(std::generic_category().message(errno));
    bytes.remove_prefix(static_cast<size_t>(written));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<AtomicFile>> AtomicFile::Create(const std::string& path) {
  std::unique_ptr<AtomicFile> file(new AtomicFile(path));
  file->fd_ = open(file->temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (file->fd_ < 0) return Failed("create", file->temporary_);
  return file;
}

AtomicFile::~AtomicFile() {
  if (fd_ < 0) return;
  close(fd_);
  unlink(temporary_.c_str());
}

absl::Status AtomicFile::Write(std::string_view bytes) {
  absl::Status status = WriteAll(fd_, bytes);
  if (status.ok()) return status;
  return absl::InternalError(absl::StrCat("cannot write ", temporary_, ": ", status.message()));
}

absl::Status AtomicFile::Commit() {
  if (fsync(fd_) != 0) return Failed("write", temporary_);
  const int fd = fd_;
  fd_ = -1;
  absl::Status status = close(fd) == 0 ? absl::OkStatus() : Failed("write", temporary_);
  if (status.ok() && rename(temporary_.c_str(), path_.c_str()) != 0) {
    status = Failed("rename", temporary_);
  }
  if (!status.ok()) {
    unlink(temporary_.c_str());
    return status;
  }
  SyncDirectory(FolderOf(path_));
  return absl::OkStatus();
}

absl::Status WriteFileAtomically(const std::string& path, std::string_view bytes) {
  absl::StatusOr<std::unique_ptr<AtomicFile>> file = AtomicFile::Create(path);
  if (!file.ok()) return file.status();
  const absl::Status status = (*file)->Write(bytes);
  return status.ok() ? (*file)->Commit() : status;
}

absl::Status ReplaceDirectory(const std::string& staged, const std::string& target) {
  SyncDirectory(staged);
  std::string old;  // where the old directory is afterwards
  if (renameat2(AT_FDCWD, staged.c_str(), AT_FDCWD, target.c_str(), RENAME_EXCHANGE) == 0) {
    old = staged;
  } else if (errno == ENOENT) {  // there is no target
    if (rename(staged.c_str(), target.c_str()) != 0) return Failed("rename", staged);
  } else if (errno == EINVAL || errno == ENOSYS) {  // this file system does not exchange
    old = target + ".replaced";
    std::error_code ignored;
    std::filesystem::remove_all(old, ignored);
    if (rename(target.c_str(), old.c_str()) != 0) return Failed("rename", target);
    if (rename(staged.c_str(), target.c_str()) != 0) {
      absl::Status status = Failed("rename", staged);
      rename(old.c_str(), target.c_str());
      return status;
    }
  } else {
    return Failed("replace", target);
  }
  SyncDirectory(FolderOf(target));
  if (!old.empty()) {
    std::error_code ignored;  // the new one stands: what is left over is only waste
    std::filesystem::remove_all(old, ignored);
  }
  return absl::OkStatus();
}

}  // namespace t2r
