#include "engine/checkpoint/safetensors_writer.h"

#include <fcntl.h>
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

}  // namespace

SafetensorsWriter::SafetensorsWriter(const std::string& path)
    : path_(path), temporary_(path + ".tmp") {}

SafetensorsWriter::~SafetensorsWriter() {
  if (fd_ < 0) return;
  close(fd_);
  unlink(temporary_.c_str());
}

absl::Status SafetensorsWriter::Failed(const char* what) const {
  const std::string why = std::generic_category().message(errno);
  return absl::InternalError(absl::StrCat("cannot ", what, " ", temporary_, ": ", why));
}

absl::StatusOr<std::unique_ptr<SafetensorsWriter>> SafetensorsWriter::Create(
    const std::string& path, const std::vector<SafetensorsSpec>& tensors) {
  std::unique_ptr<SafetensorsWriter> writer(new SafetensorsWriter(path));
  nlohmann::json header;
  header["__metadata__"] = {{"format", "pt"}};
  for (const SafetensorsSpec& tensor : tensors) {
    uint64_t bytes = SizeOf(tensor.dtype);
    for (const int64_t size : tensor.shape) bytes *= static_cast<uint64_t>(size);
    header[tensor.name] = {{"dtype", NameInFile(tensor.dtype)},
                           {"shape", tensor.shape},
                           {"data_offsets", {writer->left_, writer->left_ + bytes}}};
    writer->left_ += bytes;
  }
  std::string text = header.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  text.append((8 - text.size() % 8) % 8, ' ');
  unsigned char length[8];
  for (int i = 0; i < 8; ++i) length[i] = static_cast<unsigned char>(text.size() >> (8 * i));

  writer->fd_ = open(writer->temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (writer->fd_ < 0) return writer->Failed("create");
  if (!WriteAll(writer->fd_, length, sizeof(length)) ||
      !WriteAll(writer->fd_, text.data(), text.size())) {
    return writer->Failed("write");
  }
  return writer;
}

absl::Status SafetensorsWriter::Write(const void* data, size_t bytes) {
  if (bytes > left_) {
    return absl::InternalError(absl::StrCat(path_, ": more data than the header tells"));
  }
  left_ -= bytes;
  return WriteAll(fd_, data, bytes) ? absl::OkStatus() : Failed("write");
}

absl::Status SafetensorsWriter::Finish() {
  if (left_ != 0) {
    return absl::InternalError(absl::StrCat(path_, ": ", left_, " bytes of data are missing"));
  }
  if (fsync(fd_) != 0) return Failed("write");
  const int fd = fd_;
  fd_ = -1;
  absl::Status status = close(fd) == 0 ? absl::OkStatus() : Failed("write");
  if (status.ok() && rename(temporary_.c_str(), path_.c_str()) != 0) status = Failed("rename");
  if (!status.ok()) {
    unlink(temporary_.c_str());
    return status;
  }
  // The rename itself is durable once its directory is.
  const size_t slash = path_.rfind('/');
  const std::string directory = slash == std::string::npos ? "." : path_.substr(0, slash + 1);
  const int directory_fd = open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (directory_fd >= 0) {
    fsync(directory_fd);
    close(directory_fd);
  }
  return absl::OkStatus();
}

absl::Status WriteSafetensors(const std::string& path,
                              const std::map<std::string, HostTensor, std::less<>>& tensors) {
  // Wider elements first, so that every tensor is aligned in a file without gaps.
  std::vector<const std::pair<const std::string, HostTensor>*> order;
  order.reserve(tensors.size());
  for (const auto& tensor : tensors) order.push_back(&tensor);
  std::stable_sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
    return SizeOf(a->second.dtype) > SizeOf(b->second.dtype);
  });
  std::vector<SafetensorsSpec> specs;
  specs.reserve(order.size());
  for (const auto* tensor : order) {
    specs.push_back({tensor->first, tensor->second.dtype, tensor->second.shape});
  }
  auto writer = SafetensorsWriter::Create(path, specs);
  if (!writer.ok()) return writer.status();
  for (const auto* tensor : order) {
    const auto bytes =
        static_cast<size_t>(tensor->second.elements()) * SizeOf(tensor->second.dtype);
    if (absl::Status status = (*writer)->Write(tensor->second.data, bytes); !status.ok()) {
      return status;
    }
  }
  return (*writer)->Finish();
}

}  // namespace t2r
