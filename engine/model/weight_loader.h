// Takes a model's tensors from a WeightSource onto a backend, with shapes checked.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/model/tensors.h"
#include "engine/model/weights.h"
#include "engine/ops/backend.h"

namespace t2r {

// Values of a tensor as float32 (exact).
std::vector<float> ToFloats(const HostTensor& tensor);

// Used while a model is built. Names are those of TensorsOf; the file may hold the tensor under one
// of its aliases. All getters throw ModelError naming the tensor, the shape that the configuration
// implies and the shape found, or the first element that is not finite.
class WeightLoader {
 public:
  // matrix_dtype: what Load converts matrices to.
  WeightLoader(const ModelConfig& config, const WeightSource& source, Backend& backend,
               DType matrix_dtype);

  // Whether the configuration has such a tensor.
  bool Lists(const std::string& name) const { return tensors_.count(name) > 0; }
  // Whether the files have it too: false only of optional ones.
  bool Has(const std::string& name) const;
  const HostTensor& Get(const std::string& name) const;
  std::vector<float> Floats(const std::string& name) const { return ToFloats(Get(name)); }
  // A projection or table of output rows, whichever way it is stored.
  HostMatrix HostRows(const std::string& name) const;

  // To the device; counted in bytes().
  std::unique_ptr<Matrix> Load(std::span<const HostMatrix> parts) {
    return Load(parts, matrix_dtype_);
  }
  std::unique_ptr<Matrix> Load(std::span<const HostMatrix> parts, DType dtype);
  std::unique_ptr<Matrix> LoadTable(const HostMatrix& table);
  // The matrix from hidden states to logits (HeadOf), and the table of tokens' embeddings `name`.
  // Quantised, a tied table is one matrix, which both return.
  std::shared_ptr<const Matrix> LoadHead();
  std::shared_ptr<const Matrix> LoadEmbedding(const std::string& name);
  Buffer LoadVector(std::span<const float> values);
  Buffer LoadVector(const std::string& name) { return LoadVector(Floats(name)); }

  size_t bytes() const { return bytes_; }

 private:
  const TensorSpec& SpecOf(const std::string& name) const;

  std::map<std::string, TensorSpec> tensors_;
  std::string head_;
  const WeightSource& source_;
  Backend& backend_;
  DType matrix_dtype_;
  std::shared_ptr<const Matrix> loaded_head_;  // where it is quantised
  size_t bytes_ = 0;
};

}  // namespace t2r
