#include "bench/device/checks.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "bench/device/spec_model.h"
#include "engine/sampling/sampler.h"
#include "testing/device_cases.h"
#include "testing/ops_reference.h"

namespace t2r::bench {
namespace {

using testing::LinearLayer;
using testing::LinearState;
using testing::Mat;
using testing::ModelSpec;
using testing::Result;

class Checks {
 public:
  // Not more than the bound; NaN fails.
  void Expect(const std::string& name, double error, double bound) {
    const bool ok = error <= bound;
    std::printf("%s %-46s %.3g (bound %.3g)\n", ok ? "ok  " : "FAIL", name.c_str(), error, bound);
    std::fflush(stdout);
    failed_ += ok ? 0 : 1;
  }
  // The largest error in units of its bound.
  void Expect(const std::string& name, const std::vector<float>& got, const Result& want) {
    double worst = 0;
    for (size_t i = 0; i < got.size(); ++i) {
      const double units = std::abs(got[i] - want.out.v[i]) / (want.bound.v[i] + 1e-300);
      if (!(units <= worst)) worst = units;
    }
    Expect(name, worst, 1);
  }
  int failed() const { return failed_; }

 private:
  int failed_ = 0;
};

// Float32 tensors of a backend.
class Ops {
 public:
  explicit Ops(cuda::CudaBackend& backend) : backend_(backend) {}

  Mat Random(int64_t rows, int64_t cols, double scale = 1) {
    Mat m(rows, cols);
    std::normal_distribution<double> normal(0.0, scale);
    for (double& value : m.v) value = static_cast<float>(normal(random_));
    return m;
  }
  Tensor Upload(const Mat& m) {
    kept_.push_back(backend_.LoadVector(m.Floats()));
    return {kept_.back().data(), DType::kFloat32, m.rows, m.cols, m.cols};
  }
  Tensor Empty(int64_t rows, int64_t cols) { return Upload(Mat(rows, cols)); }
  std::vector<float> Read(const Tensor& tensor) {
    std::vector<float> values(tensor.rows * tensor.cols);
    backend_.CopyToHost(values.data(), tensor.data, values.size() * sizeof(float));
    return values;
  }

