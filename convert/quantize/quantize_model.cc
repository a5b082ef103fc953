#include "convert/quantize/quantize_model.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <filesystem>
#include <memory>
#include <vector>

#include "convert/data/staged_directory.h"
#include "convert/error.h"
#include "convert/status.h"
#include "engine/checkpoint/safetensors.h"
#include "engine/checkpoint/safetensors_writer.h"
#include "engine/engine.h"
#include "engine/model/tensors.h"
#include "engine/model/weight_loader.h"
#include "engine/ops/quantize.h"

namespace t2r::convert {
namespace {

// A tensor of the source, and what becomes of it.
struct Piece {
  const TensorSpec* spec = nullptr;
  const HostTensor* tensor = nullptr;
  int64_t rows() const { return spec->shape[spec->transposed ? 1 : 0]; }
  int64_t cols() const { return spec->shape[spec->transposed ? 0 : 1]; }
};

// A matrix's codes, and its scales with int4's minimums, in the order of the file.
struct Quantized {
  std::vector<uint8_t> codes;
  std::vector<uint16_t> scales;
};

Quantized Quantize(const Piece& piece, DType dtype) {
  const std::vector<float> values = ToFloats(*piece.tensor);
  const int64_t rows = piece.rows();
  const int64_t cols = piece.cols();
  Quantized out;
  std::vector<float> row(static_cast<size_t>(cols));
  for (int64_t n = 0; n < rows; ++n) {
    for (int64_t k = 0; k < cols; ++k) {
      const float value =
          values[static_cast<size_t>(piece.spec->transposed ? k * rows + n : n * cols + k)];
      if (!std::isfinite(value)) {
        throw ConvertError("tensor " + piece.spec->name + " is damaged: it has a NaN or infinity");
      }
      row[static_cast<size_t>(k)] = value;
    }
    for (int64_t first = 0; first < cols; first += kQuantGroup) {
      const int64_t count = std::min(kQuantGroup, cols - first);
      const QuantizedGroup group = QuantizeGroup(row.data() + first, count, dtype);
      out.scales.push_back(group.scale);
      if (dtype == DType::kInt8) {
        for (int64_t i = 0; i < count; ++i) {
          out.codes.push_back(
              static_cast<uint8_t>(group.codes[static_cast<size_t>(i)] ^ kInt8Offset));
        }
        continue;
      }
      out.scales.push_back(group.minimum);
      constexpr size_t kHalf = kQuantGroup / 2;
      for (size_t i = 0; i < kHalf; ++i) {
        out.codes.push_back(static_cast<uint8_t>(group.codes[i] | group.codes[i + kHalf] << 4U));
      }
    }
  }
  return out;
}

std::vector<Piece> Pieces(const std::vector<TensorSpec>& specs, const SafetensorsDirectory& files) {
  std::vector<Piece> pieces;
  for (const TensorSpec& spec : specs) {
    const HostTensor* tensor = FindTensor(files, spec);
    if (tensor == nullptr && spec.optional) continue;
    if (tensor == nullptr) {
      throw ConvertError("tensor " + spec.name + " is missing" +
                         (files.Find(CodesOf(spec.name)) != nullptr ? ": it is quantised" : ""));
    }
    if (tensor->shape != spec.shape || IsQuantized(tensor->dtype)) {
      throw ConvertError("tensor " + spec.name + " has not the shape that config.json gives it");
    }
    pieces.push_back({&spec, tensor});
  }
  return pieces;
}

void WriteTensors(const std::string& path, const std::vector<Piece>& pieces, DType weights,
                  const std::function<void(double, const std::string&)>& progress,
                  QuantizeSummary* summary) {
  // Wider elements first: what stays as it is, scales, codes. Scales and codes are made one after
  // the other, so every matrix is quantised twice and none is kept.
  std::vector<SafetensorsSpec> specs;
  std::vector<const Piece*> kept;
  std::vector<const Piece*> matrices;
  for (const Piece& piece : pieces)
    (IsQuantizable(*piece.spec) ? matrices : kept).push_back(&piece);
  std::stable_sort(kept.begin(), kept.end(), [](const Piece* a, const Piece* b) {
    return SizeOf(a->tensor->dtype) > SizeOf(b->tensor->dtype);
  });
  for (const Piece* piece : kept) {
    specs.push_back({piece->spec->name, piece->tensor->dtype, piece->tensor->shape});
  }
  for (const Piece* piece : matrices) {
    std::vector<int64_t> shape = {piece->rows(), QuantGroups(piece->cols())};
    if (MatrixDType(*piece->spec, weights) == DType::kInt4) shape.push_back(2);
    specs.push_back({ScalesOf(piece->spec->name), DType::kBFloat16, shape});
  }
  for (const Piece* piece : matrices) {
    const bool int4 = MatrixDType(*piece->spec, weights) == DType::kInt4;
    specs.push_back(
        {CodesOf(piece->spec->name),
         DType::kInt8,
         {piece->rows(), int4 ? QuantGroups(piece->cols()) * kQuantGroup / 2 : piece->cols()}});
  }
  const std::unique_ptr<SafetensorsWriter> writer = Unwrap(SafetensorsWriter::Create(path, specs));
  for (const Piece* piece : kept) {
    ThrowIfError(writer->Write(piece->tensor->data, static_cast<size_t>(piece->tensor->elements()) *
                                                        SizeOf(piece->tensor->dtype)));
  }
  size_t done = 0;
  for (const bool codes : {false, true}) {
    for (const Piece* piece : matrices) {
      progress(static_cast<double>(done++) / static_cast<double>(2 * matrices.size()),
               piece->spec->name);
      const Quantized quantized = Quantize(*piece, MatrixDType(*piece->spec, weights));
      ThrowIfError(codes ? writer->Write(quantized.codes.data(), quantized.codes.size())
                         : writer->Write(quantized.scales.data(), quantized.scales.size() * 2));
      if (!codes) continue;
      summary->matrices += 1;
      summary->bytes_before +=
          piece->tensor->elements() * static_cast<int64_t>(SizeOf(piece->tensor->dtype));
      summary->bytes_after +=
          static_cast<int64_t>(quantized.codes.size() + quantized.scales.size() * 2);
    }
  }
  ThrowIfError(writer->Finish());
}

}  // namespace

QuantizeSummary QuantizeModel(const std::string& from, const std::string& to, DType weights,
                              const std::function<void(double, const std::string&)>& progress) {
  CheckOutputDirectory(to);
  const ModelConfig config = Unwrap(LoadModelConfig(from));
  const std::unique_ptr<SafetensorsDirectory> files = Unwrap(SafetensorsDirectory::Open(from));
  const std::vector<TensorSpec> specs = TensorsOf(config);
  QuantizeSummary summary;
  try {
    const std::vector<Piece> pieces = Pieces(specs, *files);
    StagedDirectory staged(to);
    const std::filesystem::path staging = staged.path();
    for (const auto& entry : std::filesystem::directory_iterator(from)) {
      const std::string name = entry.path().filename().string();
      if (!entry.is_regular_file() || name.find(".safetensors") != std::string::npos) continue;
      std::filesystem::copy_file(entry.path(), staging / name);
    }
    WriteTensors((staging / "model.safetensors").string(), pieces, weights, progress, &summary);
    staged.Commit();
  } catch (const ModelError& error) {
    throw ConvertError(from + ": " + error.what());
  } catch (const ConvertError& error) {
    throw ConvertError(from + ": " + error.what());
  }
  return summary;
}

}  // namespace t2r::convert
