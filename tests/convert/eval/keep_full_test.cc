#include "convert/eval/keep_full.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <vector>

#include "convert/error.h"
#include "convert/train/loss.h"
#include "tests/convert/small_models.h"

namespace t2r::convert {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::ThrowsMessage;

KeepFull Parse(const std::string& text) { return ParseKeepFull(text, 8, "--keep-full"); }

TEST(ParseKeepFull, ReadsListsStepsAndCounts) {
  EXPECT_THAT(Parse("").layers, IsEmpty());
  EXPECT_THAT(Parse("0,3").layers, ElementsAre(0, 3));
  EXPECT_THAT(Parse("every:4").layers, ElementsAre(3, 7));
  EXPECT_THAT(Parse("every:3").layers, ElementsAre(2, 5));
  EXPECT_THAT(Parse("all").layers, ElementsAre(0, 1, 2, 3, 4, 5, 6, 7));
  EXPECT_EQ(Parse("all").automatic, 0);
  EXPECT_EQ(Parse("auto:2").automatic, 2);
  EXPECT_THAT(Parse("auto:2").layers, IsEmpty());
}

TEST(ParseKeepFull, NamesTheFlagInErrors) {
  EXPECT_THAT([] { Parse("every:0"); },
              ThrowsMessage<ConvertError>(HasSubstr("--keep-full every:N needs N from 1 to 8")));
  EXPECT_THAT([] { Parse("auto:9"); }, ThrowsMessage<ConvertError>(HasSubstr("auto:N")));
  EXPECT_THAT([] { Parse("0;3"); }, ThrowsMessage<ConvertError>(HasSubstr("'0;3'")));
  EXPECT_THAT([] { ParseKeepFull("x", 8, "--keep-full-cross"); },
              ThrowsMessage<ConvertError>(HasSubstr("--keep-full-cross 'x'")));
}

TEST(CostliestLayers, AreThoseWithTheLargestCostInTheirOrder) {
  const std::vector<SwapCost> costs{
      {{0, false}, 0.1}, {{1, false}, 0.7}, {{2, false}, -0.2}, {{3, false}, 0.4}};
  EXPECT_THAT(CostliestLayers(costs, 2), ElementsAre(1, 3));
  EXPECT_THAT(CostliestLayers(costs, 3), ElementsAre(0, 1, 3));
}

// Layer 1's output projection is zero: its attention adds nothing, so its swap costs nothing. The
// cost of another layer is the loss of the model that is swapped there only.
TEST(MeasureSwapCosts, IsTheLossThatEachSwapAloneAdds) {
  TrainingModel parent(Unwrap(ParseModelConfig(SmallLlamaJson(), "")), torch::kCPU);
  Randomize(&parent, 8);
  {
    const torch::NoGradGuard no_grad;
    torch::Tensor out = parent.parameters().Get("model.layers.1.self_attn.o_proj.weight");
    out.zero_();
  }
  const Corpus corpus = SmallCorpus();
  const SwapOptions swap{FeatureMapKind::kT2r, 10, {}, {}};
  const auto costs = MeasureSwapCosts(parent, swap, /*cross=*/false, corpus, 5);
  ASSERT_EQ(costs.size(), 3U);
  EXPECT_EQ(costs[1].nats, 0.0);
  EXPECT_NE(costs[0].nats, 0.0);

  TrainingModel alone(SwappedConfig(parent.config(), {FeatureMapKind::kT2r, 10, {0, 1}, {}}),
                      torch::kCPU);
  for (const auto& spec : parent.parameters().specs()) {
    const torch::NoGradGuard no_grad;
    torch::Tensor value = alone.parameters().Get(spec.name);
    value.copy_(parent.parameters().Get(spec.name));
  }
  InitializeFeatureMaps(&alone, 5);
  EXPECT_EQ(costs[2].site.layer, 2);
  EXPECT_DOUBLE_EQ(costs[2].nats, Evaluate(alone, corpus).nats_per_token() -
                                      Evaluate(parent, corpus).nats_per_token());
}

}  // namespace
}  // namespace t2r::convert