 private:
  cuda::CudaBackend& backend_;
  std::vector<Buffer> kept_;
  std::mt19937_64 random_{7};
};

// One session's rows from a position on.
Batch OneSession(int64_t rows, int64_t position) {
  Batch batch;
  batch.segments = {{0, 0, static_cast<int32_t>(rows), position, 0}};
  for (int64_t i = 0; i < rows; ++i) {
    batch.tokens.push_back(0);
    batch.positions.push_back(position + i);
  }
  return batch;
}

// Of products that are checked: in bfloat16 whole models are.
constexpr DType kMatrices[] = {DType::kFloat32, DType::kInt8, DType::kFloat8};

// Weights that int8 holds exactly: 127ths of a power of two, the largest of them in every row.
Mat Codes(Ops& ops, int64_t outputs, int64_t inputs) {
  Mat w = ops.Random(outputs, inputs, 40);
  for (double& value : w.v) value = std::rint(std::clamp(value, -127.0, 127.0)) / 1024;
  for (int64_t n = 0; n < outputs; ++n) w.at(n, 0) = 127.0 / 1024;
  return w;
}

// Beside int8 weights a row is cut into steps of its largest magnitude / (127 · 256); it is off by
// half of one, and by the roundings of the step, its inverse and the product with it.
void AddSplitError(const Mat& x, const Mat& w, Result* want) {
  constexpr double kSteps = 127.0 * 256.0;
  for (int64_t t = 0; t < x.rows; ++t) {
    double most = 0;
    for (int64_t i = 0; i < x.cols; ++i) most = std::max(most, std::abs(x.at(t, i)));
    for (int64_t n = 0; n < w.rows; ++n) {
      double sum = 0;
      for (int64_t i = 0; i < w.cols; ++i) sum += std::abs(w.at(n, i));
      want->bound.at(t, n) += most / kSteps * (0.5 + kSteps * 4 * 0x1p-24) * sum;
    }
  }
}

// In fp8 a number is off by a 16th of itself at most, or by half a step of 2⁻⁹ · largest / 448 near
// zero. Hopper's tensor cores keep some 13 bits below a sum's largest part while they add 32
// products (DeepSeek-V3, arXiv 2412.19437, section 3.5.2), whatever the type of the accumulator.
void AddFloat8Error(const Mat& x, const Mat& w, Result* want) {
  const auto off = [](const Mat& m, int64_t row, int64_t i, double most) {
    return std::abs(m.at(row, i)) / 16 + most / 448 * 0x1p-10;
  };
  const auto largest = [](const Mat& m, int64_t row) {
    double most = 0;
    for (int64_t i = 0; i < m.cols; ++i) most = std::max(most, std::abs(m.at(row, i)));
    return most;
  };
  const double sums = static_cast<double>(x.cols + 31) / 32 * 0x1p-13;
  for (int64_t t = 0; t < x.rows; ++t) {
    const double most_x = largest(x, t);
    for (int64_t n = 0; n < w.rows; ++n) {
      const double most_w = largest(w, n);
      for (int64_t i = 0; i < w.cols; ++i) {
        const double off_x = off(x, t, i, most_x), off_w = off(w, n, i, most_w);
        const double at_most = (std::abs(x.at(t, i)) + off_x) * (std::abs(w.at(n, i)) + off_w);
        want->bound.at(t, n) += off_x * std::abs(w.at(n, i)) + off_w * std::abs(x.at(t, i)) +
                                off_x * off_w + sums * at_most;
      }
    }
  }
}

void CheckMatMul(cuda::CudaBackend& backend, DType dtype, int64_t rows, int64_t outputs,
                 int64_t inputs, Checks* checks) {
  Ops ops(backend);
  const Mat x = ops.Random(rows, inputs);
  const Mat w = dtype == DType::kInt8
                    ? Codes(ops, outputs, inputs)
                    : ops.Random(outputs, inputs, 1 / std::sqrt(static_cast<double>(inputs)));
  const Mat bias = ops.Random(1, outputs);
  const std::vector<float> host = w.Floats();
  const HostMatrix matrix = {host.data(), DType::kFloat32, outputs, inputs, false};
  std::unique_ptr<Matrix> loaded;
  try {
    loaded = backend.LoadMatrix({&matrix, 1}, dtype);
  } catch (const DeviceError& error) {
    if (error.kind() != DeviceErrorKind::kInvalidArgument) throw;
    std::printf("left out: %s\n", error.what());  // fp8 before sm_89
    return;
  }
  const Tensor out = ops.Empty(rows, outputs);
  const Tensor in = ops.Upload(x);
  const Tensor bias_in = ops.Upload(bias);
  backend.RunStep(nullptr, OneSession(rows, 0), [&](const StepShape&) {
    backend.MatMul(in, *loaded, bias_in.f32(), MatMulMode::kStore, out);
  });
  Result want = testing::MatMulReference(x, w, &bias, nullptr);
  if (dtype == DType::kInt8) AddSplitError(x, w, &want);
  if (dtype == DType::kFloat8) AddFloat8Error(x, w, &want);
  checks->Expect("product of " + std::to_string(rows) + " x " + std::to_string(inputs) + " by " +
                     std::to_string(outputs) + ", " + NameOf(dtype),
                 ops.Read(out), want);
}

// A prompt of `rows` rows, then three more rows one by one.
void CheckLinearAttention(cuda::CudaBackend& backend, int features, int head_dim, int heads,
                          int groups, int64_t rows, Checks* checks) {
  Ops ops(backend);
  LinearLayer layer;
  layer.heads = heads;
  layer.groups = groups;
  layer.head_dim = head_dim;
  layer.map.features = features;
  layer.map.query_scale = 0.5F;
  layer.weight = ops.Random(groups * features, head_dim, 1 / std::sqrt(double{1} * head_dim));
  layer.bias = ops.Random(groups, features, 0.3);
  LinearState state(layer);
  LinearAttentionArgs args;
  args.heads = heads;
  args.groups = groups;
  args.head_dim = head_dim;
  args.map = layer.map;
  args.map.weight = ops.Upload(layer.weight).f32();
  args.map.bias = ops.Upload(layer.bias).f32();
  args.state = ops.Empty(1, layer.state_floats()).f32();
  args.slot_stride = layer.state_floats();
  int64_t position = 0;
  for (const int64_t count : {rows, int64_t{1}, int64_t{1}, int64_t{1}}) {
    const Mat q = ops.Random(count, int64_t{heads} * head_dim);
    const Mat k = ops.Random(count, int64_t{groups} * head_dim);
    const Mat v = ops.Random(count, int64_t{groups} * head_dim);
    args.q = ops.Upload(q);
    args.k = ops.Upload(k);
    args.v = ops.Upload(v);
    args.out = ops.Empty(count, int64_t{heads} * head_dim);
    const Batch batch = OneSession(count, position);
    backend.RunStep(nullptr, batch,
                    [&](const StepShape&) { backend.LinearAttention(batch, args); });
    checks->Expect("linear attention, k " + std::to_string(features) + ", d " +
                       std::to_string(head_dim) + ", position " + std::to_string(position) + " + " +
                       std::to_string(count),
                   ops.Read(args.out), testing::LinearAttentionReference(layer, q, k, v, &state));
    position += count;
  }
}

// The device's choice for every row of logits is the host's.
void CheckSampling(cuda::CudaBackend& backend, int64_t rows, int64_t vocabulary, Checks* checks) {
  Ops ops(backend);
  const Mat logits = ops.Random(rows, vocabulary, 3);
  const Tensor in = ops.Upload(logits);
  std::vector<SamplingParams> params(rows);
  std::vector<SampleRequest> requests(rows);
  for (int64_t i = 0; i < rows; ++i) {
    params[i].temperature = static_cast<float>(i % 3) * 0.5F;
    params[i].top_k = i % 4 == 1 ? 40 : 0;
    params[i].top_p = i % 4 == 2 ? 0.9F : 1.0F;
    params[i].sequence = static_cast<uint64_t>(i);
    requests[i].row = static_cast<int32_t>(i);
    requests[i].sampling = &params[i];
    requests[i].position = 5;
    requests[i].top = 3;
  }
  backend.Sample(in, requests);
  std::vector<SampleResult> results(rows);
  backend.FetchSamples(results);
  int different = 0;
  double error = 0;
  const std::vector<float> values = logits.Floats();
  for (int64_t i = 0; i < rows; ++i) {
    const SampleResult want =
        SampleRow(std::span(values).subspan(i * vocabulary, vocabulary), requests[i]);
    different += results[i].token == want.token && results[i].top.size() == 3 ? 0 : 1;
    error = std::max(error, std::abs(double{results[i].logprob} - want.logprob));
  }
  checks->Expect("tokens sampled otherwise than by the host", different, 0);
  checks->Expect("log probabilities of sampled tokens", error, 1e-5);
}

void CheckModel(const testing::DeviceCase& test, int64_t length, Checks* checks) {
  const testing::Tensors weights = BFloat16Weights(test.spec);
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < length; ++i) {
    ids.push_back(static_cast<int32_t>((i * i * 7 + i * 13 + 3) % test.spec.vocab));
  }
  const auto logits = testing::ReferenceLogits(test.spec, weights, ids);
  std::vector<double> want;
  for (int64_t i = 0; i + 1 < length; ++i) {
    want.push_back(testing::LogSoftmax(logits[i])[ids[i + 1]]);
  }
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
    const auto executor = SpecExecutor(test.spec, weights, dtype, 4);
    const std::string name = "log probabilities, " + test.name + ", " + NameOf(dtype);
    // A half of a layer rounds its activations at most four times on its way, the last norm once.
    const double bound = dtype == DType::kFloat32 ? 1e-5 : (8 * test.spec.layers + 1) * 0x1p-8;
    checks->Expect(name, testing::RelativeError(Scores(*executor, ids, length), want), bound);
    checks->Expect(name + ", row by row", testing::RelativeError(Scores(*executor, ids, 1), want),
                   bound);
  }
}

