// Norms and projections, with biases where the architecture lists them.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/model/fold.h"
#include "engine/model/weight_loader.h"
#include "engine/ops/backend.h"

namespace t2r {

struct Norm {
  Buffer weight;
  Buffer bias;  // empty without one
};

struct Projection {
  std::unique_ptr<Matrix> weight;
  Buffer bias;  // empty without one
};

// RMSNorm, or LayerNorm where the norm has a bias.
void Normalize(Backend& backend, Tensor x, const Norm& norm, float eps, Tensor out);
// out = in · weightᵀ + bias.
void Project(Backend& backend, Tensor in, const Projection& projection, Tensor out);
// The same, onto what out holds.
void AddProjected(Backend& backend, Tensor in, const Projection& projection, Tensor out);

// `name`.weight and `name`.bias.
Norm LoadNorm(WeightLoader& loader, const std::string& name);
// `name`.weight and `name`.bias of each name, stacked into one matrix.
Projection LoadProjection(WeightLoader& loader, const std::vector<std::string>& names);
// The same of one name with its outputs in another order: output i is the file's rows[i].
Projection LoadReordered(WeightLoader& loader, const std::string& name,
                         const std::vector<int64_t>& rows);

// Projections of the same inputs, collected to be loaded as one matrix.
class ProjectionStack {
 public:
  // weight: its memory must stay until Load. bias [weight.rows], or empty where no part has one.
  void Add(const HostMatrix& weight, std::span<const float> bias);
  // `name`.weight and `name`.bias. Throws ModelError where the files hold it quantised as another
  // type than a part before it: a matrix has one.
  void Add(const WeightLoader& loader, const std::string& name);
  // With a folded part the whole matrix stays float32: a product of two 16-bit matrices, rounded to
  // 16 bits again, would move log-probabilities by 1e-3 and more.
  void Add(FoldedProjection folded, int64_t inputs);

  Projection Load(WeightLoader& loader) const;

 private:
  std::vector<HostMatrix> parts_;
  std::vector<float> bias_;
  std::string stored_name_;  // of the first part that the files hold quantised
  DType stored_dtype_ = DType::kFloat32;
  std::vector<std::vector<float>> folded_;  // weights that parts_ refers to
};

}  // namespace t2r
