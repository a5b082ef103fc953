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

// Whether a tensor is a matrix of products or a table of embeddings, which may be quantised.
inline bool IsQuantizable(const TensorSpec& spec) {
  return spec.role == TensorRole::kProjection || spec.role == TensorRole::kEmbedding ||
         spec.role == TensorRole::kSourceEmbedding || spec.role == TensorRole::kHead;
}
// What a model of `weights` keeps such a matrix as: with int4 and fp8, head and embeddings in int8,
// because every logit hangs on them and they are looked up.
inline DType MatrixDType(const TensorSpec& spec, DType weights) {
  const bool coarse = weights == DType::kInt4 || weights == DType::kFloat8;
  return coarse && spec.role != TensorRole::kProjection ? DType::kInt8 : weights;
}
// What stands in place of a quantised matrix `name` (docs/model-format.md).
inline std::string CodesOf(const std::string& name) { return name + ".codes"; }
inline std::string ScalesOf(const std::string& name) { return name + ".scales"; }

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
  // Of a quantised matrix what its codes stand for.
  std::vector<float> Floats(const std::string& name) const;
  // A projection or table of output rows, whichever way it is stored: as a tensor, or quantised as
  // MatrixDType says, which then takes it as it is. Files that hold projections in int4 may hold
  // others in int8.
  HostMatrix HostRows(const std::string& name) const;

  // To the device; counted in bytes(). Parts that the files hold quantised, all alike, make the
  // whole matrix what they are.
  std::unique_ptr<Matrix> Load(std::span<const HostMatrix> parts);
  std::unique_ptr<Matrix> Load(std::span<const HostMatrix> parts, DType dtype);
  std::unique_ptr<Matrix> LoadTable(const HostMatrix& table);
  // The matrix from hidden states to logits (HeadOf), and the table of tokens' embeddings `name`.
  // Where the backend can look rows up in it, a tied table is one matrix, which both return;
  // otherwise the table is kept as the files have it.
  std::shared_ptr<const Matrix> LoadHead();
  std::shared_ptr<const Matrix> LoadEmbedding(const std::string& name);
  Buffer LoadVector(std::span<const float> values);
  Buffer LoadVector(const std::string& name) { return LoadVector(Floats(name)); }

  size_t bytes() const { return bytes_; }

 private:
  const TensorSpec& SpecOf(const std::string& name) const;
  // Whether the files hold a projection in int4.
  bool StoresInt4() const;
  // The same matrix quantised in the files; without data where it is not.
  HostMatrix QuantizedRows(const TensorSpec& spec) const;

  std::map<std::string, TensorSpec> tensors_;
  std::string head_;
  const WeightSource& source_;
  Backend& backend_;
  DType matrix_dtype_;
  bool stores_int4_ = false;
  std::shared_ptr<const Matrix> loaded_head_;  // where it is quantised
  size_t bytes_ = 0;
};

}  // namespace t2r
