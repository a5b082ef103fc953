// t2r-bench-gemm-peers: our matrix products beside OpenBLAS's and oneDNN's, in one run.
//
// One thread, its processor time, best of as many runs as fit into a third of a second. M rows by
// the two largest layer matrices of SmolLM2-135M; runs go round copies of a matrix that exceed the
// cache. oneDNN gets its weights in the layout it asks for, as ours are packed when they are
// loaded. Prints a Markdown table (docs/cpu.md).
#include <cblas.h>
#include <omp.h>

#include <algorithm>
#include <cstdio>
#include <ctime>
#include <memory>
#include <oneapi/dnnl/dnnl.hpp>
#include <vector>

#include "engine/ops/backend.h"

extern "C" void openblas_set_num_threads(int threads);

namespace t2r {
namespace {

constexpr int64_t kCopiesBytes = 128 << 20;
constexpr double kSeconds = 0.3;

struct Shape {
  int64_t m, n, k;
};

double ThreadTime() {
  timespec t{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

// GFLOP/s of the fastest of fn(run).
template <typename Fn>
double Rate(const Shape& shape, const Fn& fn) {
  double best = 1e30;
  const double end = ThreadTime() + kSeconds;
  for (int run = 0; run < 3 || ThreadTime() < end; ++run) {
    const double start = ThreadTime();
    fn(run);
    best = std::min(best, ThreadTime() - start);
  }
  return 2e-9 * static_cast<double>(shape.m * shape.n * shape.k) / best;
}

std::vector<float> Values(int64_t count) {
  std::vector<float> values(count);
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = static_cast<float>(i * 2654435761U % 1000) * 1e-3F - 0.5F;
  }
  return values;
}

int Copies(const Shape& shape, int64_t element_bytes) {
  return static_cast<int>(
      std::clamp<int64_t>(kCopiesBytes / (shape.n * shape.k * element_bytes), 2, 64));
}

double Ours(Backend& backend, const Shape& shape, DType dtype) {
  const std::vector<float> w = Values(shape.n * shape.k);
  const HostMatrix host = {w.data(), DType::kFloat32, shape.n, shape.k, false};
  std::vector<std::unique_ptr<Matrix>> copies;
  for (int i = 0; i < Copies(shape, static_cast<int64_t>(SizeOf(dtype))); ++i) {
    copies.push_back(backend.LoadMatrix({&host, 1}, dtype));
  }
  std::vector<float> x = Values(shape.m * shape.k);
  std::vector<float> out(shape.m * shape.n);
  return Rate(shape, [&](int run) {
    backend.MatMul({x.data(), DType::kFloat32, shape.m, shape.k, shape.k},
                   *copies[run % copies.size()], nullptr, MatMulMode::kStore,
                   {out.data(), DType::kFloat32, shape.m, shape.n, shape.n});
  });
}

double OpenBlas(const Shape& shape) {
  const std::vector<std::vector<float>> copies(Copies(shape, 4), Values(shape.n * shape.k));
  const std::vector<float> x = Values(shape.m * shape.k);
  std::vector<float> out(shape.m * shape.n);
  const auto m = static_cast<int>(shape.m);
  const auto n = static_cast<int>(shape.n);
  const auto k = static_cast<int>(shape.k);
  return Rate(shape, [&](int run) {
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, m, n, k, 1, x.data(), k,
                copies[run % copies.size()].data(), k, 0, out.data(), n);
  });
}

double OneDnn(const Shape& shape) {
  using dnnl::memory;
  const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  dnnl::stream stream(engine);
  const auto plain = [](int64_t rows, int64_t cols, memory::format_tag tag) {
    return memory::desc({rows, cols}, memory::data_type::f32, tag);
  };
  const memory::desc x_desc = plain(shape.m, shape.k, memory::format_tag::ab);
  const memory::desc out_desc = plain(shape.m, shape.n, memory::format_tag::ab);
  const memory::desc any = plain(shape.k, shape.n, memory::format_tag::any);
  const dnnl::matmul::primitive_desc chosen({x_desc, any, out_desc}, engine);
  const dnnl::matmul product(chosen);
  std::vector<float> w = Values(shape.n * shape.k);
  memory unpacked(plain(shape.k, shape.n, memory::format_tag::ba), engine, w.data());
  std::vector<memory> copies;
  for (int i = 0; i < Copies(shape, 4); ++i) {
    copies.emplace_back(chosen.weights_desc(), engine);
    dnnl::reorder(unpacked, copies.back()).execute(stream, unpacked, copies.back());
  }
  std::vector<float> x = Values(shape.m * shape.k);
  std::vector<float> out(shape.m * shape.n);
  const memory x_memory(x_desc, engine, x.data());
  const memory out_memory(out_desc, engine, out.data());
  return Rate(shape, [&](int run) {
    product.execute(stream, {{DNNL_ARG_SRC, x_memory},
                             {DNNL_ARG_WEIGHTS, copies[run % copies.size()]},
                             {DNNL_ARG_DST, out_memory}});
    stream.wait();
  });
}

void Run() {
  omp_set_num_threads(1);
  openblas_set_num_threads(1);
  const std::unique_ptr<Backend> backend = MakeBackend({"cpu", 1});
  std::printf("%s; GFLOP/s of one thread\n\n", backend->Describe().c_str());
  std::printf(
      "|       N x K |  M | OpenBLAS | oneDNN, packed | this, f32 | this, bf16 weights |\n");
  std::printf(
      "|------------:|---:|---------:|---------------:|----------:|-------------------:|\n");
  for (const auto& [n, k] : {std::pair<int64_t, int64_t>{3072, 576}, {576, 1536}}) {
    for (const int64_t m : {1, 8, 32, 64}) {
      const Shape shape = {m, n, k};
      std::printf("| %4lld x %4lld | %2lld | %8.1f | %14.1f | %9.1f | %18.1f |\n",
                  static_cast<long long>(n), static_cast<long long>(k), static_cast<long long>(m),
                  OpenBlas(shape), OneDnn(shape), Ours(*backend, shape, DType::kFloat32),
                  Ours(*backend, shape, DType::kBFloat16));
      std::fflush(stdout);
    }
  }
}

}  // namespace
}  // namespace t2r

int main() {
  t2r::Run();
  return 0;
}
