// Weights in device memory, and how they get there.
#pragma once

#include <cuda_runtime.h>

#include <array>
#include <cstddef>
#include <memory>
#include <span>

#include "engine/ops/cuda/device_memory.h"
#include "engine/ops/cuda/gemm.h"
#include "engine/ops/matmul.h"

namespace t2r::cuda {

// [rows, cols] row-major in its own dtype, without gaps; int8 and fp8 as int8_kernels.h and
// fp8_kernels.h say, in rows and columns up to multiples of kByteMultiple.
class DeviceMatrix : public Matrix {
 public:
  // Uninitialised. Throws DeviceError when the memory is not there.
  DeviceMatrix(int64_t rows, int64_t cols, DType dtype)
      : Matrix(rows, cols, dtype),
        data_(static_cast<size_t>(stored_rows()) * static_cast<size_t>(stride()) * SizeOf(dtype)),
        scales_(IsQuantized(dtype) ? DeviceArray<float>(static_cast<size_t>(rows))
                                   : DeviceArray<float>()) {}

  size_t bytes() const override { return data_.bytes() + scales_.bytes(); }
  std::byte* data() const { return data_.data(); }
  // Elements from row to row, and rows with those that only fill up.
  int64_t stride() const { return Stored(cols()); }
  int64_t stored_rows() const { return Stored(rows()); }
  // Of int8 and fp8 [rows]; else null.
  float* scales() const { return scales_.data(); }

 private:
  int64_t Stored(int64_t count) const {
    if (!IsQuantized(dtype())) return count;
    return (count + kByteMultiple - 1) / kByteMultiple * kByteMultiple;
  }

  DeviceArray<std::byte> data_;
  DeviceArray<float> scales_;
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
  // Quantises the part's rows into those of `matrix` from `to_row` on.
  void QuantizePart(const HostMatrix& part, int64_t to_row, const DeviceMatrix& matrix);

  cudaStream_t stream_;
  std::array<Piece, 2> pieces_;
  size_t next_ = 0;
};

}  // namespace t2r::cuda
