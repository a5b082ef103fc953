// What a million tokens do to float32 sums.
#include <algorithm>

#include "tests/engine/ops/testing/linear_sessions.h"

namespace t2r::testing {
namespace {

class AccumulationTest : public OpTest {};

double RelativeError(const double* out, const double* ref, int64_t n) {
  double error = 0;
  double norm = 0;
  for (int64_t i = 0; i < n; ++i) {
    error += (out[i] - ref[i]) * (out[i] - ref[i]);
    norm += ref[i] * ref[i];
  }
  return std::sqrt(error / norm);
}

// S and z of a 4 × 4 t2r map with one group over the first rows, in float64.
void Accumulate(const LinearLayer& layer, const Mat& k, const Mat& v, int64_t rows,
                LinearState* state) {
  for (int64_t t = 0; t < rows; ++t) {
    for (int i = 0; i < 4; ++i) {
      double phi = layer.bias.v[i];
      for (int j = 0; j < 4; ++j) phi += layer.weight.at(i, j) * k.at(t, j);
      phi = std::max(phi, 0.0);
      for (int j = 0; j < 4; ++j) state->value.v[i * 4 + j] += phi * v.at(t, j);
      state->value.v[16 + i] += phi;
    }
  }
}

// Each addition rounds a sum S_t ≈ S_n t/n by up to u S_t: as independent errors they have a
// deviation of u S_n √n / 3 after n tokens. Three deviations are u √n = 6e-5 at a million.
TEST_P(AccumulationTest, StateAndOutputStayExactOverAMillionTokens) {
  constexpr int64_t kChunk = 4096;
  constexpr int64_t kChunks = 245;
  LinearLayer layer;
  layer.heads = 2;
  layer.head_dim = 4;
  layer.map.kind = FeatureMapKind::kT2r;
  layer.map.features = 4;
  layer.map.query_scale = 0.5F;
  layer.weight = Random(4, 4);
  layer.bias = Random(1, 4);
  for (double& b : layer.bias.v) b = std::abs(b) + 0.5;  // no feature is dead
  LinearSessions sessions(*backend_, layer, Mat(1, layer.state_floats()));
  const Mat q = Random(kChunk, 8);
  const Mat k = Random(kChunk, 4);
  Mat v = Random(kChunk, 4);
  for (double& value : v.v) value = static_cast<float>(value + 0.5);  // S grows with n too
  const DeviceTensor dq(*backend_, q);
  const DeviceTensor out(*backend_, Mat(kChunk, 8));
  Batch batch;
  batch.segments = {{0, 0, static_cast<int32_t>(kChunk), 0, 0}};
  batch.tokens.resize(kChunk);
  batch.positions.resize(kChunk);
  LinearState state(layer);
  std::uniform_real_distribution<float> factor(0.5F, 1.5F);
  Result want;
  for (int64_t chunk = 0; chunk < kChunks; ++chunk) {
    // New values in every chunk: repeated ones would round alike, and their errors would add up.
    Mat scaled_k = k;
    Mat scaled_v = v;
    const float k_factor = factor(rng_);
    const float v_factor = factor(rng_);
    for (double& value : scaled_k.v) value = static_cast<float>(value) * k_factor;
    for (double& value : scaled_v.v) value = static_cast<float>(value) * v_factor;
    const DeviceTensor dk(*backend_, scaled_k);
    const DeviceTensor dv(*backend_, scaled_v);
    batch.segments[0].position = chunk * kChunk;
    sessions.Call(batch, dq.view(), dk.view(), dv.view(), out.view());
    const int64_t rest = chunk + 1 == kChunks ? 1 : 0;  // the last row also through the reference
    Accumulate(layer, scaled_k, scaled_v, kChunk - rest, &state);
    if (rest == 1) {
      want = LinearAttentionReference(layer, q.Rows(kChunk - 1, 1), scaled_k.Rows(kChunk - 1, 1),
                                      scaled_v.Rows(kChunk - 1, 1), &state);
    }
  }
  const double bound = kU * std::sqrt(static_cast<double>(kChunk * kChunks));
  const Mat got = sessions.ReadState(0);
  EXPECT_LE(RelativeError(got.row(0), state.value.row(0), 16), bound) << "S";
  EXPECT_LE(RelativeError(got.row(0) + 16, state.value.row(0) + 16, 4), bound) << "z";
  const Mat y = out.Read();
  EXPECT_LE(RelativeError(y.row(kChunk - 1), want.out.row(0), 8), 2 * bound) << "y";
}

INSTANTIATE_TEST_SUITE_P(Backends, AccumulationTest, ::testing::ValuesIn(AllBackends()), CaseName);

}  // namespace
}  // namespace t2r::testing
