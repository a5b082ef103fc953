// Sessions of one windowed-attention layer, for tests: a pool of slots and calls over chosen parts.
#pragma once

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "testing/windowed_attention_reference.h"
#include "tests/engine/ops/testing/op_test.h"

namespace t2r::testing {

class WindowedSessions {
 public:
  static constexpr int64_t kGap = 5;  // floats behind each slot, which nothing may touch
  static constexpr float kGapValue = 7.25F;

  // Rows of one session in a call.
  struct Part {
    int slot = 0;
    Mat q, k, v;
    int64_t position = 0;  // of the first row in its session
  };

  WindowedSessions(Backend& backend, const WindowedLayer& layer, int slots)
      : backend_(backend), layer_(layer), slots_(slots) {
    window_floats_ = layer.window_bytes() / 4;
    stride_ = window_floats_ + layer.state_floats() + kGap;
    std::vector<float> zeros(static_cast<size_t>(slots * stride_));
    for (int slot = 0; slot < slots; ++slot) {
      std::fill_n(zeros.begin() + (slot + 1) * stride_ - kGap, kGap, kGapValue);
    }
    pool_ = backend.LoadVector(zeros);
    args_.heads = layer.linear.heads;
    args_.groups = layer.linear.groups;
    args_.head_dim = layer.linear.head_dim;
    args_.map = layer.linear.map;
    args_.window = layer.window;
    args_.sinks = layer.sinks;
    args_.fold = layer.fold;
    args_.rope_features = layer.rope_features;
    args_.window_dtype = layer.window_dtype;
    args_.map.weight = Load(layer.linear.weight);
    args_.map.bias = Load(layer.linear.bias);
    args_.map.query_weight = Load(layer.query_weight);
    args_.map.query_bias = Load(layer.query_bias);
    args_.far_bias = Load(layer.far_bias);
    args_.log_decay = Load(layer.log_decay);
    const bool rotary = !layer.inverse_frequencies.empty();
    if (rotary && !layer.rope_features && layer.window > 0) {
      Mat table(layer.fold, layer.linear.head_dim);
      for (int64_t r = 0; r < layer.fold; ++r) Angles(layer.window + r, &table.at(r, 0));
      args_.fold_cos_sin = Load(table);
    }
    if (rotary && layer.sink_position >= 0) {
      Mat table(1, layer.linear.head_dim);
      Angles(layer.sink_position, &table.at(0, 0));
      args_.sink_cos_sin = Load(table);
      args_.sink_position = layer.sink_position;
    }
    args_.window_state = pool_.f32();
    args_.state = pool_.f32() + window_floats_;
    args_.slot_stride = stride_;
  }

  // One call with a segment a part; returns each part's output rows.
  std::vector<Mat> Run(const std::vector<Part>& parts,
                       LinearAttentionMode mode = LinearAttentionMode::kCausal) {
    const LinearLayer& linear = layer_.linear;
    Batch batch;
    Mat q(0, static_cast<int64_t>(linear.heads) * linear.head_dim);
    Mat k(0, static_cast<int64_t>(linear.groups) * linear.head_dim);
    Mat v(0, k.cols);
    for (const Part& part : parts) {
      batch.segments.push_back({part.slot, static_cast<int32_t>(q.rows),
                                static_cast<int32_t>(part.q.rows), part.position, 0});
      for (int64_t r = 0; r < part.q.rows; ++r) batch.positions.push_back(part.position + r);
      for (const auto& [to, from] :
           {std::pair<Mat*, const Mat*>{&q, &part.q}, {&k, &part.k}, {&v, &part.v}}) {
        to->v.insert(to->v.end(), from->v.begin(), from->v.end());
        to->rows += from->rows;
      }
    }
    batch.tokens.resize(static_cast<size_t>(q.rows));
    const DeviceTensor dq(backend_, q, 1, dtype);
    const DeviceTensor dk(backend_, k, 2, dtype);
    const DeviceTensor dv(backend_, v, 3, dtype);
    const DeviceTensor out(backend_, Mat(q.rows, q.cols), 4, dtype);
    const DeviceTensor cos_sin(backend_, Mat(q.rows, linear.head_dim), 2);
    args_.mode = mode;
    args_.q = dq.view();
    args_.k = dk.view();
    args_.v = dv.view();
    args_.out = out.view();
    args_.cos_sin = layer_.inverse_frequencies.empty() ? Tensor() : cos_sin.view();
    RunOps(backend_, batch, [&] {
      if (args_.cos_sin.data != nullptr) {
        backend_.RopeTable(batch, layer_.inverse_frequencies, 1.0, args_.cos_sin);
      }
      backend_.WindowedAttention(batch, args_);
    });
    const Mat all = out.Read();
    std::vector<Mat> results;
    for (const Segment& s : batch.segments) results.push_back(all.Rows(s.first_row, s.rows));
    return results;
  }

  // Everything of every slot, the gaps included.
  Mat ReadPool() const {
    std::vector<float> host(static_cast<size_t>(slots_ * stride_));
    backend_.CopyToHost(host.data(), pool_.data(), host.size() * sizeof(float));
    Mat m(slots_, stride_);
    m.v.assign(host.begin(), host.end());
    return m;
  }
  // S and z of a slot.
  Mat ReadState(int slot) const {
    const Mat pool = ReadPool();
    Mat m(1, layer_.state_floats());
    m.v.assign(pool.row(slot) + window_floats_, pool.row(slot) + window_floats_ + m.cols);
    return m;
  }
  // A slot's part of the pool, bits and all.
  std::vector<float> ReadSlot(int slot) const {
    std::vector<float> host(static_cast<size_t>(stride_));
    backend_.CopyToHost(host.data(), pool_.f32() + slot * stride_, host.size() * sizeof(float));
    return host;
  }

