// From a GGUF file's metadata and tensors to a model as HF directories describe it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "convert/gguf/gguf_file.h"
#include "engine/ops/dtype.h"

namespace t2r::convert {

// A tensor to write and where its values come from.
struct PlannedTensor {
  std::string name;  // HF's
  std::vector<int64_t> shape;
  const GgufTensor* source = nullptr;  // of the file, which the plan borrows
  // > 0: the rows (or the elements of a vector) belong to so many heads, and each head's lie in
  // llama.cpp's order: what HF has in rows i and i + d/2 of a head, the pair that RoPE rotates, is
  // in its rows 2i and 2i + 1.
  int64_t interleaved_heads = 0;
};

struct ModelPlan {
  std::string architecture;  // general.architecture: llama, qwen2 or qwen3
  int64_t vocabulary = 0;    // rows of the embedding
  std::string config_json;
  std::string generation_config_json;
  std::vector<PlannedTensor> tensors;  // in the order of their data in the file
};

// Throws ConvertError, which names the key or tensor, where something is missing, has the wrong
// type or shape, or asks for mathematics that HF's class of the architecture does not have; a
// tensor that the architecture has no place for is such a thing. `dtype` is what the tensors will
// be written in.
ModelPlan PlanModel(const GgufFile& file, DType dtype);

}  // namespace t2r::convert
