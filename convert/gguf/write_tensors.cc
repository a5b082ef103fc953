#include "convert/gguf/write_tensors.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <vector>

#include "convert/error.h"
#include "convert/status.h"
#include "engine/checkpoint/safetensors_writer.h"

namespace t2r::convert {
namespace {

// Values dequantised at once: a multiple of every block.
constexpr int64_t kPiece = 1 << 16;
// Bytes collected before they are written.
constexpr size_t kBufferBytes = size_t{4} << 20;

// Row `row` of HF's order lies in this row of the file: see PlannedTensor::interleaved_heads.
int64_t RowInFile(int64_t row, int64_t head_dim) {
  const int64_t within = row % head_dim;
  const int64_t half = head_dim / 2;
  return row - within + within % half * 2 + within / half;
}

// Converts and collects the values of one tensor after another.
class Output {
 public:
  Output(const std::string& path, const ModelPlan& plan, DType dtype) : dtype_(dtype) {
    std::vector<SafetensorsSpec> specs;
    specs.reserve(plan.tensors.size());
    for (const PlannedTensor& tensor : plan.tensors) {
      specs.push_back({tensor.name, dtype, tensor.shape});
    }
    writer_ = Unwrap(SafetensorsWriter::Create(path, specs));
    buffer_.reserve(kBufferBytes);
  }

  void Append(const PlannedTensor& tensor, const float* values, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
      bool fits = std::isfinite(values[i]);
      if (dtype_ == DType::kFloat32) {
        Put(std::bit_cast<uint32_t>(values[i]), 4);
      } else if (dtype_ == DType::kBFloat16) {
        const uint16_t bits = FloatToBFloat16(values[i]);
        fits = fits && std::isfinite(BFloat16ToFloat(bits));
        Put(bits, 2);
      } else {
        const uint16_t bits = FloatToFloat16(values[i]);
        fits = fits && std::isfinite(Float16ToFloat(bits));
        Put(bits, 2);
      }
      if (!fits) {
        throw ConvertError("tensor " + tensor.name + " holds " + std::to_string(values[i]) +
                           ", which " + NameOf(dtype_) + " cannot hold as a finite number");
      }
    }
    if (buffer_.size() >= kBufferBytes) Flush();
  }
  void Finish() {
    Flush();
    ThrowIfError(writer_->Finish());
  }

 private:
  // Little-endian, as safetensors has them.
  void Put(uint32_t bits, int bytes) {
    for (int i = 0; i < bytes; ++i) buffer_.push_back(static_cast<char>(bits >> (8 * i)));
  }
  void Flush() {
    ThrowIfError(writer_->Write(buffer_.data(), buffer_.size()));
    buffer_.clear();
  }

  DType dtype_;
  std::unique_ptr<SafetensorsWriter> writer_;
  std::vector<char> buffer_;
};

// `count` values from the `first` on, which begins a block.
void Dequantize(const GgufTensor& tensor, int64_t first, int64_t count,
                std::vector<float>* values) {
  const GgufTensorType& type = *tensor.type;
  const auto* const blocks = reinterpret_cast<const uint8_t*>(tensor.data.data());
  values->resize(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; i += type.block_values) {
    type.dequantize(blocks + (first + i) / type.block_values * type.block_bytes,
                    values->data() + i);
  }
}

void WriteTensor(const PlannedTensor& tensor, Output* output) {
  int64_t total = 1;
  for (const int64_t size : tensor.shape) total *= size;
  // Rows are moved where their order is llama.cpp's; otherwise all of it is one.
  const int64_t rows = tensor.interleaved_heads > 0 ? tensor.shape[0] : 1;
  const int64_t row_values = total / rows;
  std::vector<float> values;
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t from =
        tensor.interleaved_heads > 0 ? RowInFile(row, rows / tensor.interleaved_heads) : row;
    for (int64_t done = 0; done < row_values; done += kPiece) {
      const int64_t count = std::min(kPiece, row_values - done);
      Dequantize(*tensor.source, from * row_values + done, count, &values);
      output->Append(tensor, values.data(), count);
    }
  }
}

}  // namespace

uint16_t FloatToFloat16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint16_t>(bits >> 16 & 0x8000U);
  const uint32_t magnitude = bits & 0x7fffffffU;
  if (magnitude > 0x7f800000U) return sign | 0x7e00U;  // NaN
  // From 65520 on, half way to the next power of two, everything rounds to infinity.
  if (magnitude >= 0x477ff000U) return sign | 0x7c00U;
  if (magnitude < 0x38800000U) {
    // Below 2^-14 a half counts in units of 2^-24, and so does a float32 to which 0.5 was added.
    const float shifted = std::bit_cast<float>(magnitude) + 0.5F;
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) - 0x3f000000U));
  }
  // 13 bits fewer, and an exponent biased by 15, not 127; a carry goes into the exponent rightly.
  const uint32_t rounded = magnitude + 0xfffU + (magnitude >> 13 & 1U);
  return static_cast<uint16_t>(sign | ((rounded >> 13) - (112U << 10)));
}

void WritePlannedTensors(const std::string& path, const ModelPlan& plan, DType dtype,
                         const std::function<void(double, const std::string&)>& progress) {
  double total = 0;
  double written = 0;
  const auto values_of = [](const PlannedTensor& tensor) {
    double values = 1;
    for (const int64_t size : tensor.shape) values *= static_cast<double>(size);
    return values;
  };
  for (const PlannedTensor& tensor : plan.tensors) total += values_of(tensor);
  Output output(path, plan, dtype);
  for (const PlannedTensor& tensor : plan.tensors) {
    progress(written / total, tensor.name);
    WriteTensor(tensor, &output);
    written += values_of(tensor);
  }
  output.Finish();
}

}  // namespace t2r::convert
