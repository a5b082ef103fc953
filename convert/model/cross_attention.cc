#include "convert/model/cross_attention.h"

#include <torch/torch.h>

#include <cmath>
#include <limits>

namespace t2r::convert {

using torch::Tensor;

Tensor SoftmaxAttentionOver(const Tensor& q, const Tensor& k, const Tensor& v,
                            const Tensor& counted) {
  const int64_t batch = q.size(0), length = q.size(1), groups = q.size(2), share = q.size(3),
                d = q.size(4), keys = k.size(1);
  const double scale = 1.0 / std::sqrt(static_cast<double>(d));
  const Tensor queries =
      (q * scale).permute({0, 2, 3, 1, 4}).reshape({batch * groups, share * length, d});
  const Tensor scores = torch::bmm(queries, k.permute({0, 2, 3, 1}).reshape({-1, d, keys}))
                            .view({batch, groups, share * length, keys})
                            .masked_fill((counted == 0).view({batch, 1, 1, keys}),
                                         -std::numeric_limits<float>::infinity());
  const Tensor values = v.permute({0, 2, 1, 3}).reshape({batch * groups, keys, d});
  return torch::bmm(scores.softmax(-1).view({batch * groups, share * length, keys}), values)
      .view({batch, groups, share, length, d})
      .permute({0, 3, 1, 2, 4})
      .reshape({batch, length, groups * share * d});
}

Tensor LinearAttentionOver(const LinearAttentionConfig& config, const FeatureMapTensors& map,
                           const Tensor& q, const Tensor& k, const Tensor& v,
                           const Tensor& counted) {
  const int64_t batch = q.size(0), length = q.size(1), groups = q.size(2), share = q.size(3),
                d = q.size(4), keys = k.size(1);
  const Tensor queries = (q * config.query_scale)
                             .permute({2, 0, 1, 3, 4})
                             .reshape({groups, batch * length * share, d});
  // Of the codebook, log φ.
  const Tensor phi_q = (config.feature_map == FeatureMapKind::kCodebook
                            ? torch::bmm(queries, map.query_weight.transpose(1, 2))
                                      .view({groups, batch * length, share, config.feature_size}) +
                                  map.query_bias.view({groups, 1, share, config.feature_size})
                            : ApplyFeatureMap(config, map, queries))
                           .reshape({groups * batch, length * share, config.feature_size});
  Tensor phi_k =
      ApplyFeatureMap(config, map, k.permute({2, 0, 1, 3}).reshape({groups, batch * keys, d}))
          .view({groups, batch, keys, config.feature_size}) *
      counted.view({1, batch, keys, 1});
  if (map.log_decay.defined()) {  // as the source's last token sees them
    const Tensor age =
        counted.sum(1, /*keepdim=*/true) - 1 - torch::arange(keys, counted.options());
    phi_k = phi_k * DecayFactors(map.log_decay, age.clamp_min(0).view({1, batch, keys, 1}));
  }
  // A column of ones beside the values: S and z are one product.
  const Tensor values = torch::constant_pad_nd(v, {0, 1}, 1.0)
                            .permute({2, 0, 1, 3})
                            .reshape({groups * batch, keys, d + 1});
  const Tensor state = torch::bmm(
      phi_k.reshape({groups * batch, keys, config.feature_size}).transpose(1, 2), values);
  if (config.feature_map == FeatureMapKind::kCodebook) {
    // Centroids of mass z and mean value S / z, in the log domain
    // (engine/ops/windowed_attention.h).
    const Tensor mass = state.narrow(-1, d, 1).clamp_min(std::numeric_limits<float>::min());
    const Tensor weights = (phi_q + mass.log().transpose(1, 2)).softmax(-1);
    return torch::bmm(weights, state.narrow(-1, 0, d) / mass)
        .view({groups, batch, length, share, d})
        .permute({1, 2, 0, 3, 4})
        .reshape({batch, length, groups * share * d});
  }
  const Tensor sums = torch::bmm(phi_q, state);
  const Tensor weight = sums.narrow(-1, d, 1);
  const Tensor den =
      config.normalizer == Normalizer::kClamp ? weight.clamp_min(config.eps) : weight + config.eps;
  return (sums.narrow(-1, 0, d) / den)
      .view({groups, batch, length, share, d})
      .permute({1, 2, 0, 3, 4})
      .reshape({batch, length, groups * share * d});
}

}  // namespace t2r::convert
