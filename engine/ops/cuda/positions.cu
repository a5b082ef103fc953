// What tokens and their positions become: embeddings and rotations.
#include "engine/ops/cuda/row_access.h"
#include "engine/ops/cuda/row_kernels.h"

namespace t2r::cuda {
namespace {

__device__ __forceinline__ float Element(const TableView& table, int64_t row, int64_t column) {
  const int64_t index = row * table.stride + column;
  switch (table.dtype) {
    case DType::kFloat32:
      return static_cast<const float*>(table.data)[index];
    case DType::kBFloat16:
      return ToFloat(static_cast<const BFloat16*>(table.data)[index]);
    case DType::kInt8:
      return table.scales[row] * static_cast<float>(static_cast<const int8_t*>(table.data)[index]);
    case DType::kFloat8:
      return table.scales[row] * ToFloat(static_cast<const Float8*>(table.data)[index]);
    default:
      return ToFloat(static_cast<const Float16*>(table.data)[index]);
  }
}

// Bytes a row: cols · (table's + positions' + out's element). Operations: two a column.
template <typename Out>
__global__ void __launch_bounds__(kElementThreads)
    EmbedKernel(const int32_t* tokens, TableView table, const int64_t* token_positions,
                TableView positions, float scale, int64_t cols, RowsOf<Out> out) {
  const int64_t row = blockIdx.x;
  const int64_t c = ElementColumn();
  if (c >= cols) return;
  float v[kColumns] = {};
  for (int i = 0; i < kColumns; ++i) {
    if (c + i >= cols) break;
    v[i] = scale * Element(table, tokens[row], c + i);
    if (positions.data != nullptr) v[i] += Element(positions, token_positions[row], c + i);
  }
  out.Store(row, c, cols, v);
}

constexpr int kPairThreads = 64;

// A thread a frequency. Bytes a row: 8 for each; operations: a float64 sine and cosine, some 100.
__global__ void __launch_bounds__(kPairThreads)
    RopeTableKernel(const int64_t* positions, const double* frequencies, double factor, int64_t n,
                    RowsOf<float> cos_sin) {
  const int64_t i = int64_t{blockIdx.y} * kPairThreads + threadIdx.x;
  if (i >= n) return;
  const double angle = static_cast<double>(positions[blockIdx.x]) * frequencies[i];
  float* row = cos_sin.data + int64_t{blockIdx.x} * cos_sin.stride;
  row[i] = static_cast<float>(cos(angle) * (frequencies[i] == 0 ? 1.0 : factor));
  row[n + i] = static_cast<float>(sin(angle) * factor);
}

// A thread a pair (i, i + n) of a head. Bytes a row: heads · 2n · 2 elements and the table's row,
// once from memory. Operations: 6 a pair.
template <typename T>
__global__ void __launch_bounds__(kElementThreads)
    RopeKernel(RowsOf<float> cos_sin, int n, int heads, int head_dim, RowsOf<T> x) {
  const int index = static_cast<int>(blockIdx.y * kElementThreads + threadIdx.x);
  if (index >= heads * n) return;
  const int64_t row = blockIdx.x;
  const int i = index % n;
  const float* turn = cos_sin.data + row * cos_sin.stride;
  T* head = x.data + row * x.stride + int64_t{index / n} * head_dim;
  const float a = ToFloat(head[i]);
  const float b = ToFloat(head[n + i]);
  head[i] = FromFloat<T>(a * turn[i] - b * turn[n + i]);
  head[n + i] = FromFloat<T>(b * turn[i] + a * turn[n + i]);
}

unsigned BlocksOf(int64_t count, int64_t threads) {
  return static_cast<unsigned>((count + threads - 1) / threads);
}

}  // namespace

void Embed(cudaStream_t stream, const int32_t* tokens, TableView table,
           const int64_t* token_positions, TableView positions, float scale, Tensor out) {
  ForDType(out.dtype, [&](auto type) {
    using T = decltype(type);
    Launch(ElementShape("embed", out.rows, out.cols, stream), EmbedKernel<T>, tokens, table,
           token_positions, positions, scale, out.cols, RowsOf<T>(out));
  });
}

void RopeTable(cudaStream_t stream, const int64_t* positions, const double* frequencies,
               double factor, Tensor cos_sin) {
  const int64_t n = cos_sin.cols / 2;
  Launch({"rope_table", dim3(static_cast<unsigned>(cos_sin.rows), BlocksOf(n, kPairThreads)),
          dim3(kPairThreads), 0, stream},
         RopeTableKernel, positions, frequencies, factor, n, RowsOf<float>(cos_sin));
}

void Rope(cudaStream_t stream, Tensor cos_sin, int heads, int head_dim, Tensor x) {
  const int n = static_cast<int>(cos_sin.cols) / 2;
  const dim3 grid(static_cast<unsigned>(x.rows), BlocksOf(int64_t{heads} * n, kElementThreads));
  ForDType(x.dtype, [&](auto type) {
    using T = decltype(type);
    Launch({"rope", grid, dim3(kElementThreads), 0, stream}, RopeKernel<T>, RowsOf<float>(cos_sin),
           n, heads, head_dim, RowsOf<T>(x));
  });
}

}  // namespace t2r::cuda
