#include "engine/model/weight_loader.h"

#include <cstring>

namespace t2r {
namespace {

std::string Shown(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) {
    text += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  }
  return text + "]";
}

}  // namespace

std::vector<float> ToFloats(const HostTensor& tensor) {
  const auto count = static_cast<size_t>(tensor.elements());
  std::vector<float> values(count);
  if (tensor.dtype == DType::kFloat32) {
    if (count > 0) std::memcpy(values.data(), tensor.data, count * sizeof(float));
    return values;
  }
  const auto* bits = static_cast<const uint16_t*>(tensor.data);
  for (size_t i = 0; i < count; ++i) {
    values[i] =
        tensor.dtype == DType::kBFloat16 ? BFloat16ToFloat(bits[i]) : Float16ToFloat(bits[i]);
  }
  return values;
}

const HostTensor& WeightLoader::Get(const std::string& name,
                                    const std::vector<int64_t>& shape) const {
  const HostTensor* tensor = source_.Find(name);
  if (tensor == nullptr) {
    throw ModelError("tensor " + name + " of shape " + Shown(shape) + " is missing");
  }
  if (tensor->shape != shape) {
    throw ModelError("tensor " + name + " has shape " + Shown(tensor->shape) +
                     "; the configuration needs " + Shown(shape));
  }
  return *tensor;
}

std::vector<float> WeightLoader::Floats(const std::string& name,
                                        const std::vector<int64_t>& shape) const {
  return ToFloats(Get(name, shape));
}

HostMatrix WeightLoader::Linear(const std::string& name, int64_t outputs, int64_t inputs) const {
  const HostTensor& tensor = Get(name, {outputs, inputs});
  return {tensor.data, tensor.dtype, outputs, inputs, false};
}

HostMatrix WeightLoader::Conv1d(const std::string& name, int64_t inputs, int64_t outputs) const {
  const HostTensor& tensor = Get(name, {inputs, outputs});
  return {tensor.data, tensor.dtype, outputs, inputs, true};
}

std::unique_ptr<Matrix> WeightLoader::Load(std::span<const HostMatrix> parts, DType dtype) {
  std::unique_ptr<Matrix> matrix = backend_.LoadMatrix(parts, dtype);
  bytes_ += matrix->bytes();
  return matrix;
}

std::unique_ptr<Matrix> WeightLoader::LoadTable(const HostMatrix& table) {
  std::unique_ptr<Matrix> loaded = backend_.LoadTable(table);
  bytes_ += loaded->bytes();
  return loaded;
}

Buffer WeightLoader::LoadVector(std::span<const float> values) {
  Buffer buffer = backend_.LoadVector(values);
  bytes_ += buffer.bytes();
  return buffer;
}

}  // namespace t2r
