// Weights in device memory, and how they get there.
#pragma once

#include <cuda_runtime.h>

#include <array>
#include <cstddef>
#include <memory>
#include <span>

#include "engine/ops/cuda/device_memory.h"
#include "engine/ops/matmul.h"

namespace t2r::cuda {

// [rows, cols] row-major without gaps, in its own dtype.
class DeviceMatrix : public Matrix {
 public:
  // Uninitialised. Throws DeviceError when the memory is not there.
  DeviceMatrix(int64_t rows, int64_t cols, DType dtype)
      : Matrix(rows, cols, dtype),
        data_(static_cast<size_t>(rows) * static_cast<size_t>(cols) * SizeOf(dtype)) {}

  size_t bytes() const override { return data_.bytes(); }
  std::byte* data() const { return data_.data(); }

 private:
  DeviceArray<std::byte> data_;
};

// Copies host matrices to the device through two page-locked pieces of fixed size, and converts
// them there. Owns the pieces; give it up when all is loaded.
class MatrixLoader {
 public:
  explicit MatrixLoader(cudaStream_t stream);
  ~MatrixLoader();
  MatrixLoader(const MatrixLoader&) = delete;
  MatrixLoader& operator=(const MatrixLoader&) = delete;

  // As Backend::LoadMatrix.
  std::unique_ptr<DeviceMatrix> Load(std::span<const HostMatrix> parts, DType dtype);
  // Kept in its own dtype, as Backend::LoadTable.
  std::unique_ptr<DeviceMatrix> LoadTable(const HostMatrix& table);

 private:
  static constexpr size_t kPieceBytes = size_t{8} << 20;
  struct Piece {
    PinnedArray<std::byte> host;
    DeviceArray<std::byte> device;
    cudaEvent_t done = nullptr;
  };

  // The next piece, once its earlier use is over.
  Piece& NextPiece();
  void LoadPart(const HostMatrix& part, std::byte* to, DType dtype, int64_t to_stride);

  cudaStream_t stream_;
  std::array<Piece, 2> pieces_;
  size_t next_ = 0;
};

}  // namespace t2r::cuda