// A session's log probabilities have the same bits alone and among others.
void CheckNeighbours(int sessions, Checks* checks) {
  ModelSpec spec;
  spec.layers = 2;
  spec.linear = {true, false};
  const auto executor = SpecExecutor(spec, BFloat16Weights(spec), DType::kBFloat16, sessions);
  checks->Expect("results that change among " + std::to_string(sessions) + " sessions",
                 DifferAmongNeighbours(*executor, sessions, 6), 0);
}

}  // namespace

int RunChecks(bool small) {
  Checks checks;
  {
    cuda::CudaBackend backend(true);
    backend.PrepareSteps({256, 256, 256, 256});
    for (const DType dtype : kMatrices) CheckMatMul(backend, dtype, 5, 48, 64, &checks);
    CheckLinearAttention(backend, 16, 8, 4, 2, 70, &checks);
    CheckSampling(backend, 8, 1000, &checks);
    if (!small) {
      for (const DType dtype : kMatrices) {
        for (const int64_t rows : {1, 7, 64, 130}) {
          CheckMatMul(backend, dtype, rows, 576, 1536, &checks);
        }
      }
      CheckLinearAttention(backend, 64, 64, 9, 3, 200, &checks);
      CheckLinearAttention(backend, 32, 128, 8, 8, 130, &checks);
      CheckSampling(backend, 64, 49152, &checks);
    }
  }
  std::vector<testing::DeviceCase> models = testing::DeviceCases();
  if (small) models.resize(2);
  for (const testing::DeviceCase& test : models) CheckModel(test, small ? 20 : 100, &checks);
  CheckNeighbours(small ? 3 : 64, &checks);
  std::printf("%d checks failed\n", checks.failed());
  return checks.failed();
}

}  // namespace t2r::bench
