#include "engine/checkpoint/safetensors.h"

#include <unistd.h>

#include <cstring>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/checkpoint/safetensors_header.h"
#include "engine/io/git_lfs.h"
#include "engine/io/json.h"
#include "engine/io/mapped_file.h"

namespace t2r {
namespace {

constexpr uint64_t kMaxHeaderBytes = uint64_t{100} << 20;
constexpr size_t kMaxIndexBytes = size_t{64} << 20;

absl::Status InFile(const std::string& path, const absl::Status& status) {
  return path.empty() ? status
                      : absl::Status(status.code(), absl::StrCat(path, ": ", status.message()));
}

// Names of weights in formats that are not read, and what to do about them.
constexpr struct {
  const char* file;
  const char* advice;
} kOtherWeights[] = {
    {"pytorch_model.bin", "save the model again with safe_serialization=True"},
    {"pytorch_model.bin.index.json", "save the model again with safe_serialization=True"},
    {"consolidated.00.pth", "convert it to a Hugging Face directory"},
    {"tf_model.h5", "save the model again from PyTorch with safe_serialization=True"},
    {"flax_model.msgpack", "save the model again from PyTorch with safe_serialization=True"},
    {"adapter_model.safetensors", "merge the adapter into its base model and save that"},
    {"model.gguf", "import it with t2r-convert import-gguf"},
};

// All model-00001-of-0000N.safetensors, by name: what an index would list. Empty: there are none.
// NOT_FOUND when some of the N are missing.
absl::StatusOr<std::set<std::string>> ShardsWithoutIndex(const std::string& directory) {
  std::set<std::string> found;
  int total = 0;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(directory, error)) {
    const std::string name = entry.path().filename().string();
    int number = 0, of = 0, end = 0;
    if (std::sscanf(name.c_str(), "model-%5d-of-%5d.safetensors%n", &number, &of, &end) != 2 ||
        static_cast<size_t>(end) != name.size() || number < 1 || number > of) {
      continue;
    }
    found.insert(name);
    total = std::max(total, of);
  }
  if (found.size() == static_cast<size_t>(total)) return found;
  return absl::NotFoundError(
      absl::StrCat(directory, " has ", found.size(), " of ", total,
                   " files model-…-of-….safetensors and no model.safetensors.index.json"));
}

absl::Status NoWeights(const std::string& directory) {
  std::string text =
      absl::StrCat(directory, " has neither model.safetensors nor model.safetensors.index.json");
  for (const auto& other : kOtherWeights) {
    if (access(absl::StrCat(directory, "/", other.file).c_str(), F_OK) == 0) {
      absl::StrAppend(&text, ", only ", other.file, ", which is not read: ", other.advice);
      break;
    }
  }
  return absl::NotFoundError(text);
}

// F64 as F32, in storage of its own.
std::vector<uint64_t> RoundedToFloats(const char* source, size_t count) {
  std::vector<uint64_t> words((count + 1) / 2);
  auto* out = reinterpret_cast<char*>(words.data());
  for (size_t i = 0; i < count; ++i) {
    double value = 0;
    std::memcpy(&value, source + i * sizeof(double), sizeof(double));
    const auto rounded = static_cast<float>(value);
    std::memcpy(out + i * sizeof(float), &rounded, sizeof(float));
  }
  return words;
}

bool Exists(const std::string& path) { return access(path.c_str(), F_OK) == 0; }

bool ReadDType(const std::string& name, DType* dtype) {
  if (name == "F32") *dtype = DType::kFloat32;
  if (name == "BF16") *dtype = DType::kBFloat16;
  if (name == "F16") *dtype = DType::kFloat16;
  if (name == "F64") *dtype = DType::kFloat32;
  if (name == "I8") *dtype = DType::kInt8;
  return name == "F64" || name == "I8" || name == "F32" || name == "BF16" || name == "F16";
}

}  // namespace

// Bytes that tensors point into: a mapped file, or a copy of a tensor that lies unaligned in one.
struct SafetensorsDirectory::Mapping {
  std::unique_ptr<MappedFile> file;
  std::vector<uint64_t> copy;
};

SafetensorsDirectory::SafetensorsDirectory() = default;
SafetensorsDirectory::~SafetensorsDirectory() = default;

