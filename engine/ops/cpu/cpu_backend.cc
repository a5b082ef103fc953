#include "engine/ops/cpu/cpu_backend.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "engine/ops/cpu/memory.h"

namespace t2r {
namespace {

float ElementOf(const void* data, DType dtype, int64_t i) {
  switch (dtype) {
    case DType::kFloat32:
      return static_cast<const float*>(data)[i];
    case DType::kBFloat16:
      return BFloat16ToFloat(static_cast<const uint16_t*>(data)[i]);
    case DType::kFloat16:
      return Float16ToFloat(static_cast<const uint16_t*>(data)[i]);
  }
  return 0.0F;
}

class CpuMatrix : public Matrix {
 public:
  CpuMatrix(int64_t rows, int64_t cols, DType dtype) : Matrix(rows, cols, dtype) {}
  size_t bytes() const override { return values.size() * sizeof(float); }
  std::vector<float> values;  // [rows, cols]
};

class CpuTable : public Matrix {
 public:
  explicit CpuTable(const HostMatrix& t) : Matrix(t.rows, t.cols, t.dtype), source(t) {}
  size_t bytes() const override { return rows() * cols() * SizeOf(dtype()); }
  HostMatrix source;
};

void Features(const FeatureMap& map, int group, int d, bool query, const float* x, float* phi) {
  const int k = map.features;
  const int p = map.projected_features();
  const float scale = query && !map.folded ? map.query_scale : 1.0F;
  if (map.kind == FeatureMapKind::kElu) {
    for (int i = 0; i < k; ++i) {
      const float u = scale * x[i];
      phi[i] = u > 0 ? u + 1.0F : std::exp(u);
    }
    return;
  }
  std::vector<float> in(x, x + (map.folded ? p : d));
  std::vector<float> u(p);
  for (float& value : in) value *= scale;
  if (map.kind == FeatureMapKind::kRfa) {
    float norm = 0;
    for (const float value : in) norm += value * value;
    norm = std::max(std::sqrt(norm), 1e-12F);
    for (float& value : in) value /= norm;
  }
  for (int i = 0; i < p; ++i) {
    if (map.folded) {
      u[i] = in[i];
      continue;
    }
    const float* w = map.weight + (static_cast<int64_t>(group) * p + i) * d;
    float sum = map.bias != nullptr ? map.bias[group * p + i] : 0.0F;
    for (int j = 0; j < d; ++j) sum += w[j] * in[j];
    u[i] = sum;
  }
  if (map.kind == FeatureMapKind::kT2r) {
    for (int i = 0; i < k; ++i) phi[i] = std::max(u[i], 0.0F);
  } else if (map.kind == FeatureMapKind::kRfa) {
    const float factor = 1.0F / std::sqrt(static_cast<float>(p));
    for (int i = 0; i < p; ++i) {
      phi[i] = std::sin(u[i]) * factor;
      phi[p + i] = std::cos(u[i]) * factor;
    }
  } else {
    const auto [low, high] = std::minmax_element(u.begin(), u.end());
    float up = 0;
    float down = 0;
    for (int i = 0; i < p; ++i) {
      up += phi[i] = std::exp(u[i] - *high);
      down += phi[p + i] = std::exp(*low - u[i]);
    }
    for (int i = 0; i < p; ++i) {
      phi[i] /= up;
      phi[p + i] /= down;
    }
  }
}

class CpuBackend : public Backend {
 public:
  explicit CpuBackend(int threads) : threads_(threads) {}

  std::string Describe() const override {
    return "cpu, " + std::to_string(threads_) + " thread" + (threads_ == 1 ? "" : "s");
  }
  DType activation_dtype() const override { return DType::kFloat32; }

  Buffer Allocate(size_t bytes) override { return AllocateHost(bytes); }
  void CopyToDevice(void* device, const void* host, size_t bytes) override {
    std::memcpy(device, host, bytes);
  }
  void CopyToHost(void* host, const void* device, size_t bytes) override {
    std::memcpy(host, device, bytes);
  }
  void CopyOnDevice(void* to, const void* from, size_t bytes) override {
    std::memcpy(to, from, bytes);
  }
  void Zero(void* device, size_t bytes) override { std::memset(device, 0, bytes); }

  std::unique_ptr<Matrix> LoadMatrix(std::span<const HostMatrix> parts, DType dtype) override {
    int64_t rows = 0;
    for (const HostMatrix& part : parts) rows += part.rows;
    const int64_t cols = parts[0].cols;
    auto matrix = std::make_unique<CpuMatrix>(rows, cols, dtype);
    matrix->values.reserve(rows * cols);
    for (const HostMatrix& part : parts) {
      for (int64_t n = 0; n < part.rows; ++n) {
        for (int64_t i = 0; i < cols; ++i) {
          const float value =
              ElementOf(part.data, part.dtype, part.transposed ? i * part.rows + n : n * cols + i);
          matrix->values.push_back(
              dtype == DType::kBFloat16 ? BFloat16ToFloat(FloatToBFloat16(value)) : value);
        }
      }
    }
    return matrix;
  }
  Buffer LoadVector(std::span<const float> values) override {
    Buffer buffer = Allocate(values.size_bytes());
    std::memcpy(buffer.data(), values.data(), values.size_bytes());
    return buffer;
  }
  std::unique_ptr<Matrix> LoadTable(const HostMatrix& table) override {
    return std::make_unique<CpuTable>(table);
  }

