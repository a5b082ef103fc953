#include "convert/model/windowed_attention.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "convert/model/cross_attention.h"

namespace t2r::convert {
namespace {

using torch::Tensor;

struct WindowCase {
  const char* name;
  FeatureMapKind map;
  int64_t share, length, d;
  LinearSizes sizes;
  bool rope_features = false, decay = false, sink_query = false;
};

struct WindowInputs {
  LinearAttentionConfig config;
  LinearSizes sizes;
  FeatureMapTensors map;
  AttentionInput in;

  std::vector<Tensor> Leaves() const {
    std::vector<Tensor> leaves;
    for (const Tensor& x :
         {in.q, in.k, in.v, in.plain_q, in.plain_k, in.sink_q, map.weight, map.bias,
          map.query_weight, map.query_bias, map.far_bias, map.log_decay}) {
      if (x.defined()) leaves.push_back(x);
    }
    return leaves;
  }
};

constexpr int64_t kWindowBatch = 2, kWindowGroups = 2;

// The same values for every dtype. Rotated and plain tensors are independent here: that either is
// read in the other's place shows.
WindowInputs MakeWindowInputs(const WindowCase& c, torch::Dtype dtype) {
  torch::manual_seed(5);
  WindowInputs w;
  w.sizes = c.sizes;
  w.config.feature_map = c.map;
  w.config.feature_size = c.sizes.features;
  w.config.query_scale = 0.5F;
  w.config.rope_features = c.rope_features;
  const auto leaf = [&](const std::vector<int64_t>& shape, double deviation) {
    return (torch::randn(shape, torch::kFloat64) * deviation)
        .to(torch::kFloat32)
        .to(dtype)
        .set_requires_grad(true);
  };
  const int64_t d = c.d, m = c.sizes.features;
  w.in.q = leaf({kWindowBatch, c.length, kWindowGroups, c.share, d}, 1.5);
  w.in.k = leaf({kWindowBatch, c.length, kWindowGroups, d}, 1);
  w.in.v = leaf({kWindowBatch, c.length, kWindowGroups, d}, 1);
  w.in.plain_q = leaf({kWindowBatch, c.length, kWindowGroups, c.share, d}, 1.5);
  w.in.plain_k = leaf({kWindowBatch, c.length, kWindowGroups, d}, 1);
  if (c.sink_query) w.in.sink_q = leaf({kWindowBatch, c.length, kWindowGroups, c.share, d}, 1.5);
  if (c.map == FeatureMapKind::kCodebook) {
    w.map.weight = leaf({kWindowGroups, m, d}, 1);
    w.map.bias = leaf({kWindowGroups, m}, 1);
    w.map.query_weight = leaf({kWindowGroups, m, d}, 1);
    w.map.query_bias = leaf({kWindowGroups * c.share, m}, 1);
  } else if (c.map != FeatureMapKind::kNone) {
    if (c.map != FeatureMapKind::kElu) {
      w.map.weight = leaf({kWindowGroups, c.map == FeatureMapKind::kT2r ? m : m / 2, d}, 0.7);
    }
    if (c.map == FeatureMapKind::kT2r) w.map.bias = leaf({kWindowGroups, m}, 1);
    w.map.far_bias = leaf({kWindowGroups * c.share}, 1);
  }
  if (c.decay) {
    w.map.log_decay = (torch::rand({kWindowGroups}, torch::kFloat64) * -0.1)
                          .to(torch::kFloat32)
                          .to(dtype)
                          .set_requires_grad(true);
  }
  return w;
}

// y by the definition, key by key, over matrices of all pairs of tokens.
Tensor DenseWindowed(const WindowInputs& w) {
  const int64_t batch = w.in.q.size(0), length = w.in.q.size(1), groups = w.in.q.size(2),
                share = w.in.q.size(3), d = w.in.q.size(4);
  const LinearSizes& sizes = w.sizes;
  const Tensor i = torch::arange(length).unsqueeze(1), j = torch::arange(length);
  const Tensor folded =
      sizes.window == 0 ? i + 1
                        : (i - sizes.window + 1).clamp_min(0).div(sizes.fold, "floor") * sizes.fold;
  const Tensor near = sizes.window == 0
                          ? torch::zeros({length, length}, torch::kBool)
                          : ((j < sizes.sinks) & (j <= i)) | ((j >= folded) & (j <= i));
  const Tensor far = (j >= sizes.sinks) & (j < folded);
  const double s = w.config.query_scale;
  Tensor scores = torch::einsum("btgrd,bsgd->bgrts", {w.in.q * s, w.in.k});
  if (w.in.sink_q.defined()) {
    const Tensor sinks = torch::einsum("btgrd,bsgd->bgrts", {w.in.sink_q * s, w.in.k});
    scores = torch::where(j < sizes.sinks, sinks, scores);
  }
  const double infinity = std::numeric_limits<double>::infinity();
  const Tensor highest = scores.masked_fill(~near, -infinity).amax(-1, true);
  Tensor weights =
      near.any().item<bool>() ? (scores - highest).exp() * near : torch::zeros_like(scores);
  if (w.config.feature_map != FeatureMapKind::kNone) {
    const Tensor& q = w.config.rope_features ? w.in.q : w.in.plain_q;
    const Tensor& k = w.config.rope_features ? w.in.k : w.in.plain_k;
    const auto rows = [&](const Tensor& x) { return x.transpose(0, 2).reshape({groups, -1, d}); };
    const int64_t m = sizes.features;
    Tensor phi;  // [B, G, R, T, M], times e^-highest
    Tensor f;    // [B, G, T, M]
    if (w.config.feature_map == FeatureMapKind::kCodebook) {
      phi = torch::einsum("btgrd,gmd->bgrtm", {q * s, w.map.query_weight}) +
            w.map.query_bias.view({groups, share, 1, m});
      phi =
          near.any().item<bool>() ? (torch::minimum(phi, highest + 40) - highest).exp() : phi.exp();
      f = (torch::einsum("bsgd,gmd->bgsm", {k, w.map.weight}) + w.map.bias.view({groups, 1, m}))
              .softmax(-1);
    } else {
      phi = ApplyFeatureMap(w.config, w.map, rows(q * s))
                .view({groups, length, batch, share, m})
                .permute({2, 0, 3, 1, 4}) *
            (w.map.far_bias.view({groups, share, 1, 1}) - highest).exp();
      f = ApplyFeatureMap(w.config, w.map, rows(k))
              .view({groups, length, batch, m})
              .permute({2, 0, 1, 3});
    }
    Tensor products = torch::einsum("bgrtm,bgsm->bgrts", {phi, f}) * far;
    if (w.map.log_decay.defined()) {
      const Tensor age = (folded - 1 - j).clamp_min(0).to(torch::kFloat64);
      products = products * (w.map.log_decay.view({groups, 1, 1, 1}) * age).exp();
    }
    weights = weights + products;
  }
  return torch::einsum("bgrts,bsgd->btgrd", {weights / weights.sum(-1, true), w.in.v})
      .reshape({batch, length, groups * share * d});
}

double DistanceTo(const Tensor& out, const Tensor& reference) {
  return ((out.to(torch::kFloat64) - reference).norm() / reference.norm()).item<double>();
}

class WindowedAttentionTest : public ::testing::TestWithParam<WindowCase> {};

// In float64 the banded form is the definition but for the order of sums: 1e-12 bounds some 1e3
// roundings of 1e-16 behind an exponential of exponents below 40. In float32 the same count of
// roundings, each 5e8 times larger, adds up randomly: 2e-5 of the output; gradients pass through
// the exponentials once more and cancel, hence ten times that.
TEST_P(WindowedAttentionTest, AgreesWithTheDefinition) {
  const WindowInputs exact = MakeWindowInputs(GetParam(), torch::kFloat64);
  const Tensor reference = DenseWindowed(exact);
  const Tensor direction = torch::randn_like(reference);
  (reference * direction).sum().backward();
  for (const torch::Dtype dtype : {torch::kFloat64, torch::kFloat32}) {
    const double bound = dtype == torch::kFloat64 ? 1e-12 : 2e-5;
    const WindowInputs in = MakeWindowInputs(GetParam(), dtype);
    const Tensor out = WindowedAttention(in.config, in.sizes, in.map, in.in);
    EXPECT_LT(DistanceTo(out, reference), bound);
    (out * direction.to(dtype)).sum().backward();
    const auto leaves = in.Leaves(), exact_leaves = exact.Leaves();
    for (size_t i = 0; i < leaves.size(); ++i) {
      const Tensor expected = exact_leaves[i].grad();
      ASSERT_EQ(expected.defined(), leaves[i].grad().defined()) << "gradient " << i;
      if (!expected.defined()) continue;
      if (expected.norm().item<double>() == 0) continue;
      EXPECT_LT(DistanceTo(leaves[i].grad(), expected), 10 * bound) << "gradient " << i;
    }
  }
}

// Along a random direction of everything that learns, against the outputs at two near points. The
// error of a central difference is its step squared times the third derivative.
TEST_P(WindowedAttentionTest, HasTheDerivativeOfCentralDifferences) {
  WindowInputs in = MakeWindowInputs(GetParam(), torch::kFloat64);
  const auto loss = [&in] {
    return WindowedAttention(in.config, in.sizes, in.map, in.in).square().sum();
  };
  loss().backward();
  constexpr double kStep = 1e-5;
  double expected = 0;
  std::vector<Tensor> directions;
  for (const Tensor& leaf : in.Leaves()) {
    directions.push_back(torch::randn_like(leaf).detach());
    if (leaf.grad().defined()) expected += (leaf.grad() * directions.back()).sum().item<double>();
  }
  const torch::NoGradGuard no_grad;
  const auto move = [&](double step) {
    const auto leaves = in.Leaves();
    for (size_t i = 0; i < leaves.size(); ++i) {
      Tensor leaf = leaves[i];
      leaf.add_(directions[i], step);
    }
  };
  move(kStep);
  const double above = loss().item<double>();
  move(-2 * kStep);
  const double below = loss().item<double>();
  EXPECT_NEAR((above - below) / (2 * kStep), expected, 1e-5 * std::abs(expected) + 1e-6);
}

INSTANTIATE_TEST_SUITE_P(
    Forms, WindowedAttentionTest,
    ::testing::Values(
        WindowCase{"window_alone", FeatureMapKind::kNone, 2, 75, 8, {0, 8, 0, 1}},
        WindowCase{"sinks", FeatureMapKind::kNone, 1, 70, 8, {0, 16, 3, 1}},
        WindowCase{"sinks_rotated_apart",
                   FeatureMapKind::kNone,
                   2,
                   70,
                   8,
                   {0, 16, 3, 1},
                   false,
                   false,
                   true},
        WindowCase{"terraced", FeatureMapKind::kNone, 2, 140, 8, {0, 40, 1, 40}},
        WindowCase{"codebook", FeatureMapKind::kCodebook, 2, 150, 8, {12, 32, 1, 1}},
        WindowCase{"codebook_folds", FeatureMapKind::kCodebook, 2, 150, 8, {12, 20, 2, 7}},
        WindowCase{
            "codebook_sees_rotation", FeatureMapKind::kCodebook, 1, 100, 4, {5, 9, 0, 4}, true},
        WindowCase{
            "codebook_decays", FeatureMapKind::kCodebook, 2, 200, 8, {6, 16, 2, 5}, false, true},
        WindowCase{
            "codebook_wide", FeatureMapKind::kCodebook, 1, 300, 8, {6, 70, 4, 3}, false, true},
        WindowCase{"shorter_than_window", FeatureMapKind::kCodebook, 2, 9, 8, {6, 16, 2, 1}},
        WindowCase{"shorter_than_sinks", FeatureMapKind::kCodebook, 2, 3, 8, {6, 16, 5, 1}},
        WindowCase{"one_token", FeatureMapKind::kCodebook, 2, 1, 8, {6, 16, 2, 1}},
        WindowCase{"codebook_without_window", FeatureMapKind::kCodebook, 2, 150, 8, {7, 0, 0, 1}},
        WindowCase{"codebook_without_window_decays",
                   FeatureMapKind::kCodebook,
                   2,
                   150,
                   8,
                   {7, 0, 0, 1},
                   false,
                   true},
        WindowCase{"t2r", FeatureMapKind::kT2r, 2, 90, 8, {10, 16, 1, 4}, true, true},
        WindowCase{"elu", FeatureMapKind::kElu, 2, 90, 8, {8, 16, 1, 1}, true},
        WindowCase{"rfa", FeatureMapKind::kRfa, 1, 90, 8, {10, 16, 1, 3}},
        WindowCase{"hedgehog", FeatureMapKind::kHedgehog, 2, 90, 8, {10, 16, 1, 1}, true}),
    [](const auto& test) { return std::string(test.param.name); });

// Far weights that would outgrow every near one stop at e^40 of them, and nothing overflows.
TEST(WindowedAttention, CapsFarWeights) {
  const WindowCase c{"", FeatureMapKind::kCodebook, 1, 90, 8, {4, 8, 0, 1}};
  WindowInputs in = MakeWindowInputs(c, torch::kFloat32);
  in.map.query_bias = torch::full({kWindowGroups, 4}, 1000.0F).set_requires_grad(true);
  const WindowInputs exact = [&] {
    WindowInputs x = MakeWindowInputs(c, torch::kFloat64);
    x.map.query_bias = torch::full({kWindowGroups, 4}, 1000.0, torch::kFloat64);
    return x;
  }();
  const Tensor out = WindowedAttention(in.config, in.sizes, in.map, in.in);
  EXPECT_LT(DistanceTo(out, DenseWindowed(exact)), 2e-5);
  out.sum().backward();
  for (const Tensor& leaf : in.Leaves()) {
    if (!leaf.grad().defined()) continue;
    EXPECT_TRUE(leaf.grad().isfinite().all().item<bool>());
  }
}

// Cross attention by a codebook: a source's padding does not count, and empty centroids neither.
TEST(CrossAttention, CodebookAgreesWithTheDefinition) {
  const WindowCase c{"", FeatureMapKind::kCodebook, 2, 9, 8, {6, 0, 0, 1}};
  const WindowInputs w = MakeWindowInputs(c, torch::kFloat64);
  torch::manual_seed(8);
  const Tensor k = torch::randn({kWindowBatch, 5, kWindowGroups, 8}, torch::kFloat64);
  const Tensor v = torch::randn_like(k);
  const Tensor counted =
      torch::tensor({1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0}, torch::kFloat64)
          .view({2, 5});
  const Tensor out = LinearAttentionOver(w.config, w.map, w.in.q, k, v, counted);
  const Tensor f =
      (torch::einsum("bsgd,gmd->bgsm", {k, w.map.weight}) + w.map.bias.view({kWindowGroups, 1, 6}))
          .softmax(-1) *
      counted.view({2, 1, 5, 1});
  const Tensor phi = (torch::einsum("btgrd,gmd->bgrtm", {w.in.q * 0.5, w.map.query_weight}) +
                      w.map.query_bias.view({kWindowGroups, 2, 1, 6}))
                         .exp();
  const Tensor weights = torch::einsum("bgrtm,bgsm->bgrts", {phi, f});
  const Tensor reference =
      torch::einsum("bgrts,bsgd->btgrd", {weights / weights.sum(-1, true), v}).reshape({2, 9, 32});
  EXPECT_LT(DistanceTo(out, reference), 1e-12);
}

}  // namespace
}  // namespace t2r::convert
