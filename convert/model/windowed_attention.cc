#include "convert/model/windowed_attention.h"

#include <torch/torch.h>

#include <algorithm>
#include <limits>
#include <vector>

namespace t2r::convert {
namespace {

using torch::Tensor;
using torch::indexing::None;
using torch::indexing::Slice;

// Caps of the far weights' exponents over the largest near one. A map's own features may be any
// size, so λ − e* has a cap too, far beyond where the near keys count: sums stay finite.
constexpr double kFarCap = 40, kScaleCap = 60;

// How T tokens are cut: N chunks of K queries; the band of a chunk is it and the p chunks before.
struct Chunks {
  int64_t batch, length, groups, share, d;
  int64_t size, count, back;

  int64_t band() const { return (back + 1) * size; }
  int64_t rows() const { return groups * batch * count; }

  // x [B, T, …] with zeros after its last token: [B, N·K, …].
  Tensor Pad(const Tensor& x) const {
    const int64_t missing = size * count - length;
    if (missing == 0) return x;
    std::vector<int64_t> amounts(static_cast<size_t>(2 * (x.dim() - 2)), 0);
    amounts.insert(amounts.end(), {0, missing});
    return torch::constant_pad_nd(x, amounts);
  }
  // Queries [B, T, G, R, d] as [G, B, N, R, K, d].
  Tensor Queries(const Tensor& q) const {
    return Pad(q).view({batch, count, size, groups, share, d}).permute({3, 0, 1, 4, 2, 5});
  }
  // Keys, values or features [B, T, G, c] as [G, B, N, K, c].
  Tensor Keys(const Tensor& x) const {
    return Pad(x).view({batch, count, size, groups, x.size(3)}).permute({3, 0, 1, 2, 4});
  }
  // The band of each chunk of [G, B, N, K, c]: [G·B·N, band, c]; zeros before the first token.
  Tensor Bands(const Tensor& chunks) const {
    const int64_t c = chunks.size(4);
    if (back == 0) return chunks.reshape({rows(), size, c});
    const Tensor padded = torch::constant_pad_nd(chunks, {0, 0, 0, 0, back, 0});
    std::vector<Tensor> parts;
    for (int64_t i = 0; i <= back; ++i) parts.push_back(padded.narrow(2, i, count));
    return torch::cat(parts, 3).view({rows(), band(), c});
  }
};

Chunks CutIntoChunks(const Tensor& q, const LinearSizes& sizes) {
  Chunks c{};
  c.batch = q.size(0);
  c.length = q.size(1);
  c.groups = q.size(2);
  c.share = q.size(3);
  c.d = q.size(4);
  c.size = std::min<int64_t>(c.length, sizes.window > 0 && sizes.window < 64 ? 32 : 64);
  c.count = (c.length + c.size - 1) / c.size;
  // F(i) ≥ i − (w + C − 2).
  const int64_t reach = sizes.window == 0 ? 0 : int64_t{sizes.window} + sizes.fold - 2;
  c.back = std::min((reach + c.size - 1) / c.size, c.count - 1);
  return c;
}

// Who sees whom: positions of a chunk's queries and of its band's keys, and each query's F(i).
struct Positions {
  Tensor query;   // [N, K, 1]
  Tensor key;     // [N, 1, band]
  Tensor folded;  // F(i) [N, K, 1]
  Tensor base;    // the band's first key [N, 1, 1]
};

Positions PositionsOf(const Chunks& c, const LinearSizes& sizes, torch::Device device) {
  const auto options = torch::TensorOptions(torch::kInt64).device(device);
  Positions p;
  p.query = torch::arange(c.count * c.size, options).view({c.count, c.size, 1});
  p.base = (torch::arange(c.count, options) - c.back).mul(c.size).view({c.count, 1, 1});
  p.key = p.base + torch::arange(c.band(), options).view({1, 1, c.band()});
  p.folded =
      sizes.window == 0
          ? p.query + 1
          : (p.query - sizes.window + 1).clamp_min(0).div(sizes.fold, "floor").mul(sizes.fold);
  return p;
}

// The far part: features, and what they give within the band and from the state before it.
class FarPart {
 public:
  FarPart(const LinearAttentionConfig& config, const LinearSizes& sizes,
          const FeatureMapTensors& map, const AttentionInput& in, const Chunks& c,
          const Positions& positions)
      : map_(map), c_(c), positions_(positions) {
    const Tensor& keys = config.rope_features ? in.k : in.plain_k;
    Tensor features =
        ApplyFeatureMap(config, map, keys.permute({2, 0, 1, 3}).reshape({c.groups, -1, c.d}))
            .view({c.groups, c.batch, c.length, -1});
    if (sizes.sinks > 0) {
      const int64_t sinks = std::min<int64_t>(sizes.sinks, c.length);
      features =
          torch::constant_pad_nd(features.narrow(2, sinks, c.length - sinks), {0, 0, sinks, 0});
    }
    keys_ = c.Keys(features.permute({1, 2, 0, 3}));
  }

