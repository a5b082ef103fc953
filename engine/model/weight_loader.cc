#include "engine/model/weight_loader.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <string>
#include <utility>

namespace t2r {
namespace {

std::string Shown(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) {
    text += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  }
  return text + "]";
}

// The first element whose exponent is all ones, which an infinity or a NaN has; -1: none.
template <typename Bits>
int64_t FirstWithExponent(const void* data, int64_t count, Bits exponent) {
  const auto* bytes = static_cast<const std::byte*>(data);
  constexpr int64_t kBlock = 4096;
  for (int64_t first = 0; first < count; first += kBlock) {
    const int64_t end = std::min(first + kBlock, count);
    const auto at = [bytes, exponent](int64_t i) {
      Bits bits;
      std::memcpy(&bits, bytes + i * static_cast<int64_t>(sizeof(Bits)), sizeof(Bits));
      return (bits & exponent) == exponent;
    };
    bool any = false;  // a block without a branch is vectorised
    for (int64_t i = first; i < end; ++i) any |= at(i);
    for (int64_t i = first; any && i < end; ++i) {
      if (at(i)) return i;
    }
  }
  return -1;
}

int64_t FirstNotFinite(const HostTensor& tensor) {
  const int64_t count = tensor.elements();
  switch (tensor.dtype) {
    case DType::kFloat32:
      return FirstWithExponent<uint32_t>(tensor.data, count, 0x7f800000U);
    case DType::kBFloat16:
      return FirstWithExponent<uint16_t>(tensor.data, count, 0x7f80U);
    case DType::kFloat16:
      return FirstWithExponent<uint16_t>(tensor.data, count, 0x7c00U);
    case DType::kInt8:
    case DType::kInt4:
      break;
  }
  return -1;
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

WeightLoader::WeightLoader(const ModelConfig& config, const WeightSource& source, Backend& backend,
                           DType matrix_dtype)
    : source_(source), backend_(backend), matrix_dtype_(matrix_dtype) {
  std::vector<TensorSpec> tensors = TensorsOf(config);
  head_ = HeadOf(tensors);
  for (TensorSpec& tensor : tensors) tensors_[tensor.name] = std::move(tensor);
}

const TensorSpec& WeightLoader::SpecOf(const std::string& name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) throw ModelError("the architecture lists no tensor " + name);
  return found->second;
}

bool WeightLoader::Has(const std::string& name) const {
  return FindTensor(source_, SpecOf(name)) != nullptr;
}

const HostTensor& WeightLoader::Get(const std::string& name) const {
  const TensorSpec& spec = SpecOf(name);
  const HostTensor* tensor = FindTensor(source_, spec);
  if (tensor == nullptr) {
    throw ModelError("tensor " + name + " of shape " + Shown(spec.shape) + " is missing");
  }
  if (tensor->shape != spec.shape) {
    throw ModelError("tensor " + name + " has shape " + Shown(tensor->shape) +
                     "; the configuration needs " + Shown(spec.shape));
  }
  const int64_t bad = FirstNotFinite(*tensor);
  if (bad >= 0) {
    throw ModelError("tensor " + name + " of shape " + Shown(spec.shape) +
                     " is damaged: its element " + std::to_string(bad) +
                     " (in row-major order) is NaN or infinite");
  }
  return *tensor;
}

HostMatrix WeightLoader::HostRows(const std::string& name) const {
  const HostTensor& tensor = Get(name);
  const bool transposed = SpecOf(name).transposed;
  return {tensor.data, tensor.dtype, tensor.shape[transposed ? 1 : 0],
          tensor.shape[transposed ? 0 : 1], transposed};
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

std::shared_ptr<const Matrix> WeightLoader::LoadHead() {
  if (loaded_head_ != nullptr) return loaded_head_;
  const HostMatrix rows = HostRows(head_);
  std::shared_ptr<const Matrix> head = Load({&rows, 1});
  if (IsQuantized(matrix_dtype_)) loaded_head_ = head;
  return head;
}

std::shared_ptr<const Matrix> WeightLoader::LoadEmbedding(const std::string& name) {
  if (!IsQuantized(matrix_dtype_)) return LoadTable(HostRows(name));
  if (name == head_) return LoadHead();
  const HostMatrix rows = HostRows(name);
  return Load({&rows, 1});
}

Buffer WeightLoader::LoadVector(std::span<const float> values) {
  Buffer buffer = backend_.LoadVector(values);
  bytes_ += buffer.bytes();
  return buffer;
}

}  // namespace t2r
