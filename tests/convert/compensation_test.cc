// Quantising matrices for the inputs that a text gives them.
#include "convert/quantize/compensation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>
#include <random>

#include "convert/error.h"
#include "convert/quantize/quantize_model.h"
#include "engine/ops/cpu/quantize_group.h"
#include "tests/engine/model/engine_fixture.h"

namespace t2r::convert {
namespace {

using t2r::testing::ConfigOf;
using t2r::testing::ModelSpec;
using t2r::testing::RandomWeights;
using t2r::testing::SomeIds;
using t2r::testing::TemporaryDirectory;
using t2r::testing::WriteWeights;

constexpr int64_t kCols = 100;  // the last group is short
constexpr int64_t kOutputs = 37;
constexpr int64_t kInputs = 400;

// Inputs that hang together: a tenth as many directions as features, and some noise.
std::vector<float> Inputs() {
  std::mt19937_64 rng(5);
  std::normal_distribution<float> normal(0, 1);
  std::vector<float> directions(kCols / 10 * kCols);
  for (float& v : directions) v = normal(rng);
  std::vector<float> x(kInputs * kCols);
  for (int64_t t = 0; t < kInputs; ++t) {
    for (int64_t d = 0; d < kCols / 10; ++d) {
      const float much = normal(rng);
      for (int64_t i = 0; i < kCols; ++i) x[t * kCols + i] += much * directions[d * kCols + i];
    }
    for (int64_t i = 0; i < kCols; ++i) x[t * kCols + i] += 0.5F * normal(rng);
  }
  return x;
}

SecondMoments MomentsOf(const std::vector<float>& x) {
  SecondMoments moments{kCols, std::vector<float>(kCols * kCols)};
  for (int64_t i = 0; i < kCols; ++i) {
    for (int64_t j = 0; j < kCols; ++j) {
      double sum = 0;
      for (int64_t t = 0; t < kInputs; ++t) {
        sum += static_cast<double>(x[t * kCols + i]) * x[t * kCols + j];
      }
      moments.sums[i * kCols + j] = static_cast<float>(sum);
    }
  }
  return moments;
}

std::vector<float> Weights() {
  std::mt19937_64 rng(6);
  std::normal_distribution<float> normal(0, 1);
  std::vector<float> w(kOutputs * kCols);
  for (float& v : w) v = normal(rng);
  return w;
}

std::vector<QuantizedGroup> Plain(const std::vector<float>& w, DType dtype) {
  std::vector<QuantizedGroup> groups;
  for (int64_t n = 0; n < kOutputs; ++n) {
    for (int64_t k = 0; k < kCols; k += kQuantGroup) {
      groups.push_back(
          QuantizeGroup(w.data() + n * kCols + k, std::min(kQuantGroup, kCols - k), dtype));
    }
  }
  return groups;
}

// ‖X (W − Ŵ)ᵀ‖².
double OutputError(const std::vector<float>& x, const std::vector<float>& w,
                   const std::vector<QuantizedGroup>& groups, DType dtype) {
  double all = 0;
  for (int64_t n = 0; n < kOutputs; ++n) {
    for (int64_t t = 0; t < kInputs; ++t) {
      double sum = 0;
      for (int64_t k = 0; k < kCols; ++k) {
        const QuantizedGroup& group = groups[n * QuantGroups(kCols) + k / kQuantGroup];
        const double off = w[n * kCols + k] - group.Value(dtype, k % kQuantGroup);
        sum += off * x[t * kCols + k];
      }
      all += sum * sum;
    }
  }
  return all;
}

TEST(CompensationTest, FactorIsThatOfTheInverse) {
  const SecondMoments moments = MomentsOf(Inputs());
  const Compensation compensation(moments);
  const std::span<const float> u = compensation.factor();
  double mean = 0;
  for (int64_t i = 0; i < kCols; ++i) mean += moments.sums[i * kCols + i] / kCols;
  for (int64_t i = 0; i < kCols; ++i) {
    std::vector<double> row(kCols);  // of Uᵀ U
    for (int64_t m = 0; m <= i; ++m) {
      for (int64_t j = m; j < kCols; ++j) {
        row[j] += static_cast<double>(u[m * kCols + i]) * u[m * kCols + j];
      }
    }
    for (int64_t j = 0; j < kCols; ++j) {
      if (j < i) {
        EXPECT_EQ(u[i * kCols + j], 0.0F);
      }
      double sum = 0;
      for (int64_t m = 0; m < kCols; ++m) {
        const double damped = moments.sums[m * kCols + j] + (m == j ? 0.01 * mean : 0.0);
        sum += row[m] * damped;
      }
      EXPECT_NEAR(sum, i == j ? 1.0 : 0.0, 1e-3);
    }
  }
}

TEST(CompensationTest, TakesBackMostOfTheErrorOfInputsThatHangTogether) {
  const std::vector<float> x = Inputs();
  const std::vector<float> w = Weights();
  const Compensation compensation(MomentsOf(x));
  ThreadPool pool(2);
  for (const DType dtype : {DType::kInt8, DType::kInt4}) {
    const auto groups = compensation.Quantize(w, dtype, &pool);
    ASSERT_EQ(groups.size(), static_cast<size_t>(kOutputs * QuantGroups(kCols)));
    EXPECT_LT(OutputError(x, w, groups, dtype), 0.5 * OutputError(x, w, Plain(w, dtype), dtype));
  }
}

// Rounded from first to last alone they leave 0.087 of the error.
TEST(CompensationTest, RowsInFourBitsAreGoneOverAgain) {
  const std::vector<float> x = Inputs();
  const std::vector<float> w = Weights();
  ThreadPool pool(2);
  const auto groups = Compensation(MomentsOf(x)).Quantize(w, DType::kInt4, &pool);
  const double plain = OutputError(x, w, Plain(w, DType::kInt4), DType::kInt4);
  EXPECT_LT(OutputError(x, w, groups, DType::kInt4), 0.06 * plain);
}

TEST(CompensationTest, InputsWithoutCorrelationChangeNothing) {
  SecondMoments moments{kCols, std::vector<float>(kCols * kCols)};
  for (int64_t i = 0; i < kCols; ++i) moments.sums[i * kCols + i] = 3;
  const std::vector<float> w = Weights();
  ThreadPool pool(1);
  const auto groups = Compensation(moments).Quantize(w, DType::kInt8, &pool);
  const auto plain = Plain(w, DType::kInt8);
  for (size_t g = 0; g < plain.size(); ++g) {
    EXPECT_EQ(groups[g].scale, plain[g].scale);
    for (int64_t i = 0; i < std::min(kQuantGroup, kCols); ++i) {
      if (static_cast<int64_t>(g) % QuantGroups(kCols) * kQuantGroup + i >= kCols) break;
      EXPECT_NEAR(groups[g].codes[static_cast<size_t>(i)], plain[g].codes[static_cast<size_t>(i)],
                  1);
    }
  }
}

TEST(CompensationTest, NumbersThatAreNotFiniteAreRefused) {
  SecondMoments moments{2, {1, 0, 0, std::numeric_limits<float>::quiet_NaN()}};
  EXPECT_THROW(Compensation{moments}, ConvertError);
  moments.sums[3] = 0;  // an input that is never there
  EXPECT_NO_THROW(Compensation{moments});
}

class CalibratedModelTest : public ::testing::Test {
 protected:
  void SetUp() override {
    model_.Write("config.json", ConfigOf(spec_));
    WriteWeights(model_, weights_);
    for (int n = 0; n < 3; ++n) {
      std::vector<int32_t> ids = SomeIds(70 + n, spec_.vocab);
      ids[0] = n;
      corpus_.documents.push_back(ids);
    }
  }