  // log φ of the codebook, or φ of another map, without bias: [G, B·N, R, K, M].
  Tensor QueryFeatures(const LinearAttentionConfig& config, const AttentionInput& in) const {
    const Tensor& q = config.rope_features ? in.q : in.plain_q;
    const Tensor rows = (c_.Queries(q) * config.query_scale).reshape({c_.groups, -1, c_.d});
    const bool codebook = config.feature_map == FeatureMapKind::kCodebook;
    Tensor features = codebook ? torch::bmm(rows, map_.query_weight.transpose(1, 2))
                               : ApplyFeatureMap(config, map_, rows);
    features = features.view({c_.groups, c_.batch * c_.count, c_.share, c_.size, -1});
    if (!codebook) return features;
    return features + map_.query_bias.view({c_.groups, 1, c_.share, 1, -1});
  }

  // log of every centroid's mass at every query, without a decay: [G, B·N, 1, K, M].
  Tensor LogMass() const {
    const int64_t m = keys_.size(4);
    return keys_.detach()
        .reshape({c_.groups, c_.batch, c_.count * c_.size, m})
        .cumsum(2)
        .log()
        .view({c_.groups, c_.batch * c_.count, 1, c_.size, m});
  }

  // Weights of the band's keys by features `phi` [G·B·N, R·K, M]: [G, B, N, R, K, band].
  Tensor BandWeights(const Tensor& phi) const {
    const Tensor products = torch::bmm(phi, c_.Bands(keys_).transpose(1, 2))
                                .view({c_.groups, c_.batch, c_.count, c_.share, c_.size, -1});
    const Tensor seen = (positions_.key < positions_.folded).to(phi.dtype()).unsqueeze(1);
    if (!map_.log_decay.defined()) return products * seen;
    const Tensor age = (positions_.folded - 1 - positions_.key).clamp_min(0).unsqueeze(1);
    return products * (Decay(age.unsqueeze(0)) * seen).unsqueeze(1);
  }

  // Adds what the state before the band gives to `sums` [G·B·N, R·K, d + 1].
  Tensor AddState(const Tensor& sums, const Tensor& phi, const Tensor& values) const {
    const int64_t before = c_.count - c_.back - 1;  // chunks that some band leaves behind
    if (before < 1) return sums;
    const int64_t m = keys_.size(4), width = c_.d + 1;
    Tensor keys = keys_.narrow(2, 0, before);
    if (map_.log_decay.defined()) {
      const Tensor age = c_.size - 1 - torch::arange(c_.size, positions_.query.options());
      keys = keys * Decay(age.view({1, 1, 1, c_.size, 1}));
    }
    const Tensor added = torch::matmul(keys.transpose(3, 4), values.narrow(2, 0, before))
                             .permute({0, 2, 1, 3, 4})
                             .reshape({c_.groups, before, c_.batch * m * width});
    Tensor ends;  // the state at each chunk's end
    if (map_.log_decay.defined()) {
      const Tensor chunk = torch::arange(before, positions_.query.options());
      const Tensor ago = chunk.unsqueeze(1) - chunk;
      ends = torch::bmm(
          Decay((ago * c_.size).clamp_min(0).unsqueeze(0)) * (ago >= 0).to(phi.dtype()), added);
    } else {
      ends = added.cumsum(1);
    }
    const Tensor states = torch::constant_pad_nd(
        ends.view({c_.groups, before, c_.batch, m, width}).permute({0, 2, 1, 3, 4}),
        {0, 0, 0, 0, c_.back + 1, 0});
    Tensor rows = phi;
    if (map_.log_decay.defined()) {
      // [G, 1, N, 1, K, 1]
      const Tensor age = (positions_.folded - positions_.base).clamp_min(0);
      const Tensor factor = Decay(age.view({1, c_.count, 1, c_.size, 1})).unsqueeze(1);
      rows = (phi.view({c_.groups, c_.batch, c_.count, c_.share, c_.size, m}) * factor)
                 .view(phi.sizes());
    }
    return torch::baddbmm(sums, rows, states.reshape({c_.rows(), m, width}));
  }

 private:
  Tensor Decay(const Tensor& age) const { return DecayFactors(map_.log_decay, age); }

