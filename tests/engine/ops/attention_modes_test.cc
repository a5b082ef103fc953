// Softmax attention of encoder-decoders: within the sources, and from the target's rows to them.
// And all of softmax attention on bfloat16.
#include <algorithm>
#include <cstring>
#include <numeric>

#include "tests/engine/ops/testing/op_test.h"

namespace t2r::testing {
namespace {

constexpr double kHalfU = 0x1p-8;  // |bf16(x) − x| ≤ 2⁻⁸ |x|

class AttentionModesTest : public OpTest {
 protected:
  static constexpr int kHeads = 4;
  static constexpr int kGroups = 2;

  bool Has(DType dtype) const { return backend_->activation_dtype(dtype) == dtype; }

  Mat Inputs(int64_t rows, int64_t cols, DType dtype) {
    Mat m = Random(rows, cols);
    if (dtype == DType::kBFloat16) {
      for (double& v : m.v) v = BFloat16ToFloat(FloatToBFloat16(static_cast<float>(v)));
    }
    return m;
  }
  // Row t of q attends to all rows of k and v.
  static Result Dense(const Mat& q, const Mat& k, const Mat& v, int heads, int groups,
                      double scale) {
    Result result{Mat(q.rows, q.cols), Mat(q.rows, q.cols)};
    for (int64_t t = 0; t < q.rows; ++t) {
      Mat last(k.rows, q.cols);  // the reference is causal: its last row sees all
      std::copy(q.row(t), q.row(t) + q.cols, last.v.end() - q.cols);
      const Result r = FullAttentionReference(last, k, v, heads, groups, scale);
      std::copy(r.out.row(k.rows - 1), r.out.row(k.rows - 1) + q.cols,
                result.out.v.begin() + t * q.cols);
      std::copy(r.bound.row(k.rows - 1), r.bound.row(k.rows - 1) + q.cols,
                result.bound.v.begin() + t * q.cols);
    }
    return result;
  }
  // The output is rounded once to bfloat16; keys and values are kept as they came.
  static void ExpectRounded(const Mat& got, Result want, DType dtype) {
    if (dtype == DType::kBFloat16) {
      for (size_t i = 0; i < want.out.v.size(); ++i) {
        want.bound.v[i] = want.bound.v[i] * (1 + kHalfU) + kHalfU * 1.01 * std::abs(want.out.v[i]);
      }
    }
    ExpectWithin(got, want.out, want.bound);
  }

