#include "engine/ops/cuda/device_matrix.h"

#include <algorithm>
#include <cassert>
#include <cstring>
#include <vector>

#include "engine/ops/cuda/fp8_kernels.h"
#include "engine/ops/cuda/int8_kernels.h"
#include "engine/ops/cuda/row_kernels.h"
#include "engine/ops/quantize.h"

namespace t2r::cuda {

MatrixLoader::MatrixLoader(cudaStream_t stream) : stream_(stream) {
  for (Piece& piece : pieces_) {
    piece.host = PinnedArray<std::byte>(kPieceBytes);
    piece.device = DeviceArray<std::byte>(kPieceBytes);
    Check(cudaEventCreateWithFlags(&piece.done, cudaEventDisableTiming), "cudaEventCreate");
  }
}

MatrixLoader::~MatrixLoader() {
  static_cast<void>(cudaStreamSynchronize(stream_));
  for (Piece& piece : pieces_) {
    if (piece.done != nullptr) static_cast<void>(cudaEventDestroy(piece.done));
  }
}

MatrixLoader::Piece& MatrixLoader::NextPiece() {
  Piece& piece = pieces_[next_];
  next_ = (next_ + 1) % pieces_.size();
  Check(cudaEventSynchronize(piece.done), "cudaEventSynchronize");
  return piece;
}

void MatrixLoader::LoadPart(const HostMatrix& part, std::byte* to, DType dtype, int64_t to_stride) {
  // Lines of the source: output features, or input features where it is transposed.
  const int64_t lines = part.transposed ? part.cols : part.rows;
  const int64_t length = part.transposed ? part.rows : part.cols;
  const auto item = static_cast<int64_t>(SizeOf(part.dtype));
  const auto to_item = static_cast<int64_t>(SizeOf(dtype));
  // A line longer than a piece goes in parts of `width`.
  const int64_t width = std::min(length, static_cast<int64_t>(kPieceBytes) / item);
  const int64_t height =
      width < length ? 1
                     : std::max<int64_t>(1, static_cast<int64_t>(kPieceBytes) / (length * item));
  for (int64_t line = 0; line < lines; line += height) {
    for (int64_t column = 0; column < length; column += width) {
      const int64_t some_lines = std::min(height, lines - line);
      const int64_t some_columns = std::min(width, length - column);
      const auto bytes = static_cast<size_t>(some_lines * some_columns * item);
      Piece& piece = NextPiece();
      std::memcpy(piece.host.data(),
                  static_cast<const std::byte*>(part.data) + (line * length + column) * item,
                  bytes);
      Check(cudaMemcpyAsync(piece.device.data(), piece.host.data(), bytes, cudaMemcpyHostToDevice,
                            stream_),
            "upload of weights");
      ConvertArgs convert;
      convert.from = piece.device.data();
      convert.from_dtype = part.dtype;
      convert.transposed = part.transposed;
      convert.rows = part.transposed ? some_columns : some_lines;
      convert.cols = part.transposed ? some_lines : some_columns;
      const int64_t row = part.transposed ? column : line;
      const int64_t col = part.transposed ? line : column;
      convert.to = to + (row * to_stride + col) * to_item;
      convert.to_dtype = dtype;
      convert.to_stride = to_stride;
      ConvertMatrix(stream_, convert);
      Check(cudaEventRecord(piece.done, stream_), "cudaEventRecord");
    }
  }
}

void MatrixLoader::QuantizePart(const HostMatrix& part, int64_t to_row,
                                const DeviceMatrix& matrix) {
  constexpr int64_t kFloats = int64_t{16} << 20;  // of the rows that lie there unquantised
  const int64_t height =
      part.transposed ? part.rows : std::clamp<int64_t>(kFloats / part.cols, 1, part.rows);
  const DeviceArray<float> floats(static_cast<size_t>(height * part.cols));
  std::vector<float> stored;
  for (int64_t first = 0; first < part.rows; first += height) {
    HostMatrix some = part;
    some.rows = std::min(height, part.rows - first);
    if (part.scales != nullptr) {
      // A file's groups have scales of their own: what they stand for is quantised again.
      stored.resize(static_cast<size_t>(some.rows * part.cols));
      for (int64_t row = 0; row < some.rows; ++row) {
        ReadStoredRow(part, first + row, stored.data() + row * part.cols);
      }
      some = {stored.data(), DType::kFloat32, some.rows, part.cols};
    } else {
      some.data = static_cast<const std::byte*>(part.data) +
                  first * part.cols * static_cast<int64_t>(SizeOf(part.dtype));
    }
    LoadPart(some, reinterpret_cast<std::byte*>(floats.data()), DType::kFloat32, part.cols);
    const int64_t row = to_row + first;
    std::byte* const codes = matrix.data() + row * matrix.stride();
    float* const scales = matrix.scales() + row;
    if (matrix.dtype() == DType::kFloat8) {
      EncodeRows(stream_, {floats.data(), DType::kFloat32, some.rows, part.cols, part.cols},
                 reinterpret_cast<uint8_t*>(codes), matrix.stride(), scales);
    } else {
      QuantizeChannels(stream_, floats.data(), some.rows, part.cols,
                       reinterpret_cast<int8_t*>(codes), matrix.stride(), scales);
    }
  }
  Check(cudaStreamSynchronize(stream_), "quantising of weights");  // `floats` goes
}

std::unique_ptr<DeviceMatrix> MatrixLoader::Load(std::span<const HostMatrix> parts, DType dtype) {
  int64_t rows = 0;
  for (const HostMatrix& part : parts) {
    assert(part.cols == parts[0].cols);
    rows += part.rows;
  }
  const int64_t cols = parts[0].cols;
  auto matrix = std::make_unique<DeviceMatrix>(rows, cols, dtype);
  std::byte* to = matrix->data();
  if (IsQuantized(dtype)) {
    // What fills the rows and columns up is multiplied too.
    Check(cudaMemsetAsync(to, 0, matrix->stored_rows() * matrix->stride(), stream_),
          "clearing of weights");
    int64_t row = 0;
    for (const HostMatrix& part : parts) {
      QuantizePart(part, row, *matrix);
      row += part.rows;
    }
    return matrix;
  }
  for (const HostMatrix& part : parts) {
    LoadPart(part, to, dtype, cols);
    to += part.rows * cols * static_cast<int64_t>(SizeOf(dtype));
  }
  return matrix;
}

std::unique_ptr<DeviceMatrix> MatrixLoader::LoadTable(const HostMatrix& table) {
  assert(!table.transposed);
  auto matrix = std::make_unique<DeviceMatrix>(table.rows, table.cols, table.dtype);
  for (size_t at = 0; at < matrix->bytes(); at += kPieceBytes) {
    const size_t bytes = std::min(kPieceBytes, matrix->bytes() - at);
    Piece& piece = NextPiece();
    std::memcpy(piece.host.data(), static_cast<const std::byte*>(table.data) + at, bytes);
    Check(cudaMemcpyAsync(matrix->data() + at, piece.host.data(), bytes, cudaMemcpyHostToDevice,
                          stream_),
          "upload of a table");
    Check(cudaEventRecord(piece.done, stream_), "cudaEventRecord");
  }
  return matrix;
}

}  // namespace t2r::cuda