  const FeatureMapTensors& map_;
  const Chunks& c_;
  const Positions& positions_;
  Tensor keys_;  // f(k) [G, B, N, K, M], 0 at sinks and padding
};

}  // namespace

bool IsWindowed(const LinearAttentionConfig& config, const LinearSizes& sizes) {
  return sizes.window > 0 || config.feature_map == FeatureMapKind::kCodebook;
}

Tensor WindowedAttention(const LinearAttentionConfig& config, const LinearSizes& sizes,
                         const FeatureMapTensors& map, const AttentionInput& in) {
  const Chunks c = CutIntoChunks(in.q, sizes);
  const Positions positions = PositionsOf(c, sizes, in.q.device());
  const double infinity = std::numeric_limits<double>::infinity();
  // A column of ones beside the values: the denominators come out of the same products.
  const Tensor values = c.Keys(torch::constant_pad_nd(in.v, {0, 1}, 1.0));
  const int64_t sinks = std::min<int64_t>(sizes.sinks, c.length);
  const std::vector<int64_t> by_row{c.groups, c.batch * c.count, c.share, c.size, 1};

  Tensor near, first, highest;  // scores of the band's keys and of the sinks; e*
  if (sizes.window > 0) {
    const Tensor rows = (c.Queries(in.q) * config.query_scale).reshape({c.rows(), -1, c.d});
    const Tensor seen = (positions.key >= positions.folded) & (positions.key <= positions.query) &
                        (positions.key >= sinks);
    const Tensor mask = torch::zeros(seen.sizes(), in.q.options().requires_grad(false))
                            .masked_fill(~seen, -infinity)
                            .unsqueeze(1);
    near = torch::bmm(rows, c.Bands(c.Keys(in.k)).transpose(1, 2))
               .view({c.groups * c.batch, c.count, c.share, c.size, c.band()}) +
           mask;
    highest = near.detach().amax(-1, /*keepdim=*/true);
    if (sinks > 0) {
      const Tensor sink_rows =
          in.sink_q.defined()
              ? (c.Queries(in.sink_q) * config.query_scale).reshape({c.groups * c.batch, -1, c.d})
              : rows.view({c.groups * c.batch, -1, c.d});
      const Tensor keys = in.k.narrow(1, 0, sinks).permute({2, 0, 3, 1});
      const Tensor hidden = torch::arange(sinks, positions.query.options()) > positions.query;
      first = torch::bmm(sink_rows, keys.reshape({c.groups * c.batch, c.d, sinks}))
                  .view({c.groups * c.batch, c.count, c.share, c.size, sinks})
                  .masked_fill(hidden.unsqueeze(1), -infinity);
      highest = torch::maximum(highest, first.detach().amax(-1, /*keepdim=*/true));
    }
  }

  Tensor weights;  // of the band's keys [G·B·N, R·K, band]
  if (near.defined()) weights = (near - highest).exp().view({c.rows(), -1, c.band()});
  const Tensor bands = c.Bands(values);
  Tensor sums;
  if (config.feature_map == FeatureMapKind::kNone) {
    sums = torch::bmm(weights, bands);
  } else {
    const FarPart far(config, sizes, map, in, c, positions);
    Tensor phi = far.QueryFeatures(config, in);
    if (config.feature_map == FeatureMapKind::kCodebook) {
      const Tensor shift = highest.defined()
                               ? highest.view(by_row)
                               : (phi.detach() + far.LogMass()).amax(-1, /*keepdim=*/true);
      phi = (highest.defined() ? (phi - shift).clamp_max(kFarCap) : phi - shift).exp();
    } else if (highest.defined()) {
      const Tensor scale = map.far_bias.view({c.groups, 1, c.share, 1, 1});
      phi = phi * (scale - highest.view(by_row)).clamp_max(kScaleCap).exp();
    }
    phi = phi.reshape({c.rows(), c.share * c.size, -1});
    const Tensor far_weights = far.BandWeights(phi).view({c.rows(), c.share * c.size, -1});
    weights = weights.defined() ? weights + far_weights : far_weights;
    sums = far.AddState(torch::bmm(weights, bands), phi, values);
  }
  if (first.defined()) {
    const Tensor first_values =
        values.reshape({c.groups * c.batch, c.count * c.size, c.d + 1}).narrow(1, 0, sinks);
    const Tensor first_weights = (first - highest).exp().view({c.groups * c.batch, -1, sinks});
    sums = sums.view({c.groups * c.batch, -1, c.d + 1});
    sums = torch::baddbmm(sums, first_weights, first_values);
  }
  sums = sums.view({c.groups, c.batch, c.count, c.share, c.size, c.d + 1});
  // Rows of padding may see nothing. Of rfa, whose features have either sign, a sum may be
  // negative.
  Tensor den = sums.narrow(-1, c.d, 1);
  den = den.masked_fill(den == 0, 1.0);
  return (sums.narrow(-1, 0, c.d) / den)
      .permute({1, 2, 4, 0, 3, 5})
      .reshape({c.batch, c.count * c.size, c.groups * c.share * c.d})
      .narrow(1, 0, c.length);
}

}  // namespace t2r::convert
