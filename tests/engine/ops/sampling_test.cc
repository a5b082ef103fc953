// Backend::Sample and FetchSamples against SampleRow, row by row.
#include <algorithm>
#include <numeric>

#include "engine/sampling/sampler.h"
#include "tests/engine/ops/testing/op_test.h"

namespace t2r::testing {
namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

class SamplingTest : public OpTest {
 protected:
  // What the backend makes of the requests, one after another in one call.
  std::vector<SampleResult> Run(const Mat& logits, const std::vector<SampleRequest>& requests) {
    const DeviceTensor device = Device(logits, 3);
    std::vector<SampleResult> results(requests.size());
    backend_->Sample(device.view(), requests);
    backend_->FetchSamples(results);
    ExpectSameBits(device.Read(), logits, "the logits were changed");
    return results;
  }

  // A log probability may differ by the order of the float64 sum and one rounding to float32.
  static void ExpectNear(float got, float want, const std::string& what) {
    if (std::isnan(want)) {
      EXPECT_TRUE(std::isnan(got)) << what;
    } else if (std::isinf(want)) {
      EXPECT_EQ(got, want) << what;
    } else {
      EXPECT_NEAR(got, want, 4 * kU * std::abs(want) + 1e-12) << what;
    }
  }

  void ExpectLikeSampleRow(const Mat& logits, const std::vector<SampleRequest>& requests) {
    const std::vector<SampleResult> results = Run(logits, requests);
    for (size_t i = 0; i < requests.size(); ++i) {
      const std::vector<float> row = logits.Rows(requests[i].row, 1).Floats();
      const SampleResult want = SampleRow(row, requests[i]);
      const std::string what = "request " + std::to_string(i);
      EXPECT_EQ(results[i].finite, want.finite) << what;
      if (requests[i].sampling != nullptr) {
        EXPECT_EQ(results[i].token, want.token) << what;
        ExpectNear(results[i].logprob, want.logprob, what);
      }
      if (requests[i].target >= 0) {
        ExpectNear(results[i].target_logprob, want.target_logprob, what + ", target");
      }
      ASSERT_EQ(results[i].top.size(), want.top.size()) << what;
      for (size_t j = 0; j < want.top.size(); ++j) {
        EXPECT_EQ(results[i].top[j].first, want.top[j].first) << what << ", alternative " << j;
        ExpectNear(results[i].top[j].second, want.top[j].second, what + ", an alternative");
      }
    }
  }

  static SampleRequest Request(const SamplingParams& params, int32_t row = 0,
                               uint64_t position = 0) {
    SampleRequest request;
    request.row = row;
    request.sampling = &params;
    request.position = position;
    return request;
  }

