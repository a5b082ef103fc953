// Sessions of one linear-attention layer, for tests: a pool of slots and calls over chosen parts.
#pragma once

#include <vector>

#include "tests/engine/ops/testing/op_test.h"

namespace t2r::testing {

class LinearSessions {
 public:
  // Rows of one session in a call.
  struct Part {
    int slot = 0;
    Mat q, k, v;
    int64_t position = 0;  // of the first row in its session
  };

  // The pool's slots, and the gaps between them, start with the values of `pool`
  // [slots, state_floats + gap].
  LinearSessions(Backend& backend, const LinearLayer& layer, const Mat& pool)
      : backend_(backend), layer_(layer), slots_(pool.rows), stride_(pool.cols) {
    pool_ = backend.LoadVector(pool.Floats());
    if (layer.weight.rows > 0) weight_ = backend.LoadVector(layer.weight.Floats());
    if (layer.bias.rows > 0) bias_ = backend.LoadVector(layer.bias.Floats());
  }

  // One call with a segment a part; returns each part's output rows. What the mode does not use of
  // the parts is given all the same, and must have no effect.
  std::vector<Mat> Run(const std::vector<Part>& parts,
                       LinearAttentionMode mode = LinearAttentionMode::kCausal) {
    Batch batch;
    Mat q(0, layer_.heads * layer_.width());
    Mat k(0, layer_.groups * layer_.width());
    Mat v(0, static_cast<int64_t>(layer_.groups) * layer_.head_dim);
    for (const Part& part : parts) {
      batch.segments.push_back({part.slot, static_cast<int32_t>(q.rows),
                                static_cast<int32_t>(part.q.rows), part.position, 0});
      for (const auto& [to, from] :
           {std::pair<Mat*, const Mat*>{&q, &part.q}, {&k, &part.k}, {&v, &part.v}}) {
        to->v.insert(to->v.end(), from->v.begin(), from->v.end());
        to->rows += from->rows;
      }
      batch.tokens.resize(q.rows);
      batch.positions.resize(q.rows);
    }
    const DeviceTensor dq(backend_, q, 1, dtype);
    const DeviceTensor dk(backend_, k, 2, dtype);
    const DeviceTensor dv(backend_, v, 3, dtype);
    const DeviceTensor out(
        backend_, Mat(q.rows, static_cast<int64_t>(layer_.heads) * layer_.head_dim), 4, dtype);
    Call(batch, dq.view(), dk.view(), dv.view(), out.view(), mode);
    const Mat all = out.Read();
    std::vector<Mat> results;
    for (const Segment& s : batch.segments) results.push_back(all.Rows(s.first_row, s.rows));
    return results;
  }

  void Call(const Batch& batch, Tensor q, Tensor k, Tensor v, Tensor out,
            LinearAttentionMode mode = LinearAttentionMode::kCausal) {
    LinearAttentionArgs args;
    args.mode = mode;
    args.heads = layer_.heads;
    args.groups = layer_.groups;
    args.head_dim = layer_.head_dim;
    args.map = layer_.map;
    args.map.weight = weight_.f32();
    args.map.bias = bias_.f32();
    args.normalizer = layer_.normalizer;
    args.eps = static_cast<float>(layer_.eps);
    args.q = q;
    args.k = k;
    args.v = v;
    args.out = out;
    args.state = pool_.f32();
    args.slot_stride = stride_;
    RunOps(backend_, batch, [&] { backend_.LinearAttention(batch, args); });
  }

  Mat ReadPool() const {
    std::vector<float> host(slots_ * stride_);
    backend_.CopyToHost(host.data(), pool_.data(), host.size() * sizeof(float));
    Mat m(slots_, stride_);
    m.v.assign(host.begin(), host.end());
    return m;
  }
  // The state of a slot, without the gap after it.
  Mat ReadState(int slot) const {
    const Mat pool = ReadPool();
    Mat m(1, layer_.state_floats());
    m.v.assign(pool.row(slot), pool.row(slot) + m.cols);
    return m;
  }

  DType dtype = DType::kFloat32;  // of q, k, v and the output, in the calls that follow

 private:
  Backend& backend_;
  LinearLayer layer_;
  int64_t slots_;
  int64_t stride_;
  Buffer pool_;
  Buffer weight_;
  Buffer bias_;
};

inline constexpr FeatureMapKind kKinds[] = {FeatureMapKind::kT2r, FeatureMapKind::kElu,
                                            FeatureMapKind::kRfa, FeatureMapKind::kHedgehog};
inline constexpr const char* kKindNames[] = {"t2r", "elu", "rfa", "hedgehog"};

// Makes layers and inputs.
class LinearOpTest : public OpTest {
 protected:
  LinearLayer MakeLayer(FeatureMapKind kind, int features, int d, int heads, int groups,
                        Normalizer normalizer, bool folded) {
    LinearLayer layer;
    layer.heads = heads;
    layer.groups = groups;
    layer.head_dim = d;
    layer.map.kind = kind;
    layer.map.features = kind == FeatureMapKind::kElu ? d : features;
    layer.map.query_scale = static_cast<float>(1 / std::sqrt(static_cast<double>(d)));
    layer.map.folded = folded;
    layer.normalizer = normalizer;
    layer.eps = normalizer == Normalizer::kClamp ? static_cast<double>(1e-2F) : 1e-6F;
    const int64_t p = layer.map.projected_features();
    // An rfa projection's rows are standard normal; the others keep pre-activations near 1.
    const double scale = kind == FeatureMapKind::kRfa ? 1.0 : 1 / std::sqrt(static_cast<double>(d));
    if (p > 0 && !folded) layer.weight = Random(groups * p, d, scale);
    if (kind == FeatureMapKind::kT2r && !folded) layer.bias = Random(groups, features, 0.5);
    return layer;
  }

  LinearSessions::Part MakePart(const LinearLayer& layer, int slot, int64_t rows,
                                int64_t position = 0) {
    return {slot, Random(rows, layer.heads * layer.width()),
            Random(rows, layer.groups * layer.width()),
            Random(rows, static_cast<int64_t>(layer.groups) * layer.head_dim), position};
  }

  LinearSessions Sessions(const LinearLayer& layer, int slots) {
    return LinearSessions(*backend_, layer, Mat(slots, layer.state_floats() + 8));
  }
};

}  // namespace t2r::testing
