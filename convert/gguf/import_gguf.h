// A GGUF file as an HF directory.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "engine/ops/dtype.h"

namespace t2r::convert {

struct GgufImportOptions {
  std::string file, directory;
  DType dtype = DType::kFloat32;  // of the tensors that are written
  std::string pre_tokenizer;      // replaces tokenizer.ggml.pre; empty: the file's
};

struct GgufImportSummary {
  std::string architecture, tokenizer;
  int64_t tensors = 0, parameters = 0;
  std::string types;  // of the file's tensors: "211 Q4_1, 61 F32"
};

// Writes config.json, generation_config.json, model.safetensors and, where the file has a
// vocabulary, tokenizer.json and tokenizer_config.json. All or nothing, as StagedDirectory has it.
// `progress` is called with the share of the values that is written and the tensor that comes next.
// Throws ConvertError, which begins with the file's path.
GgufImportSummary ImportGgufFile(
    const GgufImportOptions& options,
    const std::function<void(double share, const std::string& tensor)>& progress);

}  // namespace t2r::convert
