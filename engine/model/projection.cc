#include "engine/model/projection.h"

#include <utility>

namespace t2r {

Norm LoadNorm(WeightLoader& loader, const std::string& name) {
  Norm norm;
  norm.weight = loader.LoadVector(name + ".weight");
  if (loader.Lists(name + ".bias")) norm.bias = loader.LoadVector(name + ".bias");
  return norm;
}

Projection LoadProjection(WeightLoader& loader, const std::vector<std::string>& names) {
  ProjectionStack stack;
  for (const std::string& name : names) stack.Add(loader, name);
  return stack.Load(loader);
}

void ProjectionStack::Add(const HostMatrix& weight, std::span<const float> bias) {
  parts_.push_back(weight);
  bias_.insert(bias_.end(), bias.begin(), bias.end());
}

void ProjectionStack::Add(const WeightLoader& loader, const std::string& name) {
  const std::string bias = name + ".bias";
  Add(loader.HostRows(name + ".weight"),
      loader.Lists(bias) ? loader.Floats(bias) : std::vector<float>());
}

void ProjectionStack::Add(FoldedProjection folded, int64_t inputs) {
  folded_.push_back(std::move(folded.weight));
  Add({folded_.back().data(), DType::kFloat32, static_cast<int64_t>(folded.bias.size()), inputs,
       false},
      folded.bias);
}

Projection ProjectionStack::Load(WeightLoader& loader) const {
  return {folded_.empty() ? loader.Load(parts_) : loader.Load(parts_, DType::kFloat32),
          bias_.empty() ? Buffer() : loader.LoadVector(bias_)};
}

}  // namespace t2r