absl::StatusOr<std::unique_ptr<SafetensorsDirectory>> SafetensorsDirectory::Open(
    const std::string& directory) {
  const std::string single = directory + "/model.safetensors";
  const std::string index_path = directory + "/model.safetensors.index.json";
  if (Exists(single)) return OpenFile(single);
  if (!Exists(index_path)) {
    const auto shards = ShardsWithoutIndex(directory);
    if (!shards.ok()) return shards.status();
    if (shards->empty()) return NoWeights(directory);
    std::unique_ptr<SafetensorsDirectory> result(new SafetensorsDirectory);
    for (const std::string& file : *shards) {
      const absl::Status status = result->AddFile(absl::StrCat(directory, "/", file));
      if (!status.ok()) return status;
    }
    return result;
  }
  const auto text = ReadTextFile(index_path, kMaxIndexBytes);
  if (!text.ok()) return text.status();
  const auto index = ParseJsonObject(*text, index_path, kMaxIndexBytes);
  if (!index.ok()) return index.status();
  const auto map = index->find("weight_map");
  if (map == index->end() || !map->is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(index_path, ": weight_map must be an object"));
  }
  std::set<std::string> files;
  for (const auto& [name, file] : map->items()) {
    if (!file.is_string() || file.get<std::string>().find('/') != std::string::npos ||
        file.get<std::string>().empty()) {
      return absl::InvalidArgumentError(absl::StrCat(
          index_path, ": weight_map.", name, " must be the name of a file in the same directory"));
    }
    files.insert(file.get<std::string>());
  }
  std::unique_ptr<SafetensorsDirectory> result(new SafetensorsDirectory);
  for (const std::string& file : files) {
    const absl::Status status = result->AddFile(absl::StrCat(directory, "/", file));
    if (!status.ok()) return status;
  }
  for (const auto& [name, file] : map->items()) {
    if (result->tensors_.count(name) == 0 && result->unsupported_.count(name) == 0) {
      return absl::InvalidArgumentError(absl::StrCat(directory, "/", file.get<std::string>(),
                                                     ": has no tensor ", name,
                                                     ", which the index says it holds"));
    }
  }
  return result;
}

absl::StatusOr<std::unique_ptr<SafetensorsDirectory>> SafetensorsDirectory::OpenFile(
    const std::string& path) {
  std::unique_ptr<SafetensorsDirectory> result(new SafetensorsDirectory);
  const absl::Status status = result->AddFile(path);
  if (!status.ok()) return status;
  return result;
}

absl::StatusOr<std::unique_ptr<SafetensorsDirectory>> SafetensorsDirectory::Parse(
    std::string_view bytes) {
  std::unique_ptr<SafetensorsDirectory> result(new SafetensorsDirectory);
  const absl::Status status = result->AddBytes(bytes, "");
  if (!status.ok()) return status;
  return result;
}

const HostTensor* SafetensorsDirectory::Find(std::string_view name) const {
  const auto it = tensors_.find(name);
  if (it != tensors_.end()) return &it->second;
  if (const auto other = unsupported_.find(name); other != unsupported_.end()) {
    throw ModelError("tensor " + other->first + " has the type " + other->second +
                     "; supported are F64, F32, F16 and BF16");
  }
  return nullptr;
}

absl::Status SafetensorsDirectory::AddFile(const std::string& path) {
  auto file = MappedFile::Open(path);
  if (!file.ok()) return file.status();
  const std::string_view bytes = (*file)->bytes();
  auto mapping = std::make_unique<Mapping>();
  mapping->file = *std::move(file);
  mappings_.push_back(std::move(mapping));
  return AddBytes(bytes, path);
}

absl::Status SafetensorsDirectory::AddBytes(std::string_view bytes, const std::string& path) {
  if (IsGitLfsPointer(bytes)) {
    return InFile(path, absl::InvalidArgumentError(kGitLfsPointer));
  }
  if (bytes.size() < 8) {
    return InFile(path, absl::InvalidArgumentError(
                            absl::StrCat("not a safetensors file: ", bytes.size(), " bytes long")));
  }
  uint64_t header_bytes = 0;
  for (int i = 7; i >= 0; --i) {
    header_bytes = header_bytes << 8 | static_cast<unsigned char>(bytes[i]);
  }
  if (header_bytes > kMaxHeaderBytes || header_bytes > bytes.size() - 8) {
    return InFile(path, absl::InvalidArgumentError(absl::StrCat(
                            "the header would be ", header_bytes, " bytes long, the file is ",
                            bytes.size(), " (truncated, or not a safetensors file)")));
  }
  const std::string_view data = bytes.substr(8 + header_bytes);
  auto entries = ParseSafetensorsHeader(bytes.substr(8, header_bytes), data.size());
  if (!entries.ok()) return InFile(path, entries.status());
  for (SafetensorsEntry& entry : *entries) {
    HostTensor tensor;
    if (!ReadDType(entry.dtype, &tensor.dtype)) {
      unsupported_.emplace(entry.name, entry.dtype);
      continue;
    }
    const char* source = data.data() + entry.begin;
    tensor.data = source;
    if (entry.dtype == "F64") {
      auto mapping = std::make_unique<Mapping>();
      mapping->copy = RoundedToFloats(source, (entry.end - entry.begin) / sizeof(double));
      tensor.data = mapping->copy.data();
      mappings_.push_back(std::move(mapping));
    } else if (reinterpret_cast<uintptr_t>(source) % SizeOf(tensor.dtype) != 0) {
      auto mapping = std::make_unique<Mapping>();
      mapping->copy.resize((entry.end - entry.begin + 7) / 8);
      if (entry.end > entry.begin) {
        std::memcpy(mapping->copy.data(), source, entry.end - entry.begin);
      }
      tensor.data = mapping->copy.data();
      mappings_.push_back(std::move(mapping));
    }
    tensor.shape = std::move(entry.shape);
    const auto [it, inserted] = tensors_.emplace(std::move(entry.name), std::move(tensor));
    if (!inserted) {
      return InFile(path, absl::InvalidArgumentError(
                              absl::StrCat("tensor ", it->first, ": another shard holds it too")));
    }
  }
  return absl::OkStatus();
}

}  // namespace t2r
