// Takes named tensors from a WeightSource onto a backend, with shapes checked.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/model/weights.h"
#include "engine/ops/backend.h"

namespace t2r {

// Values of a tensor as float32 (exact).
std::vector<float> ToFloats(const HostTensor& tensor);

// Used while a model is built. All getters throw ModelError naming the tensor, the shape that the
// configuration implies and the shape found.
class WeightLoader {
 public:
  // matrix_dtype: what Load converts matrices to.
  WeightLoader(const WeightSource& source, Backend& backend, DType matrix_dtype)
      : source_(source), backend_(backend), matrix_dtype_(matrix_dtype) {}

  bool Has(const std::string& name) const { return source_.Find(name) != nullptr; }
  const HostTensor& Get(const std::string& name, const std::vector<int64_t>& shape) const;
  std::vector<float> Floats(const std::string& name, const std::vector<int64_t>& shape) const;

  // A linear layer's weight, stored [outputs, inputs].
  HostMatrix Linear(const std::string& name, int64_t outputs, int64_t inputs) const;
  // GPT-2's Conv1D, stored [inputs, outputs].
  HostMatrix Conv1d(const std::string& name, int64_t inputs, int64_t outputs) const;

  // To the device; counted in bytes().
  std::unique_ptr<Matrix> Load(std::span<const HostMatrix> parts) {
    return Load(parts, matrix_dtype_);
  }
  std::unique_ptr<Matrix> Load(std::span<const HostMatrix> parts, DType dtype);
  std::unique_ptr<Matrix> LoadTable(const HostMatrix& table);
  Buffer LoadVector(std::span<const float> values);
  Buffer LoadVector(const std::string& name, const std::vector<int64_t>& shape) {
    return LoadVector(Floats(name, shape));
  }

  size_t bytes() const { return bytes_; }

 private:
  const WeightSource& source_;
  Backend& backend_;
  DType matrix_dtype_;
  size_t bytes_ = 0;
};

}  // namespace t2r
