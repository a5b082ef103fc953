#include "convert/calibrate/sizes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/error.h"

namespace t2r::convert {
namespace {

using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

ModelConfig TwoGroups() {
  ModelConfig config;
  config.kv_heads = 2;
  config.head_dim = 8;
  return config;
}

TEST(StateBytes, FollowTheFormula) {
  // G · (2 d (w + C − 1 + n) + M (d + 1)) floats.
  EXPECT_EQ(StateBytes(TwoGroups(), LinearSizes{64, 32, 1, 4}, DType::kFloat32),
            4 * 2 * (16 * 36 + 64 * 9));
  EXPECT_EQ(StateBytes(TwoGroups(), LinearSizes{64, 32, 1, 4}, DType::kBFloat16),
            2 * (2 * 16 * 36 + 4 * 64 * 9));
  EXPECT_EQ(StateBytes(TwoGroups(), LinearSizes{64, 32, 1, 4}, DType::kInt8),
            2 * (2 * (8 + 4) * 36 + 4 * 64 * 9));
  EXPECT_EQ(StateBytes(TwoGroups(), LinearSizes{64, 0, 0, 1}, DType::kFloat32), 4 * 2 * 64 * 9);
  ModelConfig config = TwoGroups();
  config.layers = 2;
  config.layer_types = {LayerType::kLinearAttention, LayerType::kFullAttention};
  config.linear_attention = LinearAttentionConfig{};
  config.linear_attention->feature_size = 5;
  EXPECT_EQ(StateBytes(config, DType::kBFloat16), 4 * 2 * 5 * 9);
  EXPECT_EQ(CacheBytes(config, 100), 4 * 2 * 2 * 8 * 100);
}

TEST(SpendBytes, TakesTheStepsThatSaveTheMostABit) {
  const std::vector<LinearSizes> rungs{{16, 16, 0, 1}, {32, 32, 0, 1}, {64, 64, 0, 1}};
  const int64_t least = StateBytes(TwoGroups(), rungs[0], DType::kFloat32);  // a rung doubles it
  const std::vector<std::vector<double>> nats{
      {0.10, 0.50, 0.01}, {0.06, 0.40, 0.01}, {0.05, 0.01, 0.00}};
  ModelConfig config = TwoGroups();
  config.layer_types.assign(3, LayerType::kLinearAttention);
  const auto windows = [&](int64_t budget) {
    std::vector<int> w;
    for (const size_t rung : SpendBytes(config, rungs, nats, budget, DType::kFloat32))
      w.push_back(rungs[rung].window);
    return w;
  };
  EXPECT_THAT(windows(3 * least), ::testing::ElementsAre(16, 16, 16));
  EXPECT_THAT(windows(5 * least), ::testing::ElementsAre(32, 32, 16));
  // Layer 1's third rung saves more a byte than its second.
  EXPECT_THAT(windows(6 * least), ::testing::ElementsAre(16, 64, 16));
  EXPECT_THAT(windows(7 * least), ::testing::ElementsAre(32, 64, 16));
  EXPECT_THAT(windows(100 * least), ::testing::ElementsAre(64, 64, 64));
  EXPECT_THAT([&] { windows(3 * least - 1); },
              ThrowsMessage<ConvertError>(HasSubstr(std::to_string(3 * least))));
  config.layer_types[1] = LayerType::kFullAttention;  // costs no bytes of state
  EXPECT_THAT(windows(2 * least), ::testing::ElementsAre(16, 16, 16));
  EXPECT_THAT(windows(8 * least), ::testing::ElementsAre(64, 16, 64));
}

TEST(ParseWindow, TakesANumberOrBudgets) {
  EXPECT_EQ(ParseWindow("64").window, 64);
  EXPECT_THAT(ParseWindow("64").budgets, ::testing::IsEmpty());
  EXPECT_THAT(ParseWindow("auto:8388608").budgets, ::testing::ElementsAre(8388608));
  EXPECT_THAT(ParseWindow("auto:9,7,8").budgets, ::testing::ElementsAre(9, 7, 8));
  EXPECT_EQ(ParseWindow("like:some/where").like, "some/where");
  for (const char* bad : {"", "0", "-1", "64x", "auto", "auto:", "auto:-5", "99999999", "64,32",
                          "64,", "like:", "auto:5,", "auto:,5", "auto:5,0"}) {
    EXPECT_THROW(ParseWindow(bad), ConvertError) << bad;
  }
}

}  // namespace
}  // namespace t2r::convert
