#include "bench/ops/attention.h"

#include <algorithm>
#include <cstdio>
#include <string>

namespace t2r::bench {
namespace {

// `sessions` segments of `rows` rows each, the first of them at `position`.
Batch MakeBatch(int sessions, int rows, int64_t position) {
  Batch batch;
  for (int s = 0; s < sessions; ++s) {
    batch.segments.push_back({s, s * rows, rows, position, 0});
    for (int r = 0; r < rows; ++r) {
      batch.tokens.push_back(0);
      batch.positions.push_back(position + r);
    }
  }
  return batch;
}

// Layers of which each has `bytes`, so that a run finds its own no longer in a cache.
int ColdLayers(double bytes) { return std::clamp(static_cast<int>(128e6 / bytes), 2, 30); }

// q, k, v and out of so many rows.
template <typename Args>
void MakeRows(Harness& harness, int64_t rows, Args& args) {
  args.q = harness.MakeTensor(rows, int64_t{args.heads} * args.head_dim);
  args.k = harness.MakeTensor(rows, int64_t{args.groups} * args.head_dim);
  args.v = harness.MakeTensor(rows, int64_t{args.groups} * args.head_dim);
  args.out = harness.MakeTensor(rows, int64_t{args.heads} * args.head_dim);
}

void LinearDecode(Harness& harness, int k, int d, int heads, int groups, int sessions) {
  LinearAttentionArgs args;
  args.heads = heads;
  args.groups = groups;
  args.head_dim = d;
  args.map.kind = FeatureMapKind::kT2r;
  args.map.features = k;
  args.map.query_scale = 0.1F;
  args.map.weight = harness.MakeTensor(int64_t{groups} * k, d).f32();
  args.map.bias = harness.MakeTensor(groups, k).f32();
  MakeRows(harness, sessions, args);
  // Thirty layers, so that many sessions' states are as cold as in a model.
  constexpr int kLayers = 30;
  const int64_t layer = static_cast<int64_t>(groups) * k * (d + 1);
  args.slot_stride = layer * kLayers;
  const Tensor state = harness.MakeTensor(sessions, args.slot_stride);
  const Batch batch = MakeBatch(sessions, 1, 0);
  const double seconds = harness.Best([&](int run) {
    args.state = state.f32() + run % kLayers * layer;
    harness.Step(batch, [&] { harness.backend().LinearAttention(batch, args); });
  });
  const double floats = static_cast<double>(sessions) * groups * k * d;
  harness.Print("linear decode k " + std::to_string(k) + " d " + std::to_string(d) + " " +
                    std::to_string(heads) + "/" + std::to_string(groups) + " heads, " +
                    std::to_string(sessions) + " sessions",
                seconds, floats * (2 + 2.0 * heads / groups) * 2,
                2 * 4 * static_cast<double>(sessions) * layer);
  std::printf("%44s %.2f M head-steps/s\n", "", sessions * heads / seconds * 1e-6);
  harness.Clear();
}

// A layer of converted SmolLM2-135M: a full window, four sinks and a codebook of 64, a key folded
// with every row. Bytes: window, S and z read once, S and z written.
void Windowed(Harness& harness, int window, DType dtype, int sessions, int rows) {
  constexpr int kDim = 64;
  constexpr int kFeatures = 64;
  WindowedAttentionArgs args;
  args.heads = 9;
  args.groups = 3;
  args.head_dim = kDim;
  args.window = window;
  args.sinks = 4;
  args.window_dtype = dtype;
  args.rope_features = false;
  args.map.kind = FeatureMapKind::kCodebook;
  args.map.features = kFeatures;
  args.map.query_scale = 0.125F;
  args.map.weight = harness.MakeTensor(args.groups * kFeatures, kDim).f32();
  args.map.bias = harness.MakeTensor(args.groups, kFeatures).f32();
  args.map.query_weight = harness.MakeTensor(args.groups * kFeatures, kDim).f32();
  args.map.query_bias = harness.MakeTensor(args.heads, kFeatures).f32();
  args.fold_cos_sin = harness.MakeTensor(args.fold, kDim).f32();
  const int64_t all_rows = int64_t{sessions} * rows;
  args.cos_sin = harness.MakeTensor(all_rows, kDim);
  MakeRows(harness, all_rows, args);
  const int64_t columns = args.ring() + args.sinks;
  const int64_t window_bytes = WindowBytes(columns, args.groups, kDim, dtype);
  const int64_t sums = static_cast<int64_t>(args.groups) * kFeatures * (kDim + 1);
  const int64_t layer = window_bytes / 4 + sums;
  const int layers = ColdLayers(static_cast<double>(sessions * layer * 4));
  args.slot_stride = layer * layers;
  float* const state = harness.MakeTensor(sessions, args.slot_stride).f32();
  // The oldest key lies in the middle of the ring.
  const Batch batch = MakeBatch(sessions, rows, int64_t{window} * 5 / 2);
  const double seconds = harness.Best([&](int run) {
    float* const at = state + run % layers * layer;
    args.window_state = at;
    args.state = at + window_bytes / 4;
    harness.Step(batch, [&] { harness.backend().WindowedAttention(batch, args); });
  });
  const double flops = 4.0 * kDim * static_cast<double>(all_rows) *
                       (static_cast<double>(columns + kFeatures) * args.heads +
                        static_cast<double>(kFeatures) * args.groups);
  const std::string name = std::string("windowed ") + NameOf(dtype) + " " + std::to_string(window);
  harness.Print(name + (rows == 1 ? ", " + std::to_string(sessions) + " sessions"
                                  : ", a prompt of " + std::to_string(rows)),
                seconds, flops, static_cast<double>(sessions) * (window_bytes + 8.0 * sums));
  harness.Clear();
}

// The last `rows` of `context` positions. Bytes: the pages, once.
void Softmax(Harness& harness, int64_t context, DType dtype, int sessions, int rows) {
  FullAttentionArgs args;
  args.heads = 9;
  args.groups = 3;
  args.head_dim = 64;
  args.scale = 0.125F;
  args.pages_dtype = dtype;
  MakeRows(harness, int64_t{sessions} * rows, args);
  const int64_t layer = int64_t{2} * args.groups * kKvPageSize * args.head_dim;
  const auto per_session = static_cast<int32_t>(context / kKvPageSize);
  const double bytes = static_cast<double>(sessions) * per_session *
                       static_cast<double>(layer * static_cast<int64_t>(SizeOf(dtype)));
  const int layers = ColdLayers(bytes);
  args.page_stride = layer * layers;
  auto* const pages = static_cast<std::byte*>(
      harness.MakeTensor(int64_t{sessions} * per_session, args.page_stride, dtype).data);
  Batch batch = MakeBatch(sessions, rows, context - rows);
  for (int s = 0; s < sessions; ++s) {
    batch.segments[s].first_page = s * per_session;
    for (int p = 0; p < per_session; ++p) batch.pages.push_back(s * per_session + p);
  }
  const double seconds = harness.Best([&](int run) {
    args.pages = pages + run % layers * layer * static_cast<int64_t>(SizeOf(dtype));
    harness.Step(batch, [&] { harness.backend().FullAttention(batch, args); });
  });
  const double keys = (2.0 * static_cast<double>(context) - rows + 1) / 2;  // of a row
  const std::string name = std::string("softmax ") + NameOf(dtype) + " " + std::to_string(context);
  harness.Print(name + (rows == 1 ? ", " + std::to_string(sessions) + " sessions"
                                  : ", a prompt of " + std::to_string(rows)),
                seconds, 4.0 * args.head_dim * args.heads * keys * sessions * rows, bytes);
  harness.Clear();
}

}  // namespace

void BenchAttention(Harness& harness) {
  for (const int sessions : {1, 8, 64, 256}) LinearDecode(harness, 64, 64, 9, 3, sessions);
  for (const int sessions : {1, 16, 64, 256}) LinearDecode(harness, 32, 8, 8, 4, sessions);
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kInt8}) {
    for (const int window : {384, 1024}) {
      for (const int sessions : {1, 8, 64}) Windowed(harness, window, dtype, sessions, 1);
      Windowed(harness, window, dtype, 1, 256);
    }
  }
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
    for (const int64_t context : {128, 2048}) {
      for (const int sessions : {1, 8, 64}) Softmax(harness, context, dtype, sessions, 1);
    }
    Softmax(harness, 2048, dtype, 1, 256);
  }
}

}  // namespace t2r::bench
