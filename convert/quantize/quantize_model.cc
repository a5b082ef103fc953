#include "convert/quantize/quantize_model.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <filesystem>
#include <map>
#include <memory>
#include <thread>
#include <vector>

#include "convert/data/staged_directory.h"
#include "convert/error.h"
#include "convert/quantize/compensation.h"
#include "convert/quantize/watched_model.h"
#include "convert/quantize/wider_matrices.h"
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

// Predictions that a matrix's cost is measured by: one run of the text's so many a matrix.
constexpr int64_t kCostPredictions = 1024;

// A tensor of the source, and what becomes of it.
struct Piece {
  const TensorSpec* spec = nullptr;
  const HostTensor* tensor = nullptr;
  DType dtype = DType::kInt8;  // of a matrix, in the new files
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
using PiecesByName = std::map<std::string, Piece*>;

// Every projection that the engine takes as the files have it, as each of `dtypes`.
std::map<DType, Compensated> QuantizeFor(WatchedModel* model, const PiecesByName& pieces,
                                         const std::vector<DType>& dtypes,
                                         const Progress& progress) {
  std::map<DType, Compensated> quantized;
  ThreadPool pool(static_cast<int>(std::max(1U, std::thread::hardware_concurrency())));
  constexpr int64_t kMomentBytes = int64_t{1} << 30;
  size_t done = 0;
  progress(0, "second moments");
  model->MeasureSecondMoments(
      kMomentBytes, [&](const LoadedMatrix& loaded, const SecondMoments& h) {
        const Compensation compensation(h);
        for (const std::string& name : loaded.names) {
          progress(static_cast<double>(done) / static_cast<double>(model->matrices().size()), name);
          const Piece& piece = *pieces.at(name);
          const std::vector<float> rows = RowsOf(piece);
          for (const DType dtype : dtypes) {
            quantized[dtype][name] =
                Stored(compensation.Quantize(rows, dtype, &pool), piece.cols(), dtype);
          }
        }
        ++done;
      });
  return quantized;
}

// The parts of a loaded matrix as the files will hold them.
std::vector<HostMatrix> HostParts(const LoadedMatrix& loaded, const PiecesByName& pieces,
                                  const Compensated& quantized, DType dtype) {
  std::vector<HostMatrix> parts;
  for (const std::string& name : loaded.names) {
    const Piece& piece = *pieces.at(name);
    const Quantized& stored = quantized.at(name);
    parts.push_back(
        {stored.codes.data(), dtype, piece.rows(), piece.cols(), false, stored.scales.data()});
  }
  return parts;
}

// All projections in int4, and how much more `bits` a weight of them are.
struct Room {
  int64_t weights = 0;
  int64_t bytes = 0;
  int64_t more = 0;
};

// Throws ConvertError where they take more than `bits`.
Room RoomOf(const PiecesByName& pieces, double bits) {
  Room room;
  for (const auto& [name, piece] : pieces) {
    room.weights += piece->rows() * piece->cols();
    room.bytes += MatrixBytes(piece->rows(), piece->cols(), DType::kInt4);
  }
  room.more = static_cast<int64_t>(bits / 8 * static_cast<double>(room.weights)) - room.bytes;
  if (room.more < 0) {
    char text[100];
    std::snprintf(text, sizeof(text), "%g bits a weight: the projections take %.2f in int4", bits,
                  8 * static_cast<double>(room.bytes) / static_cast<double>(room.weights));
    throw ConvertError(text);
  }
  return room;
}

// Measures what every loaded matrix costs in int4 and makes int8 those that there is room for.
void Widen(WatchedModel* model, const PiecesByName& pieces,
           const std::map<DType, Compensated>& quantized, const Room& room,
           const Progress& progress, QuantizeSummary* summary) {
  std::vector<LoadedMatrix> choice;
  for (const LoadedMatrix& loaded : model->matrices()) {
    if (loaded.whole) choice.push_back(loaded);
  }
  const auto replace = [&](const LoadedMatrix& loaded, DType dtype) {
    model->Replace(loaded.matrix, HostParts(loaded, pieces, quantized.at(dtype), dtype));
  };
  model->RememberPredictions(kCostPredictions);
  std::vector<WideningCost> costs;
  for (const LoadedMatrix& loaded : choice) {
    progress(static_cast<double>(costs.size()) / static_cast<double>(choice.size()),
             "cost of " + loaded.names[0] + " in int4");
    const int64_t rows = loaded.matrix->rows();
    const int64_t cols = loaded.matrix->cols();
    replace(loaded, DType::kInt4);
    costs.push_back({model->Divergence(), MatrixBytes(rows, cols, DType::kInt8) -
                                              MatrixBytes(rows, cols, DType::kInt4)});
    model->Replace(loaded.matrix, {});
  }
  for (const LoadedMatrix& loaded : choice) replace(loaded, DType::kInt4);
  summary->divergence_narrow = model->Divergence();
  for (size_t i = 0; i < choice.size(); ++i) {
    summary->widened.push_back({choice[i].names, costs[i].divergence, false});
  }
  int64_t bytes = room.bytes;
  for (const size_t i : ChooseWider(costs, room.more)) {
    summary->widened[i].wide = true;
    bytes += costs[i].bytes;
    for (const std::string& name : choice[i].names) pieces.at(name)->dtype = DType::kInt8;
    replace(choice[i], DType::kInt8);
  }
  summary->divergence = model->Divergence();
  summary->bits = 8 * static_cast<double>(bytes) / static_cast<double>(room.weights);
  std::stable_sort(
      summary->widened.begin(), summary->widened.end(),
      [](const WidenedMatrix& a, const WidenedMatrix& b) { return a.divergence > b.divergence; });
}

// Projections quantised for a text, as their pieces say, which may become int8 in place of int4.
Compensated Calibrate(const QuantizeOptions& options, const ModelConfig& config,
                      const SafetensorsDirectory& files, std::vector<Piece>* pieces,
                      const Progress& progress, QuantizeSummary* summary) {
  if (options.calibration->pairs() || config.encoder_decoder.has_value()) {
    throw ConvertError("an encoder-decoder's matrices are not calibrated");
  }
  PiecesByName by_name;
  for (Piece& piece : *pieces) {
    if (piece.spec->role == TensorRole::kProjection) by_name[piece.spec->name] = &piece;
  }
  std::vector<DType> dtypes = {options.weights};
  Room room;
  if (options.bits > 0) {
    room = RoomOf(by_name, options.bits);
    dtypes.push_back(DType::kInt8);
  }
  WatchedModel model(config, files, *options.calibration);
  std::map<DType, Compensated> quantized = QuantizeFor(&model, by_name, dtypes, progress);
  if (options.bits > 0) Widen(&model, by_name, quantized, room, progress, summary);
  Compensated compensated;
  for (auto& [name, stored] : quantized[options.weights]) {
    compensated[name] = std::move(quantized[by_name.at(name)->dtype][name]);
  }
  return compensated;
}

std::vector<Piece> Pieces(const std::vector<TensorSpec>& specs, const SafetensorsDirectory& files,
                          DType weights) {
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
    pieces.push_back({&spec, tensor, MatrixDType(spec, weights)});
  }
  return pieces;
}

