#include "engine/model/weight_loader.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <string>
#include <utility>

#include "engine/ops/quantize.h"

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
// One more in the exponent's lowest bit then carries into the sign's place.
template <typename Bits, Bits kExponent>
int64_t FirstWithExponent(const void* data, int64_t count) {
  constexpr auto kLowest = static_cast<Bits>(kExponent & -kExponent);
  constexpr auto kCarry = static_cast<Bits>(kExponent + kLowest);
  const auto* bytes = static_cast<const std::byte*>(data);
  constexpr int64_t kBlock = 4096;
  for (int64_t first = 0; first < count; first += kBlock) {
    const int64_t end = std::min(first + kBlock, count);
    const auto carry = [bytes](int64_t i) {
      Bits bits;
      std::memcpy(&bits, bytes + i * static_cast<int64_t>(sizeof(Bits)), sizeof(Bits));
      return static_cast<Bits>((bits & kExponent) + kLowest);
    };
    Bits any = 0;  // a block without a branch is vectorised
    for (int64_t i = first; i < end; ++i) any |= carry(i);
    for (int64_t i = first; (any & kCarry) != 0 && i < end; ++i) {
      if ((carry(i) & kCarry) != 0) return i;
    }
  }
  return -1;
}

int64_t FirstNotFinite(const HostTensor& tensor) {
  const int64_t count = tensor.elements();
  switch (tensor.dtype) {
    case DType::kFloat32:
      return FirstWithExponent<uint32_t, 0x7f800000U>(tensor.data, count);
    case DType::kBFloat16:
      return FirstWithExponent<uint16_t, 0x7f80U>(tensor.data, count);
    case DType::kFloat16:
      return FirstWithExponent<uint16_t, 0x7c00U>(tensor.data, count);
    case DType::kInt8:
    case DType::kInt4:
    case DType::kFloat8:
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
  stores_int4_ = StoresInt4();
}

bool WeightLoader::StoresInt4() const {
  const auto in_int4 = [this](const std::string& name) {
    const HostTensor* scales = source_.Find(ScalesOf(name));
    return scales != nullptr && scales->shape.size() == 3;
  };
  return std::any_of(tensors_.begin(), tensors_.end(), [&](const auto& tensor) {
    const TensorSpec& spec = tensor.second;
    return spec.role == TensorRole::kProjection &&
           (in_int4(spec.name) || std::any_of(spec.aliases.begin(), spec.aliases.end(), in_int4));
  });
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
  if (IsQuantized(tensor->dtype)) {
    throw ModelError("tensor " + name + " has the type I8, which only codes of matrices have");
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

HostMatrix WeightLoader::QuantizedRows(const TensorSpec& spec) const {
  std::vector<std::string> names = {spec.name};
  names.insert(names.end(), spec.aliases.begin(), spec.aliases.end());
  for (const std::string& name : names) {
    const HostTensor* codes = source_.Find(CodesOf(name));
    if (codes == nullptr) continue;
    const HostTensor* scales = source_.Find(ScalesOf(name));
    if (!IsQuantizable(spec) || spec.shape.size() != 2 || scales == nullptr) {
      throw ModelError("tensor " + CodesOf(name) +
                       (scales == nullptr ? " has no " + ScalesOf(name) + " beside it"
                                          : " stands for a tensor that is never quantised"));
    }
    HostMatrix matrix;
    matrix.rows = spec.shape[spec.transposed ? 1 : 0];
    matrix.cols = spec.shape[spec.transposed ? 0 : 1];
    const int64_t groups = QuantGroups(matrix.cols);
    matrix.dtype = scales->shape.size() == 3 ? DType::kInt4 : DType::kInt8;
    const bool int4 = matrix.dtype == DType::kInt4;
    const auto check = [](const std::string& of, const HostTensor& tensor, DType dtype,
                          const std::vector<int64_t>& shape) {
      if (tensor.dtype == dtype && tensor.shape == shape) return;
      throw ModelError("tensor " + of + " is " + NameOf(tensor.dtype) + " " + Shown(tensor.shape) +
                       "; the configuration needs " + NameOf(dtype) + " " + Shown(shape));
    };
    std::vector<int64_t> shape = {matrix.rows, groups};
    if (int4) shape.push_back(2);
    check(ScalesOf(name), *scales, DType::kBFloat16, shape);
    check(CodesOf(name), *codes, DType::kInt8,
          {matrix.rows, int4 ? groups * (kQuantGroup / 2) : matrix.cols});
    const int64_t bad = FirstNotFinite(*scales);
    if (bad >= 0) {
      throw ModelError("tensor " + ScalesOf(name) + " is damaged: its element " +
                       std::to_string(bad) + " (in row-major order) is NaN or infinite");
    }
    matrix.data = codes->data;
    matrix.scales = static_cast<const uint16_t*>(scales->data);
    return matrix;
  }
  return {};
}

std::vector<float> WeightLoader::Floats(const std::string& name) const {
  const TensorSpec& spec = SpecOf(name);
  const HostMatrix matrix =
      FindTensor(source_, spec) == nullptr ? QuantizedRows(spec) : HostMatrix();
  if (matrix.data == nullptr) return ToFloats(Get(name));
  std::vector<float> values(static_cast<size_t>(matrix.rows * matrix.cols));
  std::vector<float> row(static_cast<size_t>(matrix.cols));
  for (int64_t n = 0; n < matrix.rows; ++n) {
    ReadStoredRow(matrix, n, row.data());
    for (int64_t k = 0; k < matrix.cols; ++k) {
      const int64_t at = spec.transposed ? k * matrix.rows + n : n * matrix.cols + k;
      values[static_cast<size_t>(at)] = row[static_cast<size_t>(k)];
    }
  }
  return values;
}

HostMatrix WeightLoader::HostRows(const std::string& name) const {
  if (FindTensor(source_, SpecOf(name)) == nullptr) {
    const HostMatrix matrix = QuantizedRows(SpecOf(name));
    const DType wanted = MatrixDType(SpecOf(name), matrix_dtype_);
    const bool kept_wider = stores_int4_ && wanted == DType::kInt4 && matrix.dtype == DType::kInt8;
    if (matrix.data != nullptr && matrix.dtype != wanted && !kept_wider) {
      throw ModelError("tensor " + CodesOf(name) + " is quantised as " + NameOf(matrix.dtype) +
                       "; weights of " + NameOf(matrix_dtype_) + " need it as " + NameOf(wanted));
    }
    if (matrix.data != nullptr) return matrix;
  }
  const HostTensor& tensor = Get(name);
  const bool transposed = SpecOf(name).transposed;
  return {tensor.data, tensor.dtype, tensor.shape[transposed ? 1 : 0],
          tensor.shape[transposed ? 0 : 1], transposed};
}

std::unique_ptr<Matrix> WeightLoader::Load(std::span<const HostMatrix> parts) {
  const auto stored = std::find_if(parts.begin(), parts.end(),
                                   [](const HostMatrix& part) { return IsQuantized(part.dtype); });
  return Load(parts, stored == parts.end() ? matrix_dtype_ : stored->dtype);
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
  std::shared_ptr<const Matrix> head = Load({&rows, 1}, MatrixDType(SpecOf(head_), matrix_dtype_));
  if (IsQuantized(matrix_dtype_) || backend_.looks_up_matrices()) loaded_head_ = head;
  return head;
}

std::shared_ptr<const Matrix> WeightLoader::LoadEmbedding(const std::string& name) {
  const bool quantised = IsQuantized(matrix_dtype_);
  if (name == head_ && (quantised || backend_.looks_up_matrices())) return LoadHead();
  if (!quantised) return LoadTable(HostRows(name));
  const HostMatrix rows = HostRows(name);
  return Load({&rows, 1}, MatrixDType(SpecOf(name), matrix_dtype_));
}

Buffer WeightLoader::LoadVector(std::span<const float> values) {
  Buffer buffer = backend_.LoadVector(values);
  bytes_ += buffer.bytes();
  return buffer;
}

}  // namespace t2r
