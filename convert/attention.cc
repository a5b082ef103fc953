#include "convert/attention.h"

#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "convert/error.h"

namespace t2r::convert {
namespace {

using torch::Tensor;
using torch::indexing::None;
using torch::indexing::Slice;

// x [G, N, d] through the map's matrix [G, m, d].
Tensor Project(const Tensor& x, const Tensor& weight) {
  return torch::bmm(x, weight.transpose(1, 2));
}

}  // namespace

Tensor ApplyFeatureMap(const LinearAttentionConfig& config, const FeatureMapTensors& map,
                       const Tensor& x) {
  switch (config.feature_map) {
    case FeatureMapKind::kT2r:
      return torch::relu(torch::baddbmm(map.bias.unsqueeze(1), x, map.weight.transpose(1, 2)));
    case FeatureMapKind::kElu:
      return torch::elu(x) + 1.0;
    case FeatureMapKind::kRfa: {
      const Tensor norm = x.norm(2, {-1}, /*keepdim=*/true).clamp_min(1e-12);
      const Tensor projected = Project(x / norm, map.weight);
      const double scale = 1.0 / std::sqrt(config.feature_size / 2.0);
      return torch::cat({projected.sin(), projected.cos()}, -1) * scale;
    }
    case FeatureMapKind::kHedgehog: {
      const Tensor projected = Project(x, map.weight);
      return torch::cat({projected.softmax(-1), (-projected).softmax(-1)}, -1);
    }
  }
  throw ConvertError("unknown feature map");
}

Tensor LinearAttention(const LinearAttentionConfig& config, const FeatureMapTensors& map,
                       const Tensor& q, const Tensor& k, const Tensor& v, int64_t chunk) {
  const int64_t batch = q.size(0), length = q.size(1), groups = q.size(2), share = q.size(3),
                d = q.size(4);
  const int64_t c = chunk > 0 ? chunk : std::min<int64_t>(length, 64);
  const int64_t chunks = (length + c - 1) / c;
  const int64_t padding = chunks * c - length;
  // Rows after the last token: nothing before them can see them.
  const auto pad = [padding](const Tensor& x, int64_t axes_after) {
    if (padding == 0) return x;
    std::vector<int64_t> amounts(static_cast<size_t>(2 * axes_after), 0);
    amounts.insert(amounts.end(), {0, padding});
    return torch::constant_pad_nd(x, amounts);
  };
  const int64_t n = batch * chunks;  // chunks of all sequences
  // Rows of a chunk: its C tokens for each of the R query heads.
  const Tensor queries = (pad(q, 3) * config.query_scale)
                             .view({n, c, groups, share, d})
                             .permute({2, 0, 3, 1, 4})
                             .reshape({groups, n * share * c, d});
  const Tensor keys =
      pad(k, 2).view({n, c, groups, d}).permute({2, 0, 1, 3}).reshape({groups, n * c, d});
  const Tensor phi_q =
      ApplyFeatureMap(config, map, queries).view({groups * n, share * c, config.feature_size});
  const Tensor phi_k =
      ApplyFeatureMap(config, map, keys).view({groups * n, c, config.feature_size});
  // A column of ones beside the values: the denominators come out of the same products.
  const Tensor values = torch::constant_pad_nd(pad(v, 2), {0, 1}, 1.0)
                            .view({n, c, groups, d + 1})
                            .permute({2, 0, 1, 3})
                            .reshape({groups * n, c, d + 1});

  const Tensor mask = torch::ones({c, c}, q.options()).tril().repeat({share, 1});
  Tensor sums = torch::bmm(torch::bmm(phi_q, phi_k.transpose(1, 2)) * mask, values);
  if (chunks > 1) {
    const Tensor added = torch::bmm(phi_k.transpose(1, 2), values)
                             .view({groups, batch, chunks, config.feature_size, d + 1});
    // S and z before each chunk.
    const Tensor before = torch::constant_pad_nd(
        added.index({Slice(), Slice(), Slice(None, chunks - 1)}).cumsum(2), {0, 0, 0, 0, 1, 0});
    sums = torch::baddbmm(sums, phi_q, before.view({groups * n, config.feature_size, d + 1}));
  }
  const Tensor weight = sums.narrow(-1, d, 1);
  const Tensor den =
      config.normalizer == Normalizer::kClamp ? weight.clamp_min(config.eps) : weight + config.eps;
  return (sums.narrow(-1, 0, d) / den)
      .view({groups, n, share, c, d})
      .permute({1, 3, 0, 2, 4})
      .reshape({batch, chunks * c, groups * share * d})
      .narrow(1, 0, length);
}

Tensor SoftmaxAttention(const Tensor& q, const Tensor& k, const Tensor& v) {
  const int64_t batch = q.size(0), length = q.size(1), groups = q.size(2), share = q.size(3),
                d = q.size(4);
  const double scale = 1.0 / std::sqrt(static_cast<double>(d));
  const Tensor queries =
      (q * scale).permute({0, 2, 3, 1, 4}).reshape({batch * groups, share * length, d});
  const Tensor keys = k.permute({0, 2, 3, 1}).reshape({batch * groups, d, length});
  const Tensor values = v.permute({0, 2, 1, 3}).reshape({batch * groups, length, d});
  const Tensor mask = torch::full({length, length}, -std::numeric_limits<float>::infinity(),
                                  q.options().requires_grad(false))
                          .triu(1)
                          .repeat({share, 1});
  const Tensor weights = torch::baddbmm(mask, queries, keys).softmax(-1);
  return torch::bmm(weights, values)
      .view({batch, groups, share, length, d})
      .permute({0, 3, 1, 2, 4})
      .reshape({batch, length, groups * share * d});
}

}  // namespace t2r::convert