  static Mat Join(const std::vector<Mat>& parts) {
    Mat all(0, parts[0].cols);
    for (const Mat& part : parts) {
      all.v.insert(all.v.end(), part.v.begin(), part.v.end());
      all.rows += part.rows;
    }
    return all;
  }
  static void AddSegment(Batch* batch, int slot, int64_t rows, int64_t position) {
    Segment segment;
    segment.slot = slot;
    segment.first_row = static_cast<int32_t>(batch->rows());
    segment.rows = static_cast<int32_t>(rows);
    segment.position = position;
    batch->segments.push_back(segment);
    for (int64_t r = 0; r < rows; ++r) {
      batch->tokens.push_back(0);
      batch->positions.push_back(position + r);
    }
  }
  // Pages for all that a test needs, NaN where nothing was written.
  Buffer Pages(const FullAttentionArgs& args, int count) {
    const std::vector<float> garbage(count * args.page_stride,
                                     std::numeric_limits<float>::quiet_NaN());
    return backend_->LoadVector(garbage);  // as bfloat16 the upper halves are NaN too
  }
  FullAttentionArgs Args(int d) {
    FullAttentionArgs args;
    args.heads = kHeads;
    args.groups = kGroups;
    args.head_dim = d;
    args.scale = static_cast<float>(1 / std::sqrt(static_cast<double>(d)));
    args.page_stride = 2LL * kGroups * kKvPageSize * d;
    return args;
  }
};

TEST_P(AttentionModesTest, EncoderAttendsWithinEachSource) {
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
    if (!Has(dtype)) continue;
    for (const int d : {4, 7, 40}) {
      EncoderAttentionArgs args;
      args.heads = 3;
      args.head_dim = d;
      args.scale = static_cast<float>(1 / std::sqrt(static_cast<double>(d)));
      Batch batch;
      std::vector<Mat> q, k, v;
      for (const int64_t rows : {1, 17, 65, 130, 64}) {
        AddSegment(&batch, static_cast<int>(q.size()), rows, 0);
        for (std::vector<Mat>* m : {&q, &k, &v}) m->push_back(Inputs(rows, 3LL * d, dtype));
      }
      const DeviceTensor dq(*backend_, Join(q), 1, dtype);
      const DeviceTensor dk(*backend_, Join(k), 2, dtype);
      const DeviceTensor dv(*backend_, Join(v), 3, dtype);
      const DeviceTensor out(*backend_, Mat(batch.rows(), 3LL * d), 4, dtype);
      args.q = dq.view();
      args.k = dk.view();
      args.v = dv.view();
      args.out = out.view();
      RunOps(*backend_, batch, [&] { backend_->EncoderAttention(batch, args); });
      const Mat got = out.Read();
      for (size_t i = 0; i < q.size(); ++i) {
        SCOPED_TRACE(::testing::Message() << NameOf(dtype) << ", d " << d << ", source " << i);
        const Segment& s = batch.segments[i];
        ExpectRounded(got.Rows(s.first_row, s.rows), Dense(q[i], k[i], v[i], 3, 3, args.scale),
                      dtype);
        // The same bits alone.
        Batch alone;
        AddSegment(&alone, 0, s.rows, 0);
        const DeviceTensor aq(*backend_, q[i], 0, dtype);
        const DeviceTensor ak(*backend_, k[i], 0, dtype);
        const DeviceTensor av(*backend_, v[i], 0, dtype);
        const DeviceTensor mine(*backend_, Mat(s.rows, 3LL * d), 0, dtype);
        EncoderAttentionArgs args_alone = args;
        args_alone.q = aq.view();
        args_alone.k = ak.view();
        args_alone.v = av.view();
        args_alone.out = mine.view();
        RunOps(*backend_, alone, [&] { backend_->EncoderAttention(alone, args_alone); });
        ExpectSameBits(mine.Read(), got.Rows(s.first_row, s.rows), "alone");
      }
    }
  }
}

TEST_P(AttentionModesTest, CrossAttendsToWhatWasAppended) {
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
    if (!Has(dtype)) continue;
    for (const int d : {6, 64}) {
      FullAttentionArgs args = Args(d);
      const Buffer pages = Pages(args, 8);
      args.pages = pages.data();
      const std::vector<int64_t> lengths = {1, 70, 128, 33};
      const std::vector<std::vector<int32_t>> tables = {{6}, {0, 5}, {3, 2}, {7}};
      std::vector<Mat> k, v;
      Batch sources;
      for (size_t i = 0; i < lengths.size(); ++i) {
        AddSegment(&sources, static_cast<int>(i), lengths[i], 0);
        sources.segments.back().first_page = static_cast<int32_t>(sources.pages.size());
        sources.pages.insert(sources.pages.end(), tables[i].begin(), tables[i].end());
        for (std::vector<Mat>* m : {&k, &v}) {
          m->push_back(Inputs(lengths[i], static_cast<int64_t>(kGroups) * d, dtype));
        }
      }
      const DeviceTensor dk(*backend_, Join(k), 2, dtype);
      const DeviceTensor dv(*backend_, Join(v), 3, dtype);
      args.mode = FullAttentionMode::kAppend;
      args.k = dk.view();
      args.v = dv.view();
      RunOps(*backend_, sources, [&] { backend_->FullAttention(sources, args); });

      // Targets, some at positions beyond their source's length.
      Batch targets;
      std::vector<Mat> q;
      for (size_t i = 0; i < lengths.size(); ++i) {
        const int64_t rows = i % 2 == 0 ? 1 : 9;
        AddSegment(&targets, static_cast<int>(i), rows, 40 * static_cast<int64_t>(i));
        Segment& segment = targets.segments.back();
        segment.source_rows = static_cast<int32_t>(lengths[i]);
        segment.first_source_page = static_cast<int32_t>(targets.source_pages.size());
        targets.source_pages.insert(targets.source_pages.end(), tables[i].begin(), tables[i].end());
        q.push_back(Inputs(rows, static_cast<int64_t>(kHeads) * d, dtype));
      }
      const DeviceTensor dq(*backend_, Join(q), 1, dtype);
      const DeviceTensor out(*backend_, Mat(targets.rows(), static_cast<int64_t>(kHeads) * d), 4,
                             dtype);
      args.mode = FullAttentionMode::kCross;
      args.q = dq.view();
      args.k = Tensor();
      args.v = Tensor();
      args.out = out.view();
      RunOps(*backend_, targets, [&] { backend_->FullAttention(targets, args); });
      const Mat got = out.Read();
      for (size_t i = 0; i < q.size(); ++i) {
        SCOPED_TRACE(::testing::Message() << NameOf(dtype) << ", d " << d << ", target " << i);
        const Segment& s = targets.segments[i];
        ExpectRounded(got.Rows(s.first_row, s.rows),
                      Dense(q[i], k[i], v[i], kHeads, kGroups, args.scale), dtype);
      }
    }
  }
}