  // Logits that tie often: multiples of a quarter.
  Mat Coarse(int64_t rows, int64_t vocabulary) {
    Mat m = Random(rows, vocabulary, 2.0);
    for (double& v : m.v) v = std::round(v * 4) / 4;
    return m;
  }
};

TEST_P(SamplingTest, GreedyTakesTheLowestOfTheLargest) {
  SamplingParams greedy;
  greedy.temperature = 0;
  for (const int64_t vocabulary : {1, 2, 31, 512, 513, 1700}) {
    const Mat logits = Coarse(5, vocabulary);
    std::vector<SampleRequest> requests;
    for (const int32_t row : {4, 0, 3, 3}) requests.push_back(Request(greedy, row));
    ExpectLikeSampleRow(logits, requests);
  }
}

TEST_P(SamplingTest, NaNAndInfinities) {
  SamplingParams greedy;
  greedy.temperature = 0;
  SamplingParams warm;
  Mat logits = Coarse(7, 600);
  for (int64_t i = 0; i < 600; ++i) {
    logits.at(0, i) = kNaN;
    logits.at(1, i) = -kInfinity;
    logits.at(2, i) = i < 300 ? kNaN : -kInfinity;
    if (i % 3 == 0) logits.at(3, i) = kNaN;
    if (i % 3 == 1) logits.at(4, i) = -kInfinity;
    logits.at(6, i) = i % 2 == 0 ? 0.0 : -0.0;
  }
  logits.at(5, 77) = kInfinity;
  logits.at(5, 78) = kInfinity;
  std::vector<SampleRequest> requests;
  for (int32_t row = 0; row < 7; ++row) {
    for (const SamplingParams* params : {&greedy, &warm}) {
      requests.push_back(Request(*params, row, 5));
      requests.back().top = row == 0 ? 0 : 9;
      requests.back().target = 301;
    }
  }
  ExpectLikeSampleRow(logits, requests);
}

TEST_P(SamplingTest, ATargetOutsideTheVocabularyIsImpossible) {
  const Mat logits = Coarse(2, 50);
  std::vector<SampleRequest> requests(3);
  requests[0].target = 50;
  requests[1].target = 1 << 30;
  requests[2].target = 49;
  requests[2].row = 1;
  ExpectLikeSampleRow(logits, requests);
}

TEST_P(SamplingTest, Alternatives) {
  for (const int64_t vocabulary : {1, 7, 128, 2000}) {
    const Mat logits = Coarse(2, vocabulary);
    std::vector<SampleRequest> requests;
    for (const int top : {0, 1, 2, 5, 20, 127, 128}) {
      SampleRequest request;
      request.row = top % 2;
      request.top = top;
      request.target = static_cast<int32_t>(vocabulary / 2);
      requests.push_back(request);
    }
    ExpectLikeSampleRow(logits, requests);
  }
}

TEST_P(SamplingTest, BiasAndPenalties) {
  const Mat logits = Coarse(1, 900);
  SamplingParams params;
  params.repetition_penalty = 1.7F;
  params.frequency_penalty = 0.3F;
  params.presence_penalty = -0.4F;
  std::vector<TokenAdjustment> adjustments;
  for (int32_t token = 3; token < 900; token += token % 5 + 1) {
    adjustments.push_back({token, token % 4, token % 7 == 0 ? 1.5F : 0.0F, token % 2 == 0});
  }
  adjustments.push_back({900, 3, 100.0F, true});  // outside the vocabulary
  std::vector<SampleRequest> requests;
  SamplingParams greedy = params;
  greedy.temperature = 0;
  for (uint64_t position = 0; position < 40; ++position) {
    requests.push_back(Request(position == 0 ? greedy : params, 0, position));
    requests.back().adjustments = adjustments;
  }
  // A banned token, alone and with all others.
  const std::vector<TokenAdjustment> banned = {{GreedyToken(logits.Floats()), 0, -kInfinity}};
  requests.push_back(Request(greedy));
  requests.back().adjustments = banned;
  std::vector<TokenAdjustment> all(900);
  for (int32_t token = 0; token < 900; ++token) all[token] = {token, 0, -kInfinity};
  requests.push_back(Request(params));
  requests.back().adjustments = all;
  ExpectLikeSampleRow(logits, requests);
}

// Every rule, alone and together, over many draws. The masses that decide are sums of the same
// weights, the device's rounded down to 2^-50 or finer: a draw falls that near a border once in
// 10^12 draws.
TEST_P(SamplingTest, DrawsAreTheCpus) {
  std::vector<SamplingParams> all;
  for (const float temperature : {0.2F, 1.0F, 3.0F}) {
    for (const int32_t top_k : {0, 1, 7, 5000}) {
      for (const float top_p : {1.0F, 0.9F, 0.3F, 0.0F}) {
        for (const float min_p : {0.0F, 0.1F, 1.0F}) {
          SamplingParams params;
          params.temperature = temperature;
          params.top_k = top_k;
          params.top_p = top_p;
          params.min_p = min_p;
          params.seed = 0x123456789abcdef0ULL + all.size();
          params.sequence = all.size();
          all.push_back(params);
        }
      }
    }
  }
  const Mat logits = Random(6, 1531, 2.5);
  const Mat ties = Coarse(6, 1531);
  std::vector<SampleRequest> requests;
  for (size_t i = 0; i < all.size(); ++i) {
    for (uint64_t j = 0; j < 2; ++j) {
      requests.push_back(Request(all[i], static_cast<int32_t>((i + j) % 6), (1ULL << 33) + 7 * j));
    }
  }
  ExpectLikeSampleRow(logits, requests);
  ExpectLikeSampleRow(ties, requests);
}

TEST_P(SamplingTest, ExtremeTemperatures) {
  const Mat logits = Random(3, 700, 30.0);
  std::vector<SamplingParams> all(4);
  all[0].temperature = 1e-40F;  // 1 / temperature overflows
  all[1].temperature = 1e-3F;
  all[2].temperature = 1e30F;
  all[3].temperature = kInfinity;
  std::vector<SampleRequest> requests;
  for (const SamplingParams& params : all) {
    for (int32_t row = 0; row < 3; ++row) requests.push_back(Request(params, row, row));
  }
  ExpectLikeSampleRow(logits, requests);
}

// A row's results do not depend on the other requests, nor calls on those before them.
TEST_P(SamplingTest, RequestsDoNotMeet) {
  const Mat logits = Random(8, 300);
  SamplingParams params;
  params.top_p = 0.8F;
  std::vector<SampleRequest> requests;
  for (int32_t row = 7; row >= 0; --row) {
    requests.push_back(Request(params, row, row));
    requests.back().top = row;
  }
  const std::vector<SampleResult> together = Run(logits, requests);
  EXPECT_TRUE(Run(logits, {}).empty());
  for (size_t i = 0; i < requests.size(); ++i) {
    const SampleResult alone = Run(logits, {requests[i]})[0];
    EXPECT_EQ(alone.token, together[i].token);
    EXPECT_EQ(alone.logprob, together[i].logprob);
    EXPECT_EQ(alone.top, together[i].top);
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, SamplingTest, ::testing::ValuesIn(AllBackends()), CaseName);

}  // namespace
}  // namespace t2r::testing
