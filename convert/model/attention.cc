#include "convert/model/attention.h"

#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "convert/error.h"
#include "convert/model/recurrent_kernel.h"

namespace t2r::convert {
namespace {

using torch::Tensor;
using torch::indexing::None;
using torch::indexing::Slice;

// x [G, N, d] through the map's matrix [G, m, d].
Tensor Project(const Tensor& x, const Tensor& weight) {
  return torch::bmm(x, weight.transpose(1, 2));
}

// Linear attention over features by the recurrence (recurrent_kernel.h); CPU, float32.
// Inputs and outputs have the shapes given there.
class RecurrentAttention : public torch::autograd::Function<RecurrentAttention> {
 public:
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& phi_q,
                        const Tensor& phi_k, const Tensor& v, bool clamp, double eps) {
    RecurrentShape shape;
    shape.groups = phi_q.size(0);
    shape.batch = phi_q.size(1);
    shape.length = phi_q.size(2);
    shape.share = phi_q.size(3);
    shape.features = phi_q.size(4);
    shape.head_dim = v.size(3);
    shape.clamp = clamp;
    shape.eps = static_cast<float>(eps);
    Tensor y = torch::empty({shape.batch, shape.length, shape.groups, shape.share, shape.head_dim},
                            v.options());
    Tensor weight =
        torch::empty({shape.groups, shape.batch, shape.length, shape.share}, v.options());
    RecurrentForward(shape, phi_q.data_ptr<float>(), phi_k.data_ptr<float>(), v.data_ptr<float>(),
                     y.data_ptr<float>(), weight.data_ptr<float>());
    context->save_for_backward({phi_q, phi_k, v, y, weight});
    context->saved_data["clamp"] = clamp;
    context->saved_data["eps"] = eps;
    return y;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const Tensor &phi_q = saved[0], &phi_k = saved[1], &v = saved[2], &y = saved[3],
                 &weight = saved[4];
    const Tensor dy = gradients[0].contiguous();
    RecurrentShape shape;
    shape.groups = phi_q.size(0);
    shape.batch = phi_q.size(1);
    shape.length = phi_q.size(2);
    shape.share = phi_q.size(3);
    shape.features = phi_q.size(4);
    shape.head_dim = v.size(3);
    shape.clamp = context->saved_data["clamp"].toBool();
    shape.eps = static_cast<float>(context->saved_data["eps"].toDouble());
    Tensor dphi_q = torch::empty_like(phi_q), dphi_k = torch::empty_like(phi_k),
           dv = torch::empty_like(v);
    RecurrentBackward(shape, phi_q.data_ptr<float>(), phi_k.data_ptr<float>(), v.data_ptr<float>(),
                      y.data_ptr<float>(), weight.data_ptr<float>(), dy.data_ptr<float>(),
                      dphi_q.data_ptr<float>(), dphi_k.data_ptr<float>(), dv.data_ptr<float>());
    return {dphi_q, dphi_k, dv, Tensor(), Tensor()};
  }
};

}  // namespace

Tensor DecayFactors(const Tensor& log_decay, const Tensor& age) {
  std::vector<int64_t> shape(static_cast<size_t>(age.dim()), 1);
  shape[0] = -1;
  return (log_decay.view(shape) * age).exp();
}

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
      const double scale = 1.0 / std::sqrt(static_cast<double>(map.weight.size(1)));
      return torch::cat({projected.sin(), projected.cos()}, -1) * scale;
    }
    case FeatureMapKind::kHedgehog: {
      const Tensor projected = Project(x, map.weight);
      return torch::cat({projected.softmax(-1), (-projected).softmax(-1)}, -1);
    }
    case FeatureMapKind::kCodebook:
      return torch::baddbmm(map.bias.unsqueeze(1), x, map.weight.transpose(1, 2)).softmax(-1);
    case FeatureMapKind::kNone:
      break;
  }
  throw ConvertError("unknown feature map");
}

