// t2r-bench-ops: what the ops reach of this machine's arithmetic and memory. Prints one table.
//
//   t2r-bench-ops [--threads N] [--seconds S] [--cpu-time] [--activations bfloat16|int8]
//                 [--only products|attention|rows]
//
// Every line is the best of as many runs as fit into S seconds (default 0.3), because other
// processes only ever slow a run down. Matrices, states, windows and pages lie in memory, not in
// cache, as a model's do: runs go round copies of four times a 32 MiB cache.
//
// --activations, as the server's: only the products that it changes.
//
// --cpu-time counts the calling thread's processor time instead of the clock's. With --threads 1 it
// tells what a core reaches on a machine that others use too.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "bench/ops/attention.h"
#include "bench/ops/harness.h"
#include "engine/ops/quantize.h"

namespace t2r {
namespace {

class Bench {
 public:
  explicit Bench(bench::Harness& harness) : harness_(harness), backend_(harness.backend()) {}

  void Products() {
    const RowRounding rounding = harness_.options().rows;
    std::vector<DType> dtypes = {DType::kFloat32, DType::kBFloat16, DType::kInt8, DType::kInt4};
    if (rounding == RowRounding::kBFloat16) dtypes = {DType::kBFloat16};
    if (rounding == RowRounding::kInt8) dtypes = {DType::kInt8, DType::kInt4};
    for (const DType dtype : dtypes) {
      for (const int64_t rows : {1, 8, 32, 64, 512}) {
        MatMuls(dtype, rows);
      }
    }
    if (rounding != RowRounding::kNone) return;
    SmallMatMul(1);
    SmallMatMul(64);
  }

  void Elementwise() {
    const Tensor gate_up = harness_.MakeTensor(64, 3072);
    const Tensor out = harness_.MakeTensor(64, 1536);
    const double swiglu = harness_.Best([&](int) { backend_.SwiGlu(gate_up, out); });
    harness_.Print("swiglu 64 x 1536", swiglu, 0, 64.0 * 1536 * 12);
    const Tensor x = harness_.MakeTensor(64, 576);
    const Tensor weight = harness_.MakeTensor(1, 576);
    const Tensor y = harness_.MakeTensor(64, 576);
    const double norm = harness_.Best([&](int) { backend_.RmsNorm(x, weight.f32(), 1e-5F, y); });
    harness_.Print("rms_norm 64 x 576", norm, 0, 64.0 * 576 * 8);
    harness_.Clear();
  }

 private:
  std::unique_ptr<Matrix> MakeMatrix(int64_t n, int64_t k, DType dtype) {
    std::vector<float> values(n * k);
    for (size_t i = 0; i < values.size(); ++i) {
      values[i] = static_cast<float>(i * 2654435761U % 1000) * 1e-3F - 0.5F;
    }
    const HostMatrix host = {values.data(), DType::kFloat32, n, k, false};
    return backend_.LoadMatrix({&host, 1}, dtype);
  }

  // The matrices of SmolLM2-135M's layer and head.
  void MatMuls(DType dtype, int64_t rows) {
    struct Shape {
      const char* name;
      int64_t n, k;
    };
    double step = 0;
    double flops = 0;
    double bytes = 0;
    for (const Shape& shape : {Shape{"qkv", 960, 576},
                               {"o", 576, 576},
                               {"gate_up", 3072, 576},
                               {"down", 576, 1536},
                               {"head", 49152, 576}}) {
      const bool head = shape.n == 49152;
      const double matrix_bytes = static_cast<double>(MatrixBytes(shape.n, shape.k, dtype));
      const int copies = std::clamp(static_cast<int>(128e6 / matrix_bytes), 2, 64);
      std::vector<std::unique_ptr<Matrix>> matrices;
      for (int i = 0; i < copies; ++i) matrices.push_back(MakeMatrix(shape.n, shape.k, dtype));
      const Tensor x = harness_.MakeTensor(rows, shape.k);
      const Tensor out = harness_.MakeTensor(rows, shape.n);
      const double seconds = harness_.Best([&](int run) {
        backend_.MatMul(x, *matrices[run % copies], nullptr, MatMulMode::kStore, out);
      });
      harness_.Clear();
      const double work = 2.0 * static_cast<double>(rows * shape.n * shape.k);
      step += seconds * (head ? 1 : 30);
      flops += work * (head ? 1 : 30);
      bytes += matrix_bytes * (head ? 1 : 30);
      if (shape.n == 3072 || head) {
        harness_.Print(std::string("matmul ") + NameOf(dtype) + " " + std::to_string(rows) +
                           " rows " + shape.name,
                       seconds, work, matrix_bytes);
      }
    }
    harness_.Print(
        std::string("all matmuls ") + NameOf(dtype) + " " + std::to_string(rows) + " rows", step,
        flops, bytes);
  }

  void SmallMatMul(int64_t rows) {
    const auto w = MakeMatrix(192, 64, DType::kFloat32);
    const Tensor x = harness_.MakeTensor(rows, 64);
    const Tensor out = harness_.MakeTensor(rows, 192);
    const double seconds =
        harness_.Best([&](int) { backend_.MatMul(x, *w, nullptr, MatMulMode::kStore, out); });
    harness_.Print("matmul float32 " + std::to_string(rows) + " rows 192 x 64, cached", seconds,
                   2.0 * static_cast<double>(rows) * 192 * 64, 192 * 64 * 4);
    harness_.Clear();
  }

  bench::Harness& harness_;
  Backend& backend_;
};

void Run(const bench::OpsOptions& options) {
  bench::Harness harness(options);
  Bench bench(harness);
  const auto wanted = [&](const char* what) {
    return options.only.empty() || options.only == what;
  };
  if (wanted("products")) bench.Products();
  if (options.rows != RowRounding::kNone) return;
  if (wanted("attention")) bench::BenchAttention(harness);
  if (wanted("rows")) bench.Elementwise();
}

}  // namespace
}  // namespace t2r

int main(int argc, char** argv) {
  t2r::bench::OpsOptions options;
  for (int i = 1; i < argc; ++i) {
    const bool has_value = i + 1 < argc;
    if (std::strcmp(argv[i], "--threads") == 0 && has_value) {
      options.threads = std::atoi(argv[++i]);
    } else if (std::strcmp(argv[i], "--seconds") == 0 && has_value) {
      options.seconds = std::atof(argv[++i]);
    } else if (std::strcmp(argv[i], "--cpu-time") == 0) {
      options.cpu_time = true;
    } else if (std::strcmp(argv[i], "--activations") == 0 && has_value &&
               (std::strcmp(argv[i + 1], "bfloat16") == 0 ||
                std::strcmp(argv[i + 1], "int8") == 0)) {
      options.rows = argv[++i][0] == 'b' ? t2r::RowRounding::kBFloat16 : t2r::RowRounding::kInt8;
    } else if (std::strcmp(argv[i], "--only") == 0 && has_value &&
               (std::strcmp(argv[i + 1], "products") == 0 ||
                std::strcmp(argv[i + 1], "attention") == 0 ||
                std::strcmp(argv[i + 1], "rows") == 0)) {
      options.only = argv[++i];
    } else {
      std::fprintf(stderr,
                   "usage: t2r-bench-ops [--threads N] [--seconds S] [--cpu-time] "
                   "[--activations bfloat16|int8] [--only products|attention|rows]\n");
      return 2;
    }
  }
  try {
    t2r::Run(options);
  } catch (const t2r::DeviceError& e) {
    std::fprintf(stderr, "t2r-bench-ops: %s\n", e.what());
    return 1;
  }
  return 0;
}
