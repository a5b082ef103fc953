// Model directories of well-known shapes with random weights: speed depends on shapes and dtypes
// only, so measurements need no trained model.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "engine/ops/dtype.h"

namespace t2r::bench {

struct RandomModelOptions {
  std::string shape = "smollm2-135m";  // one of ShapeNames()
  // t2r, elu, rfa, hedgehog, codebook, or none: without a window every layer is softmax.
  std::string feature_map = "t2r";
  int feature_size = 64;           // k; ignored for elu (k = head_dim) and none
  int window = 0;                  // w of every linear layer; 0: none
  int sinks = 0;                   // n, beside a window
  int fold = 1;                    // C, likewise
  std::vector<int> keep_full;      // layers that stay softmax, counted from 0
  DType dtype = DType::kBFloat16;  // float32 or bfloat16
  uint64_t seed = 1;               // the same options give the same bytes
};

std::vector<std::string> ShapeNames();

// Writes config.json and model.safetensors into `directory`, which is made if need be; no
// tokenizer. Holds the whole model in memory. INVALID_ARGUMENT names the option that is wrong.
absl::Status WriteRandomModel(const RandomModelOptions& options, const std::string& directory);

}  // namespace t2r::bench
