#include "convert/quantize/quantize_model.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <filesystem>
#include <map>
#include <memory>
#include <thread>
#include <vector>

#include "convert/data/staged_directory.h"
#include "convert/error.h"
#include "convert/quantize/compensation.h"
#include "convert/quantize/second_moments.h"
#include "convert/status.h"
#include "engine/checkpoint/safetensors.h"
#include "engine/checkpoint/safetensors_writer.h"
#include "engine/engine.h"
#include "engine/model/tensors.h"
#include "engine/model/weight_loader.h"
#include "engine/ops/cpu/quantize_group.h"
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

// A matrix [N, K], whichever way it is stored. Throws ConvertError where it is not finite.
std::vector<float> RowsOf(const Piece& piece) {
  std::vector<float> values = ToFloats(*piece.tensor);
  for (const float value : values) {
    if (!std::isfinite(value)) {
      throw ConvertError("tensor " + piece.spec->name + " is damaged: it has a NaN or infinity");
    }
  }
  if (!piece.spec->transposed) return values;
  const int64_t rows = piece.rows();
  const int64_t cols = piece.cols();
  std::vector<float> turned(values.size());
  for (int64_t k = 0; k < cols; ++k) {
    for (int64_t n = 0; n < rows; ++n) turned[n * cols + k] = values[k * rows + n];
  }
  return turned;
}

// groups: [N, G].
Quantized Stored(const std::vector<QuantizedGroup>& groups, int64_t cols, DType dtype) {
  Quantized out;
  for (size_t g = 0; g < groups.size(); ++g) {
    const QuantizedGroup& group = groups[g];
    out.scales.push_back(group.scale);
    if (dtype == DType::kInt8) {
      const int64_t first = static_cast<int64_t>(g) % QuantGroups(cols) * kQuantGroup;
      const int64_t count = std::min(kQuantGroup, cols - first);
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
  return out;
}

Quantized Quantize(const Piece& piece, DType dtype) {
  const std::vector<float> values = RowsOf(piece);
  const int64_t cols = piece.cols();
  std::vector<QuantizedGroup> groups;
  for (int64_t n = 0; n < piece.rows(); ++n) {
    for (int64_t first = 0; first < cols; first += kQuantGroup) {
      groups.push_back(QuantizeGroup(values.data() + n * cols + first,
                                     std::min(kQuantGroup, cols - first), dtype));
    }
  }
  return Stored(groups, cols, dtype);
}

using Progress = std::function<void(double, const std::string&)>;
// Matrices that were quantised for the inputs of a text, by their names.
using Compensated = std::map<std::string, Quantized>;

Compensated QuantizeFor(const Corpus& corpus, const ModelConfig& config,
                        const SafetensorsDirectory& files, const std::vector<Piece>& pieces,
                        DType weights, const Progress& progress) {
  if (corpus.pairs() || config.encoder_decoder.has_value()) {
    throw ConvertError("an encoder-decoder's matrices are not calibrated");
  }
  std::map<std::string, const Piece*> by_name;
  for (const Piece& piece : pieces) by_name[piece.spec->name] = &piece;
  Compensated quantized;
  ThreadPool pool(static_cast<int>(std::max(1U, std::thread::hardware_concurrency())));
  constexpr int64_t kMomentBytes = int64_t{1} << 30;
  MeasureSecondMoments(
      config, files, corpus, kMomentBytes, [&](const std::string& name, const SecondMoments& h) {
        progress(static_cast<double>(quantized.size()) / static_cast<double>(pieces.size()), name);
        const Piece& piece = *by_name.at(name);
        const DType dtype = MatrixDType(*piece.spec, weights);
        const auto groups = Compensation(h).Quantize(RowsOf(piece), dtype, &pool);
        quantized[name] = Stored(groups, piece.cols(), dtype);
      });
  return quantized;
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
                  const Compensated& compensated, const Progress& progress,
                  QuantizeSummary* summary) {
  // Wider elements first: what stays as it is, scales, codes. Scales and codes are made one after
  // the other, so every matrix that is not there yet is quantised twice and none is kept.
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
      const auto found = compensated.find(piece->spec->name);
      const Quantized quantized = found != compensated.end()
                                      ? found->second
                                      : Quantize(*piece, MatrixDType(*piece->spec, weights));
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
                              const Corpus* calibration, const Progress& progress) {
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
    Compensated compensated;
    if (calibration != nullptr) {
      compensated = QuantizeFor(*calibration, config, *files, pieces, weights, progress);
      summary.calibrated = static_cast<int64_t>(compensated.size());
    }
    WriteTensors((staging / "model.safetensors").string(), pieces, weights, compensated, progress,
                 &summary);
    staged.Commit();
  } catch (const ModelError& error) {
    throw ConvertError(from + ": " + error.what());
  } catch (const DeviceError& error) {
    throw ConvertError(from + ": " + error.what());
  } catch (const ConvertError& error) {
    throw ConvertError(from + ": " + error.what());
  }
  return summary;
}

}  // namespace t2r::convert
