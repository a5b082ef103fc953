// Reads safetensors files through mmap. Format: 8 bytes little-endian header length, a JSON header
// {name: {dtype, shape, data_offsets}}, the data. The header is checked whole before anything is
// used: lengths, offsets inside the file, no overlap with the header, shape · dtype = bytes.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/model/weights.h"

namespace t2r {

// All tensors of a model directory: model.safetensors, or the shards that
// model.safetensors.index.json lists, or all model-…-of-….safetensors where there is no index. F64
// (rounded to F32), F32, F16, BF16 and I8; tensors of other types are refused by Find and their
// names are in unsupported(). Files stay mapped as long as this object lives.
class SafetensorsDirectory : public WeightSource {
 public:
  // Errors name the file and the tensor: NOT_FOUND (no file), INVALID_ARGUMENT (bad or truncated).
  static absl::StatusOr<std::unique_ptr<SafetensorsDirectory>> Open(const std::string& directory);
  // One file.
  static absl::StatusOr<std::unique_ptr<SafetensorsDirectory>> OpenFile(const std::string& path);
  // A file's bytes already in memory (tests, fuzzing); `bytes` must outlive the object.
  static absl::StatusOr<std::unique_ptr<SafetensorsDirectory>> Parse(std::string_view bytes);

  ~SafetensorsDirectory() override;

  const HostTensor* Find(std::string_view name) const override;
  const std::map<std::string, HostTensor, std::less<>>& tensors() const { return tensors_; }
  // Name to type.
  const std::map<std::string, std::string, std::less<>>& unsupported() const {
    return unsupported_;
  }

 private:
  struct Mapping;
  SafetensorsDirectory();
  absl::Status AddFile(const std::string& path);
  absl::Status AddBytes(std::string_view bytes, const std::string& path);

  std::vector<std::unique_ptr<Mapping>> mappings_;
  std::map<std::string, HostTensor, std::less<>> tensors_;
  std::map<std::string, std::string, std::less<>> unsupported_;
};

// Writes one file, atomically (temporary file, fsync, rename).
absl::Status WriteSafetensors(const std::string& path,
                              const std::map<std::string, HostTensor, std::less<>>& tensors);

}  // namespace t2r