void WriteTensors(const std::string& path, const std::vector<Piece>& pieces,
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
    if (piece->dtype == DType::kInt4) shape.push_back(2);
    specs.push_back({ScalesOf(piece->spec->name), DType::kBFloat16, shape});
  }
  for (const Piece* piece : matrices) {
    const bool int4 = piece->dtype == DType::kInt4;
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
      const Quantized quantized =
          found != compensated.end() ? found->second : Quantize(*piece, piece->dtype);
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

QuantizeSummary QuantizeModel(const std::string& from, const std::string& to,
                              const QuantizeOptions& options, const Progress& progress) {
  if (options.bits > 0 && (options.weights != DType::kInt4 || options.calibration == nullptr)) {
    throw ConvertError("bits choose between int4 and int8 by a text: they need int4 and a text");
  }
  CheckOutputDirectory(to);
  const ModelConfig config = Unwrap(LoadModelConfig(from));
  const std::unique_ptr<SafetensorsDirectory> files = Unwrap(SafetensorsDirectory::Open(from));
  const std::vector<TensorSpec> specs = TensorsOf(config);
  QuantizeSummary summary;
  try {
    std::vector<Piece> pieces = Pieces(specs, *files, options.weights);
    StagedDirectory staged(to);
    const std::filesystem::path staging = staged.path();
    for (const auto& entry : std::filesystem::directory_iterator(from)) {
      const std::string name = entry.path().filename().string();
      if (!entry.is_regular_file() || name.find(".safetensors") != std::string::npos) continue;
      std::filesystem::copy_file(entry.path(), staging / name);
    }
    Compensated compensated;
    if (options.calibration != nullptr) {
      compensated = Calibrate(options, config, *files, &pieces, progress, &summary);
      summary.calibrated = static_cast<int64_t>(compensated.size());
    }
    WriteTensors((staging / "model.safetensors").string(), pieces, compensated, progress, &summary);
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