// Few rows share their keys out among many processors of a device, many rows do not: the same bits.
TEST_P(AttentionModesTest, ARowsBitsDoNotDependOnHowManyRowsThereAre) {
  constexpr int kRows = 600;
  constexpr int64_t kSource = 200;
  FullAttentionArgs args = Args(4);
  const Buffer pages = Pages(args, 4);
  args.pages = pages.data();
  const int64_t wide = int64_t{kHeads} * args.head_dim;
  const int64_t narrow = int64_t{kGroups} * args.head_dim;
  Batch source;
  AddSegment(&source, 0, kSource, 0);
  source.pages = {3, 1, 0, 2};
  const DeviceTensor k(*backend_, Random(kSource, narrow), 0);
  const DeviceTensor v(*backend_, Random(kSource, narrow), 0);
  args.mode = FullAttentionMode::kAppend;
  args.k = k.view();
  args.v = v.view();
  RunOps(*backend_, source, [&] { backend_->FullAttention(source, args); });

  const Mat q = Random(kRows, wide);
  const auto run = [&](int64_t first, int64_t rows) {
    Batch batch;
    for (int64_t i = 0; i < rows; ++i) {
      AddSegment(&batch, static_cast<int>(i), 1, 7);
      batch.segments.back().source_rows = kSource;
    }
    batch.source_pages = source.pages;
    const DeviceTensor queries(*backend_, q.Rows(first, rows), 0);
    const DeviceTensor out(*backend_, Mat(rows, wide), 0);
    args.mode = FullAttentionMode::kCross;
    args.q = queries.view();
    args.out = out.view();
    RunOps(*backend_, batch, [&] { backend_->FullAttention(batch, args); });
    return out.Read();
  };
  const Mat all = run(0, kRows);
  for (const int64_t row : {0, 311, kRows - 1}) {
    ExpectSameBits(run(row, 1), all.Rows(row, 1), "row " + std::to_string(row));
  }
}

TEST_P(AttentionModesTest, CausalOnBFloat16) {
  constexpr DType kBf16 = DType::kBFloat16;
  if (!Has(kBf16)) GTEST_SKIP() << "this backend's activations are float32";
  for (const int d : {5, 64, 128}) {
    constexpr int64_t kN = 150;
    FullAttentionArgs args = Args(d);
    const Buffer pages = Pages(args, 3);
    args.pages = pages.data();
    const Mat q = Inputs(kN, static_cast<int64_t>(kHeads) * d, kBf16);
    const Mat k = Inputs(kN, static_cast<int64_t>(kGroups) * d, kBf16);
    const Mat v = Inputs(kN, static_cast<int64_t>(kGroups) * d, kBf16);
    Mat got(0, q.cols);
    for (const int64_t rows : {64, 70, 1, 15}) {
      Batch batch;
      AddSegment(&batch, 0, rows, got.rows);
      batch.pages = {2, 0, 1};
      const DeviceTensor dq(*backend_, q.Rows(got.rows, rows), 1, kBf16);
      const DeviceTensor dk(*backend_, k.Rows(got.rows, rows), 2, kBf16);
      const DeviceTensor dv(*backend_, v.Rows(got.rows, rows), 3, kBf16);
      const DeviceTensor out(*backend_, Mat(rows, q.cols), 4, kBf16);
      args.q = dq.view();
      args.k = dk.view();
      args.v = dv.view();
      args.out = out.view();
      RunOps(*backend_, batch, [&] { backend_->FullAttention(batch, args); });
      const Mat piece = out.Read();
      got.v.insert(got.v.end(), piece.v.begin(), piece.v.end());
      got.rows += rows;
    }
    ExpectRounded(got, FullAttentionReference(q, k, v, kHeads, kGroups, args.scale), kBf16);
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, AttentionModesTest, ::testing::ValuesIn(AllBackends()),
                         CaseName);

}  // namespace
}  // namespace t2r::testing
