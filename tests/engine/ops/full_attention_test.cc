#include <algorithm>
#include <numeric>

#include "tests/engine/ops/testing/op_test.h"

namespace t2r::testing {
namespace {

// Sessions of one layer over a page pool whose pages are handed out in a scrambled order.
class FullAttentionTest : public OpTest {
 protected:
  static constexpr int kPages = 24;

  void Start(int heads, int groups, int d, DType pages = DType::kFloat32) {
    args_ = FullAttentionArgs{};
    args_.pages_dtype = pages;
    args_.heads = heads;
    args_.groups = groups;
    args_.head_dim = d;
    args_.scale = static_cast<float>(1 / std::sqrt(static_cast<double>(d)));
    const int64_t layer = 2LL * groups * kKvPageSize * d;
    args_.page_stride = layer + 32;
    // What an earlier session left behind must not matter, NaN included.
    const std::vector<float> garbage(kPages * args_.page_stride,
                                     std::numeric_limits<float>::quiet_NaN());
    pool_ = backend_->LoadVector(garbage);
    args_.pages = pool_.f32();
    free_.resize(kPages);
    std::iota(free_.begin(), free_.end(), 0);
    std::shuffle(free_.begin(), free_.end(), rng_);
  }

  std::vector<int32_t> Take(int64_t positions) {
    std::vector<int32_t> table;
    for (int64_t p = 0; p < positions; p += kKvPageSize) {
      table.push_back(free_.back());
      free_.pop_back();
    }
    return table;
  }

  struct Part {
    const std::vector<int32_t>* table;
    Mat q, k, v;
    int64_t position;
  };

  // One call with a segment a part; returns the rows of each part.
  std::vector<Mat> Run(const std::vector<Part>& parts) {
    Batch batch;
    Mat q(0, parts[0].q.cols);
    Mat k(0, parts[0].k.cols);
    Mat v(0, parts[0].v.cols);
    int slot = 0;
    for (const Part& part : parts) {
      batch.segments.push_back({slot++, static_cast<int32_t>(q.rows),
                                static_cast<int32_t>(part.q.rows), part.position,
                                static_cast<int32_t>(batch.pages.size())});
      batch.pages.insert(batch.pages.end(), part.table->begin(), part.table->end());
      for (const auto& [to, from] :
           {std::pair<Mat*, const Mat*>{&q, &part.q}, {&k, &part.k}, {&v, &part.v}}) {
        to->v.insert(to->v.end(), from->v.begin(), from->v.end());
        to->rows += from->rows;
      }
      for (int64_t r = 0; r < part.q.rows; ++r) {
        batch.tokens.push_back(0);
        batch.positions.push_back(part.position + r);
      }
    }
    const DeviceTensor dq = Device(q, 1);
    const DeviceTensor dk = Device(k, 2);
    const DeviceTensor dv = Device(v, 3);
    const DeviceTensor out = Device(Mat(q.rows, q.cols), 4);
    args_.q = dq.view();
    args_.k = dk.view();
    args_.v = dv.view();
    args_.out = out.view();
    RunOps(*backend_, batch, [&] { backend_->FullAttention(batch, args_); });
    const Mat all = out.Read();
    std::vector<Mat> results;
    for (const Segment& s : batch.segments) results.push_back(all.Rows(s.first_row, s.rows));
    return results;
  }

