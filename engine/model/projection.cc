#include "engine/model/projection.h"

#include <utility>

namespace t2r {

Norm LoadNorm(WeightLoader& loader, const std::string& name, int64_t size) {
  return {loader.LoadVector(name + "weight", {size}), loader.LoadVector(name + "bias", {size})};
}

void ProjectionStack::Add(const HostMatrix& weight, std::span<const float> bias) {
  parts_.push_back(weight);
  bias_.insert(bias_.end(), bias.begin(), bias.end());
}

void ProjectionStack::Add(const WeightLoader& loader, const std::string& name, int64_t outputs,
                          int64_t inputs) {
  Add(loader.Linear(name + "weight", outputs, inputs), loader.Floats(name + "bias", {outputs}));
}

void ProjectionStack::Add(FoldedProjection folded, int64_t inputs) {
  folded_.push_back(std::move(folded.weight));
  Add({folded_.back().data(), DType::kFloat32, static_cast<int64_t>(folded.bias.size()), inputs,
       false},
      folded.bias);
}

Projection ProjectionStack::Load(WeightLoader& loader) const {
  return {folded_.empty() ? loader.Load(parts_) : loader.Load(parts_, DType::kFloat32),
          loader.LoadVector(bias_)};
}

}  // namespace t2r
