// Where a model's weights come from: named tensors in host memory.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "engine/ops/dtype.h"

namespace t2r {

// A tensor as its file holds it; row-major, not owned.
struct HostTensor {
  const void* data = nullptr;
  DType dtype = DType::kFloat32;
  std::vector<int64_t> shape;

  int64_t elements() const {
    int64_t n = 1;
    for (const int64_t d : shape) n *= d;
    return n;
  }
};

// The model cannot be built from these weights: a tensor is missing or has the wrong shape. The
// message names it. Caught where a model is loaded and turned into a status.
class ModelError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

class WeightSource {
 public:
  virtual ~WeightSource() = default;
  // Null when there is no such tensor. Valid as long as the source. Throws ModelError, naming the
  // type, for a tensor of one that is not read.
  virtual const HostTensor* Find(std::string_view name) const = 0;
};

}  // namespace t2r
