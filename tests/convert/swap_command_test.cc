// swap, then finetune of what it wrote, from end to end on tiny models.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <string>

#include "convert/calibrate/sizes.h"
#include "convert/commands.h"
#include "convert/data/files.h"
#include "convert/data/self_text.h"
#include "convert/error.h"
#include "convert/runtime.h"
#include "convert/train/loss.h"
#include "testing/temporary_directory.h"
#include "tests/convert/small_models.h"

namespace t2r::convert {
namespace {

using t2r::testing::TemporaryDirectory;

using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

class SwapCommandTest : public ::testing::Test {
 protected:
  SwapCommandTest() {
    PrepareRuntime();
    WriteSmallModel(directory_ / "parent", SmallLlamaJson(), 3);
    std::string text;
    for (int i = 0; i < 16; ++i) {
      for (int t = 0; t < 60; ++t) text += std::to_string((i * 5 + t * t + t) % 37) + " ";
      text += "\n--\n";
    }
    text_ = directory_.Write("text", text);
  }

  SwapFlags Flags(const std::string& window, int features) const {
    SwapFlags flags;
    flags.model = directory_ / "parent";
    flags.output.directory = directory_ / "swapped";
    flags.text = text_;
    flags.corpus.ids = true;
    flags.corpus.separator = "--";
    flags.window = window;
    flags.sinks = 1;
    flags.feature_size = features;
    flags.documents = 8;
    flags.held_out = 8;
    flags.tokens = 64;
    return flags;
  }
  double Nats(const std::string& name) const {
    TrainingModel model(Unwrap(LoadModelConfig(directory_ / name)), torch::kCPU);
    LoadParameters(directory_ / name, &model, false);
    CorpusOptions options;
    options.ids = true;
    options.separator = "--";
    return Evaluate(model, LoadCorpus(text_, options, model.config(), nullptr)).nats_per_token();
  }
  FinetuneFlags Training(int64_t steps) const {
    FinetuneFlags flags;
    flags.model = directory_ / "swapped";
    flags.parent = directory_ / "parent";
    flags.output.directory = directory_ / "child";
    flags.data.train = flags.data.valid = text_;
    flags.data.corpus.ids = true;
    flags.data.corpus.separator = "--";
    flags.training.steps = steps;
    flags.training.window = 64;
    flags.training.batch_tokens = 320;
    flags.training.log_every = 1000;
    return flags;
  }
  // Tensors of `child` that differ from the one of that name in `before`.
  std::vector<std::string> Changed(const std::string& before, const std::string& child) const {
    const ModelConfig config = Unwrap(LoadModelConfig(directory_ / child));
    TrainingModel a(config, torch::kCPU), b(config, torch::kCPU);
    LoadParameters(directory_ / before, &a, true);
    LoadParameters(directory_ / child, &b, false);
    std::vector<std::string> names;
    for (const auto& spec : a.parameters().specs()) {
      if (!torch::equal(a.parameters().Get(spec.name), b.parameters().Get(spec.name))) {
        names.push_back(spec.name);
      }
    }
    return names;
  }

