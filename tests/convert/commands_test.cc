// The subcommands from end to end, on tiny models.
#include "convert/commands.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <string>

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

// Documents that count upwards from different numbers, modulo 37: easy to learn.
std::string CountingIds(int documents, int length) {
  std::string text;
  for (int i = 0; i < documents; ++i) {
    for (int t = 0; t < length; ++t) text += std::to_string((i * 5 + t) % 37) + " ";
    text += "\n--\n";
  }
  return text;
}

double NatsOf(const std::string& model_directory, const std::string& file) {
  const ModelConfig config = Unwrap(LoadModelConfig(model_directory));
  TrainingModel model(config, torch::kCPU);
  LoadParameters(model_directory, &model, false);
  CorpusOptions options;
  options.ids = true;
  options.separator = "--";
  return Evaluate(model, LoadCorpus(file, options, config, nullptr)).nats_per_token();
}

class CommandsTest : public ::testing::Test {
 protected:
  CommandsTest()
      : train_(directory_.Write("train", CountingIds(40, 30))),
        valid_(directory_.Write("valid", CountingIds(7, 25))) {
    PrepareRuntime();
  }

  DataFlags Data() const {
    DataFlags data;
    data.train = train_;
    data.valid = valid_;
    data.corpus.ids = true;
    data.corpus.separator = "--";
    return data;
  }
  static TrainOptions Training(int64_t steps) {
    TrainOptions options;
    options.steps = steps;
    options.window = 32;
    options.batch_tokens = 320;
    options.learning_rate = 5e-3;
    options.log_every = 1000;
    return options;
  }
  FinetuneFlags Flags(const std::string& map, int k) const {
    FinetuneFlags flags;
    flags.model = directory_ / "parent";
    flags.output.directory = directory_ / "child";
    flags.data = Data();
    flags.feature_map = map;
    flags.feature_size = k;
    flags.training = Training(40);
    return flags;
  }

  TemporaryDirectory directory_;
  std::string train_, valid_;
};

TEST_F(CommandsTest, PretrainThenFinetuneLearns) {
  PretrainFlags pretrain;
  pretrain.output.directory = directory_ / "parent";
  pretrain.data = Data();
  pretrain.vocab_size = 37;
  pretrain.hidden = 32;
  pretrain.intermediate = 48;
  pretrain.layers = 2;
  pretrain.heads = 4;
  pretrain.kv_heads = 2;
  pretrain.training = Training(120);
  Pretrain(pretrain);
  const double parent = NatsOf(directory_ / "parent", valid_);
  EXPECT_LT(parent, 1.0);  // of log 37 = 3.6

  for (const std::string map : {"t2r", "elu", "rfa", "hedgehog"}) {
    FinetuneFlags flags = Flags(map, map == "elu" ? 0 : 16);
    flags.output.dtype = map == "rfa" ? "bfloat16" : "float32";
    flags.stage = map == "t2r" ? "transfer,finetune" : "finetune";
    flags.training.distill = map == "hedgehog" ? 0.5 : 0.0;
    flags.keep_full = map == "elu" ? "every:2" : "";
    Finetune(flags);
    EXPECT_LT(NatsOf(directory_ / "child", valid_), parent) << map;
    EXPECT_FALSE(std::filesystem::exists(directory_ / "child.work"));
  }
}

// Transfer alone moves feature maps only: every tensor of the parent comes out bit for bit, the
// kept layers' among them, and the swapped model is nearer to the parent than without it.
TEST_F(CommandsTest, TransferLeavesEveryTensorOfTheParentAsItWas) {
  WriteSmallModel(directory_ / "parent", SmallLlamaJson(), 1);
  FinetuneFlags flags = Flags("t2r", 16);
  flags.keep_full = "auto:1";
  flags.stage = "transfer";
  Finetune(flags);
  const ModelConfig config = Unwrap(LoadModelConfig(directory_ / "child"));
  EXPECT_EQ(config.linear_layers(), 2);
  TrainingModel parent(Unwrap(LoadModelConfig(directory_ / "parent")), torch::kCPU);
  LoadParameters(directory_ / "parent", &parent, false);
  TrainingModel child(config, torch::kCPU), swapped(config, torch::kCPU);
  LoadParameters(directory_ / "child", &child, false);
  LoadParameters(directory_ / "parent", &swapped, true);
  InitializeFeatureMaps(&swapped, flags.training.seed);
  for (const auto& spec : parent.parameters().specs()) {
    EXPECT_TRUE(torch::equal(child.parameters().Get(spec.name), parent.parameters().Get(spec.name)))
        << spec.name;
  }
  const torch::NoGradGuard no_grad;
  const ModelInput input{torch::arange(60).view({2, 30}) % 37, {}, {}};
  const torch::Tensor counted = torch::ones({2, 30});
  EXPECT_LT(child.TransferLoss(input, counted), 0.9 * swapped.TransferLoss(input, counted));
}

// LoRA lowers the loss, and so does a model of the same shape from random weights, which has
// nothing of the parent's.
TEST_F(CommandsTest, LoraAndRandomWeightsLearn) {
  WriteSmallModel(directory_ / "parent", SmallLlamaJson(), 1);
  FinetuneFlags flags = Flags("t2r", 16);
  flags.training = Training(1);
  flags.training.learning_rate = 0;
  Finetune(flags);
  const double swapped = NatsOf(directory_ / "child", valid_);
  flags.training = Training(60);
  flags.trainable.lora_rank = 4;
  Finetune(flags);
  EXPECT_LT(NatsOf(directory_ / "child", valid_), swapped - 0.5);
  flags.trainable.lora_rank = 0;
  flags.random_weights = true;
  flags.training.learning_rate = 0;
  Finetune(flags);
  EXPECT_NEAR(NatsOf(directory_ / "child", valid_), std::log(37.0), 0.1);
}

