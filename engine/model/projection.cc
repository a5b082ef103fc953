#include "engine/model/projection.h"

#include <cstddef>
#include <utility>

#include "engine/ops/quantize.h"

namespace t2r {

void Normalize(Backend& backend, Tensor x, const Norm& norm, float eps, Tensor out) {
  if (norm.bias.f32() == nullptr) return backend.RmsNorm(x, norm.weight.f32(), eps, out);
  backend.LayerNorm(x, norm.weight.f32(), norm.bias.f32(), eps, out);
}

void Project(Backend& backend, Tensor in, const Projection& projection, Tensor out) {
  backend.MatMul(in, *projection.weight, projection.bias.f32(), MatMulMode::kStore, out);
}

void AddProjected(Backend& backend, Tensor in, const Projection& projection, Tensor out) {
  backend.MatMul(in, *projection.weight, projection.bias.f32(), MatMulMode::kAccumulate, out);
}

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

Projection LoadReordered(WeightLoader& loader, const std::string& name,
                         const std::vector<int64_t>& rows) {
  const HostMatrix stored = loader.HostRows(name + ".weight");
  const auto reordered = [&rows](const void* data, int64_t row_bytes) {
    const auto* from = static_cast<const std::byte*>(data);
    std::vector<std::byte> bytes;
    for (const int64_t row : rows) {
      bytes.insert(bytes.end(), from + row * row_bytes, from + (row + 1) * row_bytes);
    }
    return bytes;
  };
  int64_t row_bytes = stored.cols * static_cast<int64_t>(SizeOf(stored.dtype));
  std::vector<std::byte> scales;
  if (IsQuantized(stored.dtype)) {
    const int64_t groups = QuantGroups(stored.cols);
    const bool int4 = stored.dtype == DType::kInt4;
    if (int4) row_bytes = groups * kQuantGroup / 2;
    scales =
        reordered(stored.scales, groups * (int4 ? 2 : 1) * static_cast<int64_t>(sizeof(uint16_t)));
  }
  const std::vector<std::byte> bytes = reordered(stored.data, row_bytes);
  std::vector<float> bias;
  if (loader.Lists(name + ".bias")) {
    const std::vector<float> biases = loader.Floats(name + ".bias");
    for (const int64_t row : rows) bias.push_back(biases[static_cast<size_t>(row)]);
  }
  ProjectionStack stack;
  stack.Add({bytes.data(), stored.dtype, static_cast<int64_t>(rows.size()), stored.cols, false,
             reinterpret_cast<const uint16_t*>(scales.data())},
            bias);
  return stack.Load(loader);
}

void ProjectionStack::Add(const HostMatrix& weight, std::span<const float> bias) {
  parts_.push_back(weight);
  bias_.insert(bias_.end(), bias.begin(), bias.end());
}

void ProjectionStack::Add(const WeightLoader& loader, const std::string& name) {
  const std::string bias = name + ".bias";
  const HostMatrix weight = loader.HostRows(name + ".weight");
  if (IsQuantized(weight.dtype)) {
    if (stored_name_.empty()) {
      stored_name_ = name;
      stored_dtype_ = weight.dtype;
    }
    if (weight.dtype != stored_dtype_) {
      throw ModelError("tensor " + CodesOf(name + ".weight") + " is quantised as " +
                       NameOf(weight.dtype) + " and " + CodesOf(stored_name_ + ".weight") + " as " +
                       NameOf(stored_dtype_) + "; both are loaded as one matrix, of one type");
    }
  }
  Add(weight, loader.Lists(bias) ? loader.Floats(bias) : std::vector<float>());
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
