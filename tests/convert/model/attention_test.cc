#include "convert/model/attention.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace t2r::convert {
namespace {

using torch::Tensor;

struct Case {
  FeatureMapKind map;
  Normalizer normalizer;
  int64_t share, length, d;
  int k;
};

struct Inputs {
  LinearAttentionConfig config;
  FeatureMapTensors map;
  Tensor q, k, v;

  std::vector<Tensor> Leaves() const {
    std::vector<Tensor> leaves{q, k, v};
    if (map.weight.defined()) leaves.push_back(map.weight);
    if (map.bias.defined()) leaves.push_back(map.bias);
    return leaves;
  }
};

Inputs MakeInputs(const Case& c, torch::Dtype dtype = torch::kFloat32) {
  torch::manual_seed(11);
  constexpr int64_t kBatch = 2, kGroups = 3;
  Inputs in;
  in.config.feature_map = c.map;
  in.config.feature_size = c.k;
  in.config.normalizer = c.normalizer;
  in.config.eps = c.normalizer == Normalizer::kClamp ? 1e-2F : 1e-6F;
  in.config.query_scale = 0.6F;
  const auto options = torch::TensorOptions(torch::kFloat64);
  const auto leaf = [&](const Tensor& x) {
    return x.to(torch::kFloat32).to(dtype).detach().set_requires_grad(true);
  };
  in.q = leaf(torch::randn({kBatch, c.length, kGroups, c.share, c.d}, options));
  in.k = leaf(torch::randn({kBatch, c.length, kGroups, c.d}, options));
  in.v = leaf(torch::randn({kBatch, c.length, kGroups, c.d}, options));
  const int64_t rows = c.map == FeatureMapKind::kT2r ? c.k : c.k / 2;
  if (c.map != FeatureMapKind::kElu) {
    in.map.weight = leaf(torch::randn({kGroups, rows, c.d}, options) * 0.7);
  }
  if (c.map == FeatureMapKind::kT2r) in.map.bias = leaf(torch::randn({kGroups, c.k}, options));
  return in;
}

// y_t = Σ_{s ≤ t} (φ(q_t)·φ(k_s)) v_s / den, by its definition, in float64.
Tensor Definition(const Inputs& in) {
  const int64_t batch = in.q.size(0), length = in.q.size(1), groups = in.q.size(2),
                share = in.q.size(3), d = in.q.size(4);
  const auto phi = [&](const Tensor& x) {  // [B, T, G, …, d] to [G, N, k]
    const Tensor moved = x.transpose(0, 2).reshape({groups, -1, d});
    return ApplyFeatureMap(in.config, in.map, moved);
  };
  const Tensor phi_q = phi(in.q * static_cast<double>(in.config.query_scale))
                           .view({groups, length, batch, share, in.config.feature_size});
  const Tensor phi_k = phi(in.k).view({groups, length, batch, in.config.feature_size});
  const Tensor scores = torch::einsum("gtbrf,gsbf->gbrts", {phi_q, phi_k}).tril();
  const Tensor weight = scores.sum(-1, /*keepdim=*/true);
  const double eps = in.config.eps;
  const Tensor den =
      in.config.normalizer == Normalizer::kClamp ? weight.clamp_min(eps) : weight + eps;
  return torch::einsum("gbrts,bsgd->btgrd", {scores / den, in.v})
      .reshape({batch, length, groups * share * d});
}

double RelativeError(const Tensor& out, const Tensor& reference) {
  const Tensor exact = reference.to(torch::kFloat64);
  return ((out.to(torch::kFloat64) - exact).norm() / exact.norm()).item<double>();
}

class LinearAttentionTest : public ::testing::TestWithParam<Case> {};

// Both forms against the definition in float64, values and gradients of every input. Sums of at
// most T·k float32 products of one sign and of as many values: a relative error of a few
// √(T·k)·2⁻²⁴ in norm, 5e-6 for the longest; gradients pass through two of these.
TEST_P(LinearAttentionTest, BothFormsAgreeWithTheDefinition) {
  const Inputs exact = MakeInputs(GetParam(), torch::kFloat64);
  const Tensor reference = Definition(exact);
  const Tensor direction = torch::randn_like(reference);
  (reference * direction).sum().backward();

  for (const int64_t chunk : {int64_t{-1}, int64_t{0}, int64_t{7}}) {
    const Inputs in = MakeInputs(GetParam());
    const Tensor out = chunk < 0
                           ? RecurrentLinearAttention(in.config, in.map, in.q, in.k, in.v)
                           : ChunkedLinearAttention(in.config, in.map, in.q, in.k, in.v, chunk);
    EXPECT_LT(RelativeError(out, reference), 1e-5) << "chunk " << chunk;
    (out * direction.to(torch::kFloat32)).sum().backward();
    const auto leaves = in.Leaves(), exact_leaves = exact.Leaves();
    for (size_t i = 0; i < leaves.size(); ++i) {
      const Tensor exact_gradient = exact_leaves[i].grad();
      const double error =
          (leaves[i].grad().to(torch::kFloat64) - exact_gradient).norm().item<double>();
      // Of one token the output is its value: q and k have no gradient, but for rounding.
      const double size = std::max(exact_gradient.norm().item<double>(), 1e-2);
      EXPECT_LT(error / size, 5e-5) << "gradient " << i << ", chunk " << chunk;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    MapsAndShapes, LinearAttentionTest,
    ::testing::Values(Case{FeatureMapKind::kT2r, Normalizer::kClamp, 2, 70, 8, 32},
                      Case{FeatureMapKind::kT2r, Normalizer::kAdd, 1, 130, 32, 16},
                      Case{FeatureMapKind::kElu, Normalizer::kAdd, 2, 33, 16, 16},
                      Case{FeatureMapKind::kElu, Normalizer::kClamp, 1, 1, 5, 5},
                      Case{FeatureMapKind::kRfa, Normalizer::kClamp, 2, 40, 64, 24},
                      Case{FeatureMapKind::kHedgehog, Normalizer::kAdd, 3, 65, 12, 10}));

// Features that are all zero: the denominator is eps, the output 0, gradients finite.
TEST(LinearAttention, SurvivesDeadFeatures) {
  Inputs in = MakeInputs({FeatureMapKind::kT2r, Normalizer::kClamp, 1, 9, 8, 4});
  in.map.bias = torch::full({3, 4}, -1e3).set_requires_grad(true);
  const Tensor out = LinearAttention(in.config, in.map, in.q, in.k, in.v);
  EXPECT_EQ(out.abs().max().item<float>(), 0.0F);
  out.sum().backward();
  for (const Tensor& leaf : in.Leaves()) {
    EXPECT_TRUE(leaf.grad().isfinite().all().item<bool>());
  }
}

TEST(SoftmaxAttention, AgreesWithTheDefinition) {
  const Inputs in = MakeInputs({FeatureMapKind::kElu, Normalizer::kAdd, 2, 19, 8, 8});
  const Tensor q = in.q.to(torch::kFloat64), k = in.k.to(torch::kFloat64),
               v = in.v.to(torch::kFloat64);
  const Tensor future = torch::ones({19, 19}, torch::kBool).triu(1);
  const Tensor scores = (torch::einsum("btgrd,bsgd->bgrts", {q, k}) / std::sqrt(8.0))
                            .masked_fill(future, -std::numeric_limits<double>::infinity());
  const Tensor reference =
      torch::einsum("bgrts,bsgd->btgrd", {scores.softmax(-1), v}).reshape({2, 19, 48});
  EXPECT_LT(RelativeError(SoftmaxAttention(in.q, in.k, in.v), reference), 1e-6);
}

}  // namespace
}  // namespace t2r::convert