TEST_F(CommandsTest, Gpt2TrainsWithinItsLearnedPositions) {
  PretrainFlags pretrain;
  pretrain.architecture = "gpt2";
  pretrain.output.directory = directory_ / "parent";
  pretrain.data = Data();
  pretrain.vocab_size = 37;
  pretrain.hidden = 32;
  pretrain.intermediate = 64;
  pretrain.layers = 2;
  pretrain.heads = 4;
  pretrain.positions = 32;
  pretrain.training = Training(120);
  Pretrain(pretrain);
  const double parent = NatsOf(directory_ / "parent", valid_);
  EXPECT_LT(parent, 1.5);
  Finetune(Flags("t2r", 16));
  EXPECT_LT(NatsOf(directory_ / "child", valid_), parent);

  FinetuneFlags flags = Flags("t2r", 16);
  flags.training.window = 33;
  EXPECT_THAT([&] { Finetune(flags); },
              ThrowsMessage<ConvertError>(HasSubstr("exceeds the 32 learned positions")));
  // A document beyond the learned positions goes in windows.
  EvalFlags eval;
  eval.model = directory_ / "child";
  eval.corpus.ids = true;
  eval.text = directory_.Write("long", CountingIds(1, 80));
  eval.corpus.separator = "--";
  eval.engine.backend = "cpu";
  EXPECT_NO_THROW(Eval(eval));
  eval.windows.window = 34;
  EXPECT_THAT([&] { Eval(eval); }, ThrowsMessage<ConvertError>(HasSubstr("allow at most 33")));
}

TEST_F(CommandsTest, RefusesFlagsThatCannotBe) {
  WriteSmallModel(directory_ / "parent", SmallLlamaJson(), 1);
  const auto finetune = [&](const std::function<void(FinetuneFlags&)>& change) {
    FinetuneFlags flags = Flags("t2r", 8);
    change(flags);
    return [flags] { Finetune(flags); };
  };
  EXPECT_THAT(finetune([](auto& f) { f.feature_map = "relu"; }),
              ThrowsMessage<ConvertError>(HasSubstr("'relu'")));
  EXPECT_THAT(finetune([](auto& f) { f.training.minutes = 1; }),
              ThrowsMessage<ConvertError>(HasSubstr("exactly one of")));
  EXPECT_THAT(finetune([](auto& f) { f.training.batch_tokens = 16; }),
              ThrowsMessage<ConvertError>(HasSubstr("--batch")));
  EXPECT_THAT(finetune([](auto& f) { f.output.dtype = "float16"; }),
              ThrowsMessage<ConvertError>(HasSubstr("'float16'")));
  EXPECT_THAT(finetune([](auto& f) { f.training.distill = 1.5; }),
              ThrowsMessage<ConvertError>(HasSubstr("--distill")));
  EXPECT_THAT(finetune([](auto& f) { f.training.distill_temperature = 0; }),
              ThrowsMessage<ConvertError>(HasSubstr("--distill-temperature")));
  EXPECT_THAT(finetune([](auto& f) { f.training.label_smoothing = 1; }),
              ThrowsMessage<ConvertError>(HasSubstr("--label-smoothing")));
  EXPECT_THAT(finetune([](auto& f) { f.training.schedule = "linear"; }),
              ThrowsMessage<ConvertError>(HasSubstr("'linear'")));
  EXPECT_THAT(finetune([](auto& f) { f.stage = "finetune,transfer"; }),
              ThrowsMessage<ConvertError>(HasSubstr("'finetune,transfer'")));
  EXPECT_THAT(finetune([](auto& f) {
                f.stage = "transfer";
                f.feature_map = "elu";
                f.feature_size = 0;
              }),
              ThrowsMessage<ConvertError>(HasSubstr("elu has nothing to train")));
  EXPECT_THAT(finetune([](auto& f) { f.feature_map = "", f.stage = "transfer"; }),
              ThrowsMessage<ConvertError>(HasSubstr("the model has none")));
  EXPECT_THAT(finetune([](auto& f) { f.feature_map = "", f.keep_full = "0"; }),
              ThrowsMessage<ConvertError>(HasSubstr("give --feature-map too")));
  EXPECT_THAT(finetune([](auto& f) { f.keep_full_cross = "0"; }),
              ThrowsMessage<ConvertError>(HasSubstr("no cross attention")));
  EXPECT_THAT(finetune([](auto& f) { f.trainable.lora_rank = 2, f.random_weights = true; }),
              ThrowsMessage<ConvertError>(HasSubstr("--random-weights")));
  EXPECT_THAT(finetune([](auto& f) { f.trainable.freeze_encoder = true; }),
              ThrowsMessage<ConvertError>(HasSubstr("no encoder")));
  EXPECT_THAT(finetune([](auto& f) { f.data.train = "/nowhere"; }),
              ThrowsMessage<ConvertError>(HasSubstr("/nowhere")));
  EXPECT_THAT(finetune([](auto& f) { f.data.corpus.ids = false; }),
              ThrowsMessage<ConvertError>(HasSubstr("no tokenizer")));
  EXPECT_THAT(finetune([](auto& f) { f.device = "tpu"; }),
              ThrowsMessage<ConvertError>(HasSubstr("'tpu'")));
  EXPECT_THAT(finetune([](auto& f) { f.model = "/nowhere"; }),
              ThrowsMessage<ConvertError>(HasSubstr("/nowhere")));
  EXPECT_FALSE(std::filesystem::exists(directory_ / "child"));
}

}  // namespace
}  // namespace t2r::convert
