#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <nlohmann/json.hpp>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "engine/checkpoint/safetensors.h"

namespace t2r {
namespace {

const char* NameInFile(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return "F32";
    case DType::kBFloat16:
      return "BF16";
    case DType::kFloat16:
      return "F16";
  }
  return "F32";
}

size_t BytesOf(const HostTensor& tensor) {
  return static_cast<size_t>(tensor.elements()) * SizeOf(tensor.dtype);
}

bool WriteAll(int fd, const void* data, size_t bytes) {
  const char* next = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t written = write(fd, next, std::min(bytes, size_t{1} << 30));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return false;
    next += written;
    bytes -= static_cast<size_t>(written);
  }
  return true;
}

absl::Status Failed(const char* what, const std::string& path) {
  const std::string why = std::generic_category().message(errno);
  return absl::InternalError(absl::StrCat("cannot ", what, " ", path, ": ", why));
}

}  // namespace

absl::Status WriteSafetensors(const std::string& path,
                              const std::map<std::string, HostTensor, std::less<>>& tensors) {
  // Wider elements first, so that every tensor is aligned in a file without gaps.
  std::vector<const std::pair<const std::string, HostTensor>*> order;
  order.reserve(tensors.size());
  for (const auto& tensor : tensors) order.push_back(&tensor);
  std::stable_sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
    return SizeOf(a->second.dtype) > SizeOf(b->second.dtype);
  });
  nlohmann::json header;
  header["__metadata__"] = {{"format", "pt"}};
  uint64_t offset = 0;
  for (const auto* tensor : order) {
    const uint64_t end = offset + BytesOf(tensor->second);
    header[tensor->first] = {{"dtype", NameInFile(tensor->second.dtype)},
                             {"shape", tensor->second.shape},
                             {"data_offsets", {offset, end}}};
    offset = end;
  }
  std::string text = header.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  text.append((8 - text.size() % 8) % 8, ' ');
  unsigned char length[8];
  for (int i = 0; i < 8; ++i) length[i] = static_cast<unsigned char>(text.size() >> (8 * i));

  const std::string temporary = path + ".tmp";
  const int fd = open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) return Failed("create", temporary);
  bool written = WriteAll(fd, length, sizeof(length)) && WriteAll(fd, text.data(), text.size());
  for (const auto* tensor : order) {
    written = written && WriteAll(fd, tensor->second.data, BytesOf(tensor->second));
  }
  written = written && fsync(fd) == 0;
  absl::Status status = written ? absl::OkStatus() : Failed("write", temporary);
  if (close(fd) != 0 && status.ok()) status = Failed("write", temporary);
  if (status.ok() && rename(temporary.c_str(), path.c_str()) != 0) status = Failed("rename", path);
  if (!status.ok()) {
    unlink(temporary.c_str());
    return status;
  }
  // The rename itself is durable once its directory is.
  const size_t slash = path.rfind('/');
  const std::string directory = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  const int directory_fd = open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (directory_fd >= 0) {
    fsync(directory_fd);
    close(directory_fd);
  }
  return absl::OkStatus();
}

}  // namespace t2r