  DType dtype = DType::kFloat32;  // of q, k, v and the output, in the calls that follow

 private:
  const float* Load(const Mat& values) {
    if (values.v.empty()) return nullptr;
    loaded_.push_back(backend_.LoadVector(values.Floats()));
    return loaded_.back().f32();
  }
  void Angles(int64_t position, double* row) const {
    const size_t n = layer_.inverse_frequencies.size();
    for (size_t i = 0; i < n; ++i) {
      const double angle = static_cast<double>(position) * layer_.inverse_frequencies[i];
      row[i] = std::cos(angle);
      row[n + i] = std::sin(angle);
    }
  }

  Backend& backend_;
  WindowedLayer layer_;
  int64_t slots_;
  int64_t window_floats_ = 0;
  int64_t stride_ = 0;
  Buffer pool_;
  std::vector<Buffer> loaded_;
  WindowedAttentionArgs args_;
};

// What a test's layer shall be like.
struct WindowedCase {
  FeatureMapKind kind = FeatureMapKind::kCodebook;
  int features = 16;
  int d = 8;
  int heads = 2;
  int groups = 1;
  int window = 8;
  int sinks = 0;
  int fold = 1;
  bool rotary = true;
  bool rope_features = false;
  bool decay = false;
  int64_t sink_position = -1;
  DType window_dtype = DType::kFloat32;
};

inline std::ostream& operator<<(std::ostream& os, const WindowedCase& c) {
  constexpr const char* kNames[] = {"t2r", "elu", "rfa", "hedgehog", "codebook", "none"};
  return os << kNames[static_cast<int>(c.kind)] << ", M " << c.features << ", d " << c.d << ", "
            << c.heads << " heads, " << c.groups << " groups, window " << c.window << ", sinks "
            << c.sinks << ", fold " << c.fold << (c.rotary ? ", rotary" : "")
            << (c.rope_features ? ", rope_features" : "") << (c.decay ? ", decay" : "")
            << ", sink_position " << c.sink_position << ", " << NameOf(c.window_dtype);
}

inline constexpr FeatureMapKind kWindowedKinds[] = {
    FeatureMapKind::kT2r,      FeatureMapKind::kElu,      FeatureMapKind::kRfa,
    FeatureMapKind::kHedgehog, FeatureMapKind::kCodebook, FeatureMapKind::kNone};

// Makes layers and inputs.
class WindowedOpTest : public OpTest {
 protected:
  WindowedLayer MakeLayer(const WindowedCase& c) {
    WindowedLayer layer;
    LinearLayer& linear = layer.linear;
    linear.heads = c.heads;
    linear.groups = c.groups;
    linear.head_dim = c.d;
    linear.map.kind = c.kind;
    linear.map.features = c.kind == FeatureMapKind::kElu    ? c.d
                          : c.kind == FeatureMapKind::kNone ? 0
                                                            : c.features;
    const double unit = 1 / std::sqrt(static_cast<double>(c.d));
    linear.map.query_scale = static_cast<float>(unit);
    const int64_t p = linear.map.projected_features();
    const bool codebook = c.kind == FeatureMapKind::kCodebook;
    const double scale = c.kind == FeatureMapKind::kRfa || codebook ? 1.0 : unit;
    if (p > 0) linear.weight = Random(c.groups * p, c.d, scale);
    if (codebook || c.kind == FeatureMapKind::kT2r) linear.bias = Random(c.groups, p, 0.5);
    if (codebook) {
      layer.query_weight = Random(c.groups * p, c.d, 1.0);
      layer.query_bias = Random(c.heads, p, 1.0);
      // Some centroids reach the bound that keeps them from running over.
      for (int h = 0; h < c.heads; ++h) layer.query_bias.at(h, h % p) = 45 + h;
    } else if (c.kind != FeatureMapKind::kNone) {
      layer.far_bias = Random(1, c.heads, 1.0);
      // rfa's features have both signs: the near keys keep the denominator away from 0.
      if (c.kind == FeatureMapKind::kRfa) {
        for (double& bias : layer.far_bias.v) bias = static_cast<float>(bias - 6);
      }
    }
    if (c.decay) {
      layer.log_decay = Random(1, c.groups, 0.1);
      for (double& value : layer.log_decay.v) value = -std::abs(value);
    }
    layer.window = c.window;
    layer.sinks = c.sinks;
    layer.fold = c.fold;
    layer.rope_features = c.rope_features;
    layer.sink_position = c.sink_position;
    layer.window_dtype = c.window_dtype;
    if (c.rotary) {
      for (int i = 0; i < c.d / 2; ++i) {
        layer.inverse_frequencies.push_back(std::pow(10000.0, -2.0 * i / c.d));
      }
    }
    return layer;
  }

  WindowedSessions::Part MakePart(const WindowedLayer& layer, int slot, int64_t rows,
                                  int64_t position = 0) {
    const LinearLayer& linear = layer.linear;
    const int64_t keys = static_cast<int64_t>(linear.groups) * linear.head_dim;
    return {slot, Random(rows, static_cast<int64_t>(linear.heads) * linear.head_dim, 1.5),
            Random(rows, keys, 1.5), Random(rows, keys), position};
  }

  static WindowedSessions::Part Piece(const WindowedSessions::Part& all, int slot, int64_t at,
                                      int64_t rows) {
    return {slot, all.q.Rows(at, rows), all.k.Rows(at, rows), all.v.Rows(at, rows),
            all.position + at};
  }
};

}  // namespace t2r::testing