  ModelSpec spec_;
  t2r::testing::Tensors weights_ = RandomWeights(spec_, 3);
  TemporaryDirectory model_, out_;
  Corpus corpus_;
};

// The first layer's queries, keys and values see the normalised embeddings of all ids but the last
// of each document, whatever the room for moments.
TEST_F(CalibratedModelTest, MomentsAreThoseOfTheMatricesInputs) {
  const auto config = LoadModelConfig(model_.path());
  const auto files = SafetensorsDirectory::Open(model_.path());
  ASSERT_TRUE(config.ok() && files.ok());
  const auto& table = weights_.at("model.embed_tokens.weight").values;
  const auto& norm = weights_.at("model.layers.0.input_layernorm.weight").values;
  const int64_t k = spec_.hidden;
  std::vector<double> want(static_cast<size_t>(k * k));
  for (const auto& document : corpus_.documents) {
    for (size_t t = 0; t + 1 < document.size(); ++t) {
      double squares = 0;
      for (int64_t i = 0; i < k; ++i) squares += std::pow(table[document[t] * k + i], 2);
      const double factor = 1 / std::sqrt(squares / static_cast<double>(k) + spec_.norm_eps);
      std::vector<double> x(static_cast<size_t>(k));
      for (int64_t i = 0; i < k; ++i) x[i] = table[document[t] * k + i] * factor * norm[i];
      for (int64_t i = 0; i < k; ++i) {
        for (int64_t j = 0; j < k; ++j) want[i * k + j] += x[i] * x[j];
      }
    }
  }
  for (const int64_t room : {int64_t{0}, int64_t{1} << 30}) {
    std::map<std::string, int> seen;
    WatchedModel model(*config, **files, corpus_);
    model.MeasureSecondMoments(room, [&](const LoadedMatrix& loaded, const SecondMoments& got) {
      for (const std::string& name : loaded.names) ++seen[name];
      EXPECT_TRUE(loaded.whole);
      EXPECT_EQ(got.sums.size(), static_cast<size_t>(got.cols * got.cols));
      if (loaded.names[0] != "model.layers.0.self_attn.q_proj.weight") return;
      ASSERT_EQ(got.cols, k);
      for (size_t i = 0; i < want.size(); ++i) EXPECT_NEAR(got.sums[i], want[i], 2e-3);
    });
    EXPECT_EQ(seen.size(), static_cast<size_t>(7 * spec_.layers));
    for (const auto& [name, times] : seen) EXPECT_EQ(times, 1) << name;
  }
}

TEST_F(CalibratedModelTest, IsWrittenAndLoaded) {
  const std::string out = out_.path() + "/calibrated";
  const QuantizeSummary summary = QuantizeModel(model_.path(), out, {DType::kInt4, &corpus_},
                                                [](double, const std::string&) {});
  EXPECT_EQ(summary.calibrated, 7 * spec_.layers);
  EXPECT_GT(summary.matrices, summary.calibrated);
  EngineOptions options;
  options.backend = "cpu";
  const auto engine = LoadEngine(out, options);
  ASSERT_TRUE(engine.ok()) << engine.status();
  EXPECT_EQ((*engine)->weight_dtype, "int4");
}

}  // namespace
}  // namespace t2r::convert