  FullAttentionArgs args_;
  Buffer pool_;
  std::vector<int32_t> free_;
};

// What a page keeps of keys or values.
Mat Kept(Mat m, DType pages) {
  if (pages == DType::kBFloat16) {
    for (double& value : m.v) {
      value = BFloat16ToFloat(FloatToBFloat16(static_cast<float>(value)));
    }
  }
  return m;
}

TEST_P(FullAttentionTest, AgreesWithFloat64) {
  for (const auto& [heads, groups, d] : std::vector<std::tuple<int, int, int>>{
           {1, 1, 1}, {2, 1, 8}, {6, 3, 64}, {4, 4, 80}, {5, 1, 128}, {3, 3, 7}}) {
    for (const int64_t n : {1, 63, 64, 65, 150}) {
      for (const DType pages : {DType::kFloat32, DType::kBFloat16}) {
        if (!backend_->keeps_kv_as(pages, DType::kFloat32)) continue;
        Start(heads, groups, d, pages);
        const std::vector<int32_t> table = Take(n);
        const Mat q = Random(n, static_cast<int64_t>(heads) * d, 2.0);
        const Mat k = Random(n, static_cast<int64_t>(groups) * d);
        const Mat v = Random(n, static_cast<int64_t>(groups) * d);
        const Result want =
            FullAttentionReference(q, Kept(k, pages), Kept(v, pages), heads, groups, args_.scale);
        const std::vector<Mat> got = Run({{&table, q, k, v, 0}});
        SCOPED_TRACE(::testing::Message() << heads << " heads, " << groups << " groups, d " << d
                                          << ", n " << n << ", " << NameOf(pages));
        ExpectWithin(got[0], want.out, want.bound);
      }
    }
  }
}

TEST_P(FullAttentionTest, LargeScoresDoNotOverflow) {
  Start(1, 1, 16);
  const std::vector<int32_t> table = Take(100);
  const Mat q = Random(100, 16, 60.0);
  const Mat k = Random(100, 16, 60.0);
  const Mat v = Random(100, 16);
  const Result want = FullAttentionReference(q, k, v, 1, 1, args_.scale);
  ExpectWithin(Run({{&table, q, k, v, 0}})[0], want.out, want.bound);
}

TEST_P(FullAttentionTest, BitsDoNotDependOnTheSplitOrTheNeighbours) {
  constexpr int64_t kN = 140;
  for (const DType pages : {DType::kFloat32, DType::kBFloat16}) {
    if (!backend_->keeps_kv_as(pages, DType::kFloat32)) continue;
    Start(6, 2, 24, pages);
    const Mat q = Random(kN, 6 * 24);
    const Mat k = Random(kN, 2 * 24);
    const Mat v = Random(kN, 2 * 24);
    const std::vector<int32_t> whole_table = Take(kN);
    const Mat whole = Run({{&whole_table, q, k, v, 0}})[0];
    const std::vector<std::vector<int64_t>> splits = {
        std::vector<int64_t>(kN, 1), {1, 139}, {63, 1, 76}, {64, 64, 12}, {17, 50, 61, 12},
        {60, 10, 52, 12, 6}};
    for (const std::vector<int64_t>& split : splits) {
      Start(6, 2, 24, pages);
      const std::vector<int32_t> table = Take(kN);
      const std::vector<int32_t> other_table = Take(kN);
      int64_t at = 0;
      for (const int64_t count : split) {
        const Part mine = {&table, q.Rows(at, count), k.Rows(at, count), v.Rows(at, count), at};
        const Part other = {&other_table, Random(1, 6 * 24), Random(1, 2 * 24), Random(1, 2 * 24),
                            at == 0 ? 0 : 1};
        const Mat got = count % 2 == 0 ? Run({other, mine})[1] : Run({mine, other})[0];
        ExpectSameBits(got, whole.Rows(at, count),
                       "rows " + std::to_string(at) + " + " + std::to_string(count));
        at += count;
      }
    }
  }
}

// Rows that come together, some over the end of a page, find what they bring themselves.
TEST_P(FullAttentionTest, ShortSegmentsOfManySessionsAreAsEachAlone) {
  const std::vector<int64_t> counts = {1, 10, 1, 3, 12, 1, 16, 2, 1, 7, 1};
  for (const DType pages : {DType::kFloat32, DType::kBFloat16}) {
    if (!backend_->keeps_kv_as(pages, DType::kFloat32)) continue;
    struct Session {
      int64_t before;
      Mat q, k, v;
      Mat want;
    };
    std::vector<Session> sessions;
    for (size_t i = 0; i < counts.size(); ++i) {
      const int64_t before = 55 + static_cast<int64_t>(i);
      const int64_t n = before + counts[i];
      Session session = {before, Random(n, 6 * 24), Random(n, 2 * 24), Random(n, 2 * 24), Mat()};
      Start(6, 2, 24, pages);
      const std::vector<int32_t> table = Take(n);
      session.want = Run({{&table, session.q, session.k, session.v, 0}})[0];
      sessions.push_back(std::move(session));
    }
    Start(6, 2, 24, pages);
    std::vector<std::vector<int32_t>> tables;
    for (size_t i = 0; i < counts.size(); ++i)
      tables.push_back(Take(sessions[i].before + counts[i]));
    const auto parts = [&](bool first) {
      std::vector<Part> all;
      for (size_t i = 0; i < counts.size(); ++i) {
        const Session& session = sessions[i];
        const int64_t at = first ? 0 : session.before;
        const int64_t count = first ? session.before : counts[i];
        all.push_back({&tables[i], session.q.Rows(at, count), session.k.Rows(at, count),
                       session.v.Rows(at, count), at});
      }
      return all;
    };
    Run(parts(true));
    const std::vector<Mat> got = Run(parts(false));
    for (size_t i = 0; i < counts.size(); ++i) {
      ExpectSameBits(got[i], sessions[i].want.Rows(sessions[i].before, counts[i]),
                     "session " + std::to_string(i));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, FullAttentionTest, ::testing::ValuesIn(AllBackends()), CaseName);

}  // namespace
}  // namespace t2r::testing
