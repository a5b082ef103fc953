#include "engine/checkpoint/safetensors_writer.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "engine/checkpoint/safetensors.h"
#include "engine/io/status_macros.h"

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
    case DType::kInt8:
      return "I8";
    case DType::kInt4:
    case DType::kFloat8:
      break;  // not stored as such
  }
  return "F32";
}

}  // namespace

absl::StatusOr<std::unique_ptr<SafetensorsWriter>> SafetensorsWriter::Create(
    const std::string& path, const std::vector<SafetensorsSpec>& tensors) {
  std::unique_ptr<SafetensorsWriter> writer(new SafetensorsWriter());
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
  std::string length(8, '\0');
  for (int i = 0; i < 8; ++i) length[i] = static_cast<char>(text.size() >> (8 * i));

  T2R_ASSIGN_OR_RETURN(writer->file_, AtomicFile::Create(path));
  T2R_RETURN_IF_ERROR(writer->file_->Write(length + text));
  return writer;
}

absl::Status SafetensorsWriter::Write(const void* data, size_t bytes) {
  if (bytes > left_) return absl::InternalError("more data than the safetensors header tells");
  left_ -= bytes;
  return file_->Write({static_cast<const char*>(data), bytes});
}

absl::Status SafetensorsWriter::Finish() {
  if (left_ != 0) {
    return absl::InternalError(absl::StrCat(left_, " bytes of data are missing"));
  }
  return file_->Commit();
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