  void BeginStep(const Batch&) override {}
  void Embed(const Batch& batch, const Matrix& table, const Matrix* positions,
             Tensor out) override {
    const auto& tokens = static_cast<const CpuTable&>(table).source;
    for (int64_t t = 0; t < batch.rows(); ++t) {
      float* y = out.f32_row(t);
      for (int64_t i = 0; i < out.cols; ++i) {
        y[i] = ElementOf(tokens.data, tokens.dtype, batch.tokens[t] * tokens.cols + i);
      }
      if (positions == nullptr) continue;
      const auto& learned = static_cast<const CpuTable*>(positions)->source;
      for (int64_t i = 0; i < out.cols; ++i) {
        y[i] += ElementOf(learned.data, learned.dtype, batch.positions[t] * learned.cols + i);
      }
    }
  }
  void RmsNorm(Tensor x, const float* weight, float eps, Tensor out) override {
    for (int64_t t = 0; t < x.rows; ++t) {
      const float* in = x.f32_row(t);
      float* y = out.f32_row(t);
      float sum = 0;
      for (int64_t i = 0; i < x.cols; ++i) sum += in[i] * in[i];
      const float inverse = 1.0F / std::sqrt(sum / static_cast<float>(x.cols) + eps);
      for (int64_t i = 0; i < x.cols; ++i) y[i] = in[i] * inverse * weight[i];
    }
  }
  void LayerNorm(Tensor x, const float* weight, const float* bias, float eps, Tensor out) override {
    for (int64_t t = 0; t < x.rows; ++t) {
      const float* in = x.f32_row(t);
      float* y = out.f32_row(t);
      float sum = 0;
      for (int64_t i = 0; i < x.cols; ++i) sum += in[i];
      const float mean = sum / static_cast<float>(x.cols);
      float squares = 0;
      for (int64_t i = 0; i < x.cols; ++i) squares += (in[i] - mean) * (in[i] - mean);
      const float inverse = 1.0F / std::sqrt(squares / static_cast<float>(x.cols) + eps);
      for (int64_t i = 0; i < x.cols; ++i) y[i] = (in[i] - mean) * inverse * weight[i] + bias[i];
    }
  }
  void MatMul(Tensor x, const Matrix& w, const float* bias, MatMulMode mode, Tensor out) override {
    const auto& matrix = static_cast<const CpuMatrix&>(w);
    for (int64_t t = 0; t < x.rows; ++t) {
      const float* in = x.f32_row(t);
      float* y = out.f32_row(t);
      for (int64_t n = 0; n < w.rows(); ++n) {
        const float* row = matrix.values.data() + n * w.cols();
        float sum = bias != nullptr ? bias[n] : 0.0F;
        for (int64_t i = 0; i < w.cols(); ++i) sum += in[i] * row[i];
        y[n] = mode == MatMulMode::kAccumulate ? y[n] + sum : sum;
      }
    }
  }
  void RopeTable(const Batch& batch, std::span<const double> inverse_frequencies, double factor,
                 Tensor cos_sin) override {
    const auto n = static_cast<int64_t>(inverse_frequencies.size());
    for (int64_t t = 0; t < batch.rows(); ++t) {
      float* y = cos_sin.f32_row(t);
      for (int64_t i = 0; i < n; ++i) {
        const double angle = static_cast<double>(batch.positions[t]) * inverse_frequencies[i];
        y[i] = static_cast<float>(std::cos(angle) * factor);
        y[n + i] = static_cast<float>(std::sin(angle) * factor);
      }
    }
  }
  void Rope(Tensor cos_sin, int heads, int head_dim, Tensor x) override {
    const int n = head_dim / 2;
    for (int64_t t = 0; t < x.rows; ++t) {
      const float* cosine = cos_sin.f32_row(t);
      const float* sine = cosine + n;
      for (int h = 0; h < heads; ++h) {
        float* a = x.f32_row(t) + h * head_dim;
        float* b = a + n;
        for (int i = 0; i < n; ++i) {
          const float u = a[i];
          const float v = b[i];
          a[i] = u * cosine[i] - v * sine[i];
          b[i] = v * cosine[i] + u * sine[i];
        }
      }
    }
  }
  void LinearAttention(const Batch& batch, const LinearAttentionArgs& args) override {
    const int k = args.map.features;
    const int d = args.head_dim;
    const int ratio = args.heads / args.groups;
    const int64_t width = args.map.folded ? args.map.projected_features() : d;
    std::vector<float> phi(k);
    std::vector<float> y(d);
    for (const Segment& segment : batch.segments) {
      for (int g = 0; g < args.groups; ++g) {
        float* slot = args.state + segment.slot * args.slot_stride;
        float* s = slot + static_cast<int64_t>(g) * k * d;
        float* z = slot + static_cast<int64_t>(args.groups) * k * d + g * k;
        for (int64_t t = segment.first_row; t < segment.first_row + segment.rows; ++t) {
          Features(args.map, g, d, false, args.k.f32_row(t) + g * width, phi.data());
          const float* v = args.v.f32_row(t) + g * d;
          for (int i = 0; i < k; ++i) {
            z[i] += phi[i];
            for (int j = 0; j < d; ++j) s[i * d + j] += phi[i] * v[j];
          }
          for (int h = g * ratio; h < (g + 1) * ratio; ++h) {
            Features(args.map, g, d, true, args.q.f32_row(t) + h * width, phi.data());
            float den = 0;
            std::fill(y.begin(), y.end(), 0.0F);
            for (int i = 0; i < k; ++i) {
              den += phi[i] * z[i];
              for (int j = 0; j < d; ++j) y[j] += phi[i] * s[i * d + j];
            }
            den = args.normalizer == Normalizer::kClamp ? std::max(den, args.eps) : den + args.eps;
            for (int j = 0; j < d; ++j) args.out.f32_row(t)[h * d + j] = y[j] / den;
          }
        }
      }
    }
  }
  void FullAttention(const Batch& batch, const FullAttentionArgs& args) override {
    const int d = args.head_dim;
    const int ratio = args.heads / args.groups;
    std::vector<float> scores;
    for (const Segment& segment : batch.segments) {
      for (int h = 0; h < args.heads; ++h) {
        const int g = h / ratio;
        const auto key = [&](int64_t position) {
          const int32_t page = batch.pages[segment.first_page + position / kKvPageSize];
          return args.pages + page * args.page_stride +
                 (static_cast<int64_t>(g) * kKvPageSize + position % kKvPageSize) * d;
        };
        const int64_t value_offset = static_cast<int64_t>(args.groups) * kKvPageSize * d;
        for (int32_t r = 0; r < segment.rows; ++r) {
          const int64_t t = segment.first_row + r;
          const int64_t position = segment.position + r;
          std::copy_n(args.k.f32_row(t) + g * d, d, key(position));
          std::copy_n(args.v.f32_row(t) + g * d, d, key(position) + value_offset);
          const float* q = args.q.f32_row(t) + h * d;
          float* y = args.out.f32_row(t) + h * d;
          scores.assign(position + 1, 0.0F);
          for (int64_t p = 0; p <= position; ++p) {
            for (int i = 0; i < d; ++i) scores[p] += q[i] * key(p)[i];
            scores[p] *= args.scale;
          }
          const float high = *std::max_element(scores.begin(), scores.end());
          float sum = 0;
          std::fill_n(y, d, 0.0F);
          for (int64_t p = 0; p <= position; ++p) {
            const float weight = std::exp(scores[p] - high);
            sum += weight;
            for (int i = 0; i < d; ++i) y[i] += weight * (key(p) + value_offset)[i];
          }
          for (int i = 0; i < d; ++i) y[i] /= sum;
        }
      }
    }
  }
  void SwiGlu(Tensor gate_up, Tensor out) override {
    for (int64_t t = 0; t < out.rows; ++t) {
      const float* gate = gate_up.f32_row(t);
      const float* up = gate + out.cols;
      float* y = out.f32_row(t);
      for (int64_t i = 0; i < out.cols; ++i) y[i] = gate[i] / (1.0F + std::exp(-gate[i])) * up[i];
    }
  }
  void GeluTanh(Tensor x) override {
    for (int64_t t = 0; t < x.rows; ++t) {
      float* y = x.f32_row(t);
      for (int64_t i = 0; i < x.cols; ++i) {
        const float v = y[i];
        y[i] = 0.5F * v * (1.0F + std::tanh(0.7978845608028654F * (v + 0.044715F * v * v * v)));
      }
    }
  }
  void GatherRows(Tensor x, std::span<const int32_t> rows, Tensor out) override {
    for (size_t i = 0; i < rows.size(); ++i) {
      std::copy_n(x.f32_row(rows[i]), x.cols, out.f32_row(static_cast<int64_t>(i)));
    }
  }
  void ParallelFor(int64_t count, const std::function<void(int64_t)>& fn) override {
    for (int64_t i = 0; i < count; ++i) fn(i);
  }

 private:
  int threads_;
};

}  // namespace

std::unique_ptr<Backend> MakeCpuBackend(int threads) {
  if (threads < 0 || threads > 1024) {
    throw DeviceError("threads is " + std::to_string(threads) + ": give 0 (one a core) to 1024");
  }
  return std::make_unique<CpuBackend>(threads == 0 ? 1 : threads);
}

}  // namespace t2r
