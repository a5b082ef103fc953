// t2r-bench-ops: what the ops reach of this machine's arithmetic and memory. Prints one table.
//
//   t2r-bench-ops [--threads N] [--seconds S] [--cpu-time] [--activations bfloat16|int8]
//
// Every line is the best of as many runs as fit into S seconds (default 0.3), because other
// processes only ever slow a run down. Matrices lie in memory, not in cache, as a model's weights
// do: runs go round copies of four times a 32 MiB cache.
//
// --activations, as the server's: only the products that it changes.
//
// --cpu-time counts the calling thread's processor time instead of the clock's. With --threads 1 it
// tells what a core reaches on a machine that others use too.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <functional>
#include <string>
#include <vector>

#include "bench/peaks.h"
#include "engine/ops/backend.h"
#include "engine/ops/quantize.h"

namespace t2r {
namespace {

struct Options {
  int threads = 0;
  double seconds = 0.3;
  bool cpu_time = false;
  RowRounding rows = RowRounding::kNone;
};

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}
double ThreadTime() {
  timespec t{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

class Bench {
 public:
  explicit Bench(const Options& options)
      : options_(options),
        backend_(MakeBackend({"cpu", options.threads, nullptr, true, options.rows})) {}

  void Run() {
    std::printf("%s\n", backend_->Describe().c_str());
    MeasurePeaks();
    std::printf("%-44s %10s %9s %9s %7s %7s\n", "op", "us", "GFLOP/s", "GB/s", "of FMA", "of read");
    std::vector<DType> dtypes = {DType::kFloat32, DType::kBFloat16, DType::kInt8, DType::kInt4};
    if (options_.rows == RowRounding::kBFloat16) dtypes = {DType::kBFloat16};
    if (options_.rows == RowRounding::kInt8) dtypes = {DType::kInt8, DType::kInt4};
    for (const DType dtype : dtypes) {
      for (const int64_t rows : {1, 8, 32, 64, 512}) {
        MatMuls(dtype, rows);
      }
    }
    if (options_.rows != RowRounding::kNone) return;
    SmallMatMul(1);
    SmallMatMul(64);
    for (const int sessions : {1, 8, 64, 256})
      Decode("linear decode k 64 d 64 9/3 heads", 64, 64, 9, 3, sessions);
    for (const int sessions : {1, 16, 64, 256})
      Decode("linear decode k 32 d 8 8/4 heads", 32, 8, 8, 4, sessions);
    FullDecode(128);
    FullDecode(2048);
    Elementwise();
  }

 private:
  // The shortest of the runs of fn(run number), in seconds.
  template <typename Fn>
  double Best(const Fn& fn) const {
    const auto time = options_.cpu_time ? ThreadTime : Now;
    double best = 1e30;
    const double end = Now() + options_.seconds;
    for (int run = 0; run < 3 || Now() < end; ++run) {
      const double start = time();
      fn(run);
      best = std::min(best, time() - start);
    }
    return best;
  }

  void MeasurePeaks() {
    const bench::Peaks peaks = bench::MeasurePeaks(options_.threads);
    peak_flops_ = peaks.f32_gflop_per_s * 1e9;
    read_bytes_ = peaks.read_gb_per_s * 1e9;
    std::printf("measured peaks: %.1f GFLOP/s float32 multiply-add, %.1f GB/s read\n\n",
                peaks.f32_gflop_per_s, peaks.read_gb_per_s);
  }

  void Print(const std::string& what, double seconds, double flops, double bytes) {
    std::printf("%-44s %10.2f %9.1f %9.2f %6.0f%% %6.0f%%\n", what.c_str(), seconds * 1e6,
                flops / seconds * 1e-9, bytes / seconds * 1e-9, 100 * flops / seconds / peak_flops_,
                100 * bytes / seconds / read_bytes_);
    std::fflush(stdout);
  }

  void Step(const Batch& batch, const std::function<void()>& ops) {
    backend_->RunStep(nullptr, batch, [&](const StepShape&) { ops(); });
  }

  std::unique_ptr<Matrix> MakeMatrix(int64_t n, int64_t k, DType dtype) {
    std::vector<float> values(n * k);
    for (size_t i = 0; i < values.size(); ++i) {
      values[i] = static_cast<float>(i * 2654435761U % 1000) * 1e-3F - 0.5F;
    }
    const HostMatrix host = {values.data(), DType::kFloat32, n, k, false};
    return backend_->LoadMatrix({&host, 1}, dtype);
  }

  Tensor MakeTensor(int64_t rows, int64_t cols) {
    buffers_.push_back(backend_->Allocate(rows * cols * 4));
    std::fill_n(buffers_.back().f32(), rows * cols, 0.25F);
    return {buffers_.back().data(), DType::kFloat32, rows, cols, cols};
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
      const Tensor x = MakeTensor(rows, shape.k);
      const Tensor out = MakeTensor(rows, shape.n);
      const double seconds = Best([&](int run) {
        backend_->MatMul(x, *matrices[run % copies], nullptr, MatMulMode::kStore, out);
      });
      buffers_.clear();
      const double work = 2.0 * static_cast<double>(rows * shape.n * shape.k);
      step += seconds * (head ? 1 : 30);
      flops += work * (head ? 1 : 30);
      bytes += matrix_bytes * (head ? 1 : 30);
      if (shape.n == 3072 || head) {
        Print(std::string("matmul ") + NameOf(dtype) + " " + std::to_string(rows) + " rows " +
                  shape.name,
              seconds, work, matrix_bytes);
      }
    }
    Print(std::string("all matmuls ") + NameOf(dtype) + " " + std::to_string(rows) + " rows", step,
          flops, bytes);
  }

  void SmallMatMul(int64_t rows) {
    const auto w = MakeMatrix(192, 64, DType::kFloat32);
    const Tensor x = MakeTensor(rows, 64);
    const Tensor out = MakeTensor(rows, 192);
    const double seconds =
        Best([&](int) { backend_->MatMul(x, *w, nullptr, MatMulMode::kStore, out); });
    Print("matmul float32 " + std::to_string(rows) + " rows 192 x 64, cached", seconds,
          2.0 * static_cast<double>(rows) * 192 * 64, 192 * 64 * 4);
    buffers_.clear();
  }

  void Decode(const std::string& name, int k, int d, int heads, int groups, int sessions) {
    LinearAttentionArgs args;
    args.heads = heads;
    args.groups = groups;
    args.head_dim = d;
    args.map.kind = FeatureMapKind::kT2r;
    args.map.features = k;
    args.map.query_scale = 0.1F;
    const Tensor weight = MakeTensor(groups * k, d);
    const Tensor bias = MakeTensor(groups, k);
    args.map.weight = weight.f32();
    args.map.bias = bias.f32();
    args.q = MakeTensor(sessions, heads * d);
    args.k = MakeTensor(sessions, groups * d);
    args.v = MakeTensor(sessions, groups * d);
    args.out = MakeTensor(sessions, heads * d);
    // Thirty layers, so that many sessions' states are as cold as in a model.
    constexpr int kLayers = 30;
    const int64_t layer = static_cast<int64_t>(groups) * k * (d + 1);
    args.slot_stride = layer * kLayers;
    const Tensor state = MakeTensor(sessions, args.slot_stride);
    Batch batch;
    for (int s = 0; s < sessions; ++s) {
      batch.segments.push_back({s, s, 1, 0, 0});
      batch.tokens.push_back(0);
      batch.positions.push_back(0);
    }
    const double seconds = Best([&](int run) {
      args.state = state.f32() + run % kLayers * layer;
      Step(batch, [&] { backend_->LinearAttention(batch, args); });
    });
    const double floats = static_cast<double>(sessions) * groups * k * d;
    Print(name + ", " + std::to_string(sessions) + " sessions", seconds,
          floats * (2 + 2.0 * heads / groups) * 2, 2 * 4 * static_cast<double>(sessions) * layer);
    std::printf("%44s %.2f M head-steps/s\n", "", sessions * heads / seconds * 1e-6);
    buffers_.clear();
  }

  void FullDecode(int64_t context) {
    FullAttentionArgs args;
    args.heads = 9;
    args.groups = 3;
    args.head_dim = 64;
    args.scale = 0.125F;
    constexpr int kSessions = 8;
    args.q = MakeTensor(kSessions, 9 * 64);
    args.k = MakeTensor(kSessions, 3 * 64);
    args.v = MakeTensor(kSessions, 3 * 64);
    args.out = MakeTensor(kSessions, 9 * 64);
    args.page_stride = 2 * 3 * kKvPageSize * 64;
    const auto per_session = static_cast<int32_t>(context / kKvPageSize);
    args.pages = MakeTensor(kSessions * per_session, args.page_stride).f32();
    Batch batch;
    for (int s = 0; s < kSessions; ++s) {
      batch.segments.push_back({s, s, 1, context - 1, s * per_session});
      for (int p = 0; p < per_session; ++p) batch.pages.push_back(s * per_session + p);
      batch.tokens.push_back(0);
      batch.positions.push_back(context - 1);
    }
    const double seconds =
        Best([&](int) { Step(batch, [&] { backend_->FullAttention(batch, args); }); });
    Print("softmax decode d 64 9/3 heads, 8 at " + std::to_string(context), seconds,
          kSessions * 9.0 * static_cast<double>(context) * 64 * 4,
          kSessions * static_cast<double>(per_session) * static_cast<double>(args.page_stride) * 4);
    buffers_.clear();
  }

  void Elementwise() {
    const Tensor gate_up = MakeTensor(64, 3072);
    const Tensor out = MakeTensor(64, 1536);
    const double swiglu = Best([&](int) { backend_->SwiGlu(gate_up, out); });
    Print("swiglu 64 x 1536", swiglu, 0, 64.0 * 1536 * 12);
    const Tensor x = MakeTensor(64, 576);
    const Tensor weight = MakeTensor(1, 576);
    const Tensor y = MakeTensor(64, 576);
    const double norm = Best([&](int) { backend_->RmsNorm(x, weight.f32(), 1e-5F, y); });
    Print("rms_norm 64 x 576", norm, 0, 64.0 * 576 * 8);
    buffers_.clear();
  }

  Options options_;
  std::unique_ptr<Backend> backend_;
  std::vector<Buffer> buffers_;
  double peak_flops_ = 0;
  double read_bytes_ = 0;
};

}  // namespace
}  // namespace t2r

int main(int argc, char** argv) {
  t2r::Options options;
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
    } else {
      std::fprintf(stderr,
                   "usage: t2r-bench-ops [--threads N] [--seconds S] [--cpu-time] "
                   "[--activations bfloat16|int8]\n");
      return 2;
    }
  }
  try {
    t2r::Bench(options).Run();
  } catch (const t2r::DeviceError& e) {
    std::fprintf(stderr, "t2r-bench-ops: %s\n", e.what());
    return 1;
  }
  return 0;
}