Tensor ChunkedLinearAttention(const LinearAttentionConfig& config, const FeatureMapTensors& map,
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
      ApplyFeatureMap(config, map, queries).reshape({groups * n, share * c, config.feature_size});
  const Tensor phi_k =
      ApplyFeatureMap(config, map, keys).reshape({groups * n, c, config.feature_size});
  // A column of ones beside the values: the denominators come out of the same products.
  const Tensor values = torch::constant_pad_nd(pad(v, 2), {0, 1}, 1.0)
                            .view({n, c, groups, d + 1})
                            .permute({2, 0, 1, 3})
                            .reshape({groups * n, c, d + 1});

  const bool decays = map.log_decay.defined();
  const Tensor place = torch::arange(c, q.options().requires_grad(false).dtype(torch::kInt64));
  Tensor mask = torch::ones({c, c}, q.options()).tril().view({1, 1, 1, c, c});
  if (decays) {
    const Tensor age = (place.unsqueeze(1) - place).clamp_min(0);
    mask = mask * DecayFactors(map.log_decay, age.view({1, 1, 1, c, c}));
  }
  const Tensor weights =
      torch::bmm(phi_q, phi_k.transpose(1, 2)).view({groups, n, share, c, c}) * mask;
  Tensor sums = torch::bmm(weights.view({groups * n, share * c, c}), values);
  if (chunks > 1) {
    Tensor last = phi_k, rows = phi_q;  // as the chunk's end and the state before it see them
    if (decays) {
      const auto by_place = [&](const Tensor& x, const Tensor& age) {
        return (x.view({groups, n, -1, c, config.feature_size}) *
                DecayFactors(map.log_decay, age.view({1, 1, 1, c, 1})))
            .view(x.sizes());
      };
      last = by_place(phi_k, c - 1 - place);
      rows = by_place(phi_q, place + 1);
    }
    const Tensor added = torch::bmm(last.transpose(1, 2), values)
                             .view({groups, batch, chunks, config.feature_size, d + 1})
                             .index({Slice(), Slice(), Slice(None, chunks - 1)});
    Tensor ends;  // S and z at each chunk's end
    if (decays) {
      const Tensor index = torch::arange(chunks - 1, place.options());
      const Tensor ago = index.unsqueeze(1) - index;
      const Tensor factors = DecayFactors(map.log_decay, (ago * c).clamp_min(0).unsqueeze(0)) *
                             (ago >= 0).to(q.dtype());
      ends = torch::matmul(factors.unsqueeze(1), added.flatten(3)).view(added.sizes());
    } else {
      ends = added.cumsum(2);
    }
    const Tensor before = torch::constant_pad_nd(ends, {0, 0, 0, 0, 1, 0});
    sums = torch::baddbmm(sums, rows, before.view({groups * n, config.feature_size, d + 1}));
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

Tensor RecurrentLinearAttention(const LinearAttentionConfig& config, const FeatureMapTensors& map,
                                const Tensor& q, const Tensor& k, const Tensor& v) {
  const int64_t batch = q.size(0), length = q.size(1), groups = q.size(2), share = q.size(3),
                d = q.size(4);
  const int64_t rows = batch * length;
  const Tensor queries =
      (q * config.query_scale).permute({2, 0, 1, 3, 4}).reshape({groups, rows * share, d});
  const Tensor keys = k.permute({2, 0, 1, 3}).reshape({groups, rows, d});
  const Tensor phi_q = ApplyFeatureMap(config, map, queries)
                           .reshape({groups, batch, length, share, config.feature_size});
  const Tensor phi_k =
      ApplyFeatureMap(config, map, keys).reshape({groups, batch, length, config.feature_size});
  return RecurrentAttention::apply(phi_q.contiguous(), phi_k.contiguous(), v.contiguous(),
                                   config.normalizer == Normalizer::kClamp,
                                   static_cast<double>(config.eps))
      .view({batch, length, groups * share * d});
}

Tensor LinearAttention(const LinearAttentionConfig& config, const FeatureMapTensors& map,
                       const Tensor& q, const Tensor& k, const Tensor& v) {
  return q.is_cpu() && !map.log_decay.defined() ? RecurrentLinearAttention(config, map, q, k, v)
                                                : ChunkedLinearAttention(config, map, q, k, v);
}

Tensor SoftmaxAttention(const Tensor& q, const Tensor& k, const Tensor& v) {
  const int64_t batch = q.size(0), length = q.size(1), groups = q.size(2), share = q.size(3),
                d = q.size(4);
  const double scale = 1.0 / std::sqrt(static_cast<double>(d));
  const Tensor keys = k.permute({0, 2, 3, 1}).reshape({batch * groups, d, length});
  const Tensor values = v.permute({0, 2, 1, 3}).reshape({batch * groups, length, d});
  // In blocks of queries, each over the keys up to its end: half of the products, and no matrix
  // over all pairs of tokens.
  constexpr int64_t kBlock = 256;
  std::vector<Tensor> blocks;
  for (int64_t begin = 0; begin < length; begin += kBlock) {
    const int64_t rows = std::min(kBlock, length - begin), end = begin + rows;
    const Tensor queries = (q.narrow(1, begin, rows) * scale)
                               .permute({0, 2, 3, 1, 4})
                               .reshape({batch * groups, share * rows, d});
    const Tensor mask = torch::full({rows, end}, -std::numeric_limits<float>::infinity(),
                                    q.options().requires_grad(false))
                            .triu(begin + 1)
                            .repeat({share, 1});
    const Tensor weights = torch::baddbmm(mask, queries, keys.narrow(2, 0, end)).softmax(-1);
    blocks.push_back(torch::bmm(weights, values.narrow(1, 0, end))
                         .view({batch, groups, share, rows, d})
                         .permute({0, 3, 1, 2, 4})
                         .reshape({batch, rows, groups * share * d}));
  }
  return blocks.size() == 1 ? blocks[0] : torch::cat(blocks, 1);
}

}  // namespace t2r::convert