  TemporaryDirectory directory_;
  std::string text_;
};

TEST_F(SwapCommandTest, AWindowOverTheWholeTextIsTheParent) {
  Swap(Flags("64", 8));
  EXPECT_NEAR(Nats("swapped"), Nats("parent"), 1e-5);
  for (const std::string& name : Changed("parent", "swapped")) {
    EXPECT_THAT(name, HasSubstr("feature_map"));
  }
}

TEST_F(SwapCommandTest, EveryMapAndSizesByLayer) {
  for (const char* map : {"none", "codebook", "t2r", "elu", "rfa", "hedgehog"}) {
    SwapFlags flags = Flags("8", std::string(map) == "elu" ? 6 : 12);
    flags.feature_map = map;
    flags.fold = 3;
    Swap(flags);
    EXPECT_TRUE(std::isfinite(Nats("swapped"))) << map;
  }
  // 3 layers of at least 4 · 2 · (12 · 17 + 16 · 7) bytes.
  Swap(Flags("auto:12000", 8));
  const ModelConfig config = Unwrap(LoadModelConfig(directory_ / "swapped"));
  EXPECT_GE(config.linear_attention->window, 32);
  const double uneven = Nats("swapped");
  // Several budgets, from the same measurements: a model each.
  Swap(Flags("auto:8000,12000", 8));
  EXPECT_EQ(ReadFile(directory_ / "swapped-12000" + "/config.json"),
            ReadFile(directory_ / "swapped" + "/config.json"));
  EXPECT_EQ(Nats("swapped-12000"), uneven);
  const ModelConfig small = Unwrap(LoadModelConfig(directory_ / "swapped-8000"));
  EXPECT_LE(StateBytes(small, DType::kFloat32), 8000);
  EXPECT_LT(StateBytes(small, DType::kFloat32), StateBytes(config, DType::kFloat32));
  // Windows of 16-bit keys and values are longer within the same bytes.
  SwapFlags halved = Flags("auto:8000", 8);
  halved.window_dtype = "bfloat16";
  halved.output.directory = directory_ / "halved";
  Swap(halved);
  const ModelConfig longer = Unwrap(LoadModelConfig(directory_ / "halved"));
  EXPECT_LE(StateBytes(longer, DType::kBFloat16), 8000);
  EXPECT_GT(StateBytes(longer, DType::kFloat32), 8000);
  // The sizes of another swap, but for a layer that is kept full.
  SwapFlags like = Flags("like:" + (directory_ / "swapped-12000"), 8);
  like.output.directory = directory_ / "like";
  like.keep_full = "1";
  Swap(like);
  const ModelConfig same = Unwrap(LoadModelConfig(directory_ / "like"));
  EXPECT_EQ(same.full_layers(), 1);
  for (const int layer : {0, 2}) {
    EXPECT_EQ(same.linear_attention->sizes(layer), config.linear_attention->sizes(layer));
  }
  SwapFlags full = Flags("like:" + (directory_ / "like"), 8);
  EXPECT_THAT([&] { Swap(full); },
              ThrowsMessage<ConvertError>(HasSubstr("its layer 1 has no window")));
  like.feature_map = "t2r";
  EXPECT_THAT([&] { Swap(like); }, ThrowsMessage<ConvertError>(HasSubstr("same feature map")));
  EXPECT_THAT([&] { Swap(Flags("auto:12000,100", 8)); },
              ThrowsMessage<ConvertError>(HasSubstr("less than the smallest")));
  SwapFlags kept = Flags("4", 4);
  kept.keep_full = "auto:1";
  Swap(kept);
  EXPECT_EQ(Unwrap(LoadModelConfig(directory_ / "swapped")).full_layers(), 1);
  EXPECT_TRUE(std::isfinite(uneven));
}

TEST_F(SwapCommandTest, TransferTrainsWhatIsNewAlone) {
  Swap(Flags("6", 6));
  FinetuneFlags flags = Training(30);
  flags.stage = "transfer";
  Finetune(flags);
  const auto changed = Changed("swapped", "child");
  EXPECT_EQ(changed.size(), 3U * 4U);  // the codebooks' tensors
  for (const std::string& name : changed) EXPECT_THAT(name, HasSubstr("feature_map"));
}

TEST_F(SwapCommandTest, FinetuningLearnsAndKeepsDecaysBelowZero) {
  Swap(Flags("6", 6));
  FinetuneFlags flags = Training(40);
  flags.stage = "transfer,finetune";
  flags.half_life = 20;
  flags.training.distill = 0.5;
  flags.output.dtype = "bfloat16";
  Finetune(flags);
  EXPECT_LT(Nats("child"), 0.9 * Nats("swapped"));
  TrainingModel child(Unwrap(LoadModelConfig(directory_ / "child")), torch::kCPU);
  LoadParameters(directory_ / "child", &child, false);
  const torch::Tensor decay =
      child.parameters().Get("model.layers.0.self_attn.feature_map.log_decay");
  EXPECT_LE(decay.max().item<float>(), 0.0F);
  EXPECT_TRUE(decay.any().item<bool>());

  flags = Training(5);
  flags.train_only = "attention";
  Finetune(flags);
  for (const std::string& name : Changed("swapped", "child")) {
    EXPECT_THAT(name, HasSubstr("self_attn"));
  }
}

TEST_F(SwapCommandTest, TakesThePlaceOfASlidingWindow) {
  WriteSmallModel(directory_ / "parent", SmallMistralJson(), 3);
  Swap(Flags("24", 8));  // of the parent's own width: what lies behind it is new
  EXPECT_THAT(Changed("parent", "swapped"), ::testing::Each(HasSubstr("feature_map")));
  const ModelConfig config = Unwrap(LoadModelConfig(directory_ / "swapped"));
  EXPECT_EQ(config.linear_attention->feature_map, FeatureMapKind::kCodebook);
  EXPECT_EQ(config.linear_layers(), 2);
  FinetuneFlags flags = Training(5);
  flags.stage = "transfer";
  EXPECT_THAT([&] { Finetune(flags); }, ThrowsMessage<ConvertError>(HasSubstr("sliding window")));
  flags.training.window = 24;
  flags.output.directory = directory_ / "transferred";
  Finetune(flags);
  EXPECT_TRUE(std::isfinite(Nats("transferred")));
  SwapFlags kept = Flags("8", 8);
  kept.keep_full = "0";
  EXPECT_THAT([&] { Swap(kept); }, ThrowsMessage<ConvertError>(HasSubstr("sliding window")));
}

TEST_F(SwapCommandTest, AStateWithoutAWindowForgetsToo) {
  FinetuneFlags flags = Training(20);
  flags.model = directory_ / "parent";
  flags.feature_map = "t2r";
  flags.feature_size = 8;
  flags.half_life = 20;
  Finetune(flags);
  TrainingModel child(Unwrap(LoadModelConfig(directory_ / "child")), torch::kCPU);
  LoadParameters(directory_ / "child", &child, false);
  const torch::Tensor decay =
      child.parameters().Get("model.layers.1.self_attn.feature_map.log_decay");
  EXPECT_LT(decay.max().item<float>(), 0.0F);
  EXPECT_NE(decay[0].item<float>(), decay[1].item<float>());  // each learned its own
}

TEST_F(SwapCommandTest, TrainsOnWhatTheParentWrites) {
  std::string json = SmallLlamaJson();
  json.insert(1, R"("bos_token_id": 3, "eos_token_id": 5,)");
  WriteSmallModel(directory_ / "writer", json, 3);
  SelfTextOptions options;
  options.tokens = 300;
  options.length = 40;
  options.batch = 3;
  const auto few = WriteSelfText(directory_ / "writer", options, nullptr);
  options.batch = 7;
  EXPECT_EQ(WriteSelfText(directory_ / "writer", options, nullptr), few);
  options.seed = 2;
  EXPECT_NE(WriteSelfText(directory_ / "writer", options, nullptr), few);
  size_t tokens = 0;
  for (const auto& ids : few) {
    tokens += ids.size();
    EXPECT_EQ(ids.front(), 3);
    EXPECT_LE(ids.size(), 40U);
    EXPECT_TRUE(ids.size() == 40U || ids.back() == 5);
  }
  EXPECT_GE(tokens, 300U);
  EXPECT_LT(tokens - few.back().size(), 300U);

  FinetuneFlags flags = Training(3);
  flags.model = flags.parent = directory_ / "writer";
  flags.data.train = "self:200";
  Finetune(flags);
  EXPECT_FALSE(Changed("writer", "child").empty());
  flags.data.train = "self:none";
  EXPECT_THAT([&] { Finetune(flags); }, ThrowsMessage<ConvertError>(HasSubstr("self:")));
}

TEST_F(SwapCommandTest, RefusesWhatCannotBe) {
  SwapFlags none = Flags("8", 8);
  none.documents = 0;
  EXPECT_THAT([&] { Swap(none); }, ThrowsMessage<ConvertError>(HasSubstr("at least 1")));
  Swap(Flags("8", 8));
  SwapFlags again = Flags("8", 8);
  again.model = directory_ / "swapped";
  EXPECT_THAT([&] { Swap(again); },
              ThrowsMessage<ConvertError>(HasSubstr("linear layers already")));
  FinetuneFlags decay = Training(1);
  decay.model = directory_ / "parent";
  decay.half_life = 9;
  EXPECT_THAT([&] { Finetune(decay); }, ThrowsMessage<ConvertError>(HasSubstr("--decay")));
  FinetuneFlags only = Training(1);
  only.train_only = "some";
  EXPECT_THAT([&] { Finetune(only); }, ThrowsMessage<ConvertError>(HasSubstr("--train-only")));
}

}  // namespace
}  // namespace t2r::convert
