// Pretraining, finetuning and evaluating an encoder-decoder from end to end, on a tiny language.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "convert/commands.h"
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

// Sources of 2 to 6 ids from 3 to 13; a target is its source with 10 added to every id, closed by
// 2.
std::string EchoPairs(int first, int pairs) {
  std::string text;
  for (int i = first; i < first + pairs; ++i) {
    std::string target;
    for (int t = 0; t < 2 + i % 5; ++t) {
      const int id = 3 + (i * 7 + t * (i % 6 + 1)) % 11;
      text += std::to_string(id) + " ";
      target += std::to_string(id + 10) + " ";
    }
    text += "\t" + target + "2\n";
  }
  return text;
}

class PairCommandsTest : public ::testing::Test {
 protected:
  PairCommandsTest() {
    PrepareRuntime();
    data_.train = directory_.Write("train", EchoPairs(0, 300));
    data_.valid = directory_.Write("valid", EchoPairs(300, 40));
    data_.corpus.ids = true;
  }

  void PretrainParent(int64_t steps) {
    PretrainFlags flags;
    flags.architecture = "marian";
    flags.output.directory = directory_ / "parent";
    flags.data = data_;
    flags.vocab_size = 24;
    flags.source_vocab_size = 14;
    flags.hidden = 32;
    flags.intermediate = 48;
    flags.layers = 2;
    flags.encoder_layers = 1;
    flags.heads = 4;
    flags.positions = 16;
    flags.start_token = 1;
    flags.training = Training(steps);
    Pretrain(flags);
  }
  static TrainOptions Training(int64_t steps) {
    TrainOptions options;
    options.steps = steps;
    options.window = 16;
    options.batch_tokens = 600;
    options.learning_rate = 1e-2;
    options.schedule = "inverse-sqrt";
    options.label_smoothing = 0.05;
    options.log_every = 1000;
    return options;
  }
  FinetuneFlags Flags() const {
    FinetuneFlags flags;
    flags.model = directory_ / "parent";
    flags.output.directory = directory_ / "child";
    flags.data = data_;
    flags.feature_map = "t2r";
    flags.feature_size = 16;
    flags.training = Training(60);
    return flags;
  }
  double NatsOf(const std::string& name) const {
    const ModelConfig config = Unwrap(LoadModelConfig(directory_ / name));
    TrainingModel model(config, torch::kCPU);
    LoadParameters(directory_ / name, &model, false);
    return Evaluate(model, LoadParallelCorpus(data_.valid, "", data_.corpus, 16, config, nullptr))
        .nats_per_token();
  }

  TemporaryDirectory directory_;
  DataFlags data_;
};

TEST_F(PairCommandsTest, PretrainThenSwapBothAttentionsLearns) {
  PretrainParent(250);
  const double parent = NatsOf("parent");
  EXPECT_LT(parent, 1.0);  // of log 24 = 3.2

  FinetuneFlags flags = Flags();
  flags.stage = "transfer,finetune";
  Finetune(flags);
  const ModelConfig config = Unwrap(LoadModelConfig(directory_ / "child"));
  EXPECT_EQ(config.linear_layers(), 2);
  EXPECT_EQ(config.linear_cross_layers(), 2);
  EXPECT_LT(NatsOf("child"), 1.4);

  // Cross attention of the costliest layer kept, distilled, the encoder as it was.
  flags.keep_full_cross = "auto:1";
  flags.keep_full = "all";
  flags.training.distill = 0.5;
  flags.trainable.freeze_encoder = true;
  Finetune(flags);
  const ModelConfig mixed = Unwrap(LoadModelConfig(directory_ / "child"));
  EXPECT_EQ(mixed.linear_layers(), 0);
  EXPECT_EQ(mixed.linear_cross_layers(), 1);
  EXPECT_LT(NatsOf("child"), 0.9);
  TrainingModel before(Unwrap(LoadModelConfig(directory_ / "parent")), torch::kCPU);
  TrainingModel after(mixed, torch::kCPU);
  LoadParameters(directory_ / "parent", &before, false);
  LoadParameters(directory_ / "child", &after, false);
  for (const auto& spec : before.parameters().specs()) {
    const bool same =
        torch::equal(before.parameters().Get(spec.name), after.parameters().Get(spec.name));
    EXPECT_EQ(same, spec.name.starts_with("model.encoder.") || spec.computed) << spec.name;
  }

  EvalFlags eval;
  eval.model = directory_ / "child";
  eval.text = data_.valid;
  eval.corpus.ids = true;
  EXPECT_NO_THROW(Eval(eval));
}

TEST_F(PairCommandsTest, RefusesFlagsThatCannotBe) {
  PretrainParent(1);
  FinetuneFlags flags = Flags();
  flags.training.window = 17;
  EXPECT_THAT([&] { Finetune(flags); }, ThrowsMessage<ConvertError>(HasSubstr("16")));
  flags = Flags();
  flags.training.warmup_share = 0;
  EXPECT_THAT([&] { Finetune(flags); }, ThrowsMessage<ConvertError>(HasSubstr("--warmup")));
  flags = Flags();
  flags.keep_full = flags.keep_full_cross = "all";
  EXPECT_THAT([&] { Finetune(flags); },
              ThrowsMessage<ConvertError>(HasSubstr("nothing is left to convert")));
  PretrainFlags pretrain;
  pretrain.architecture = "marian";
  pretrain.output.directory = directory_ / "other";
  pretrain.data = data_;
  pretrain.vocab_size = 24;
  pretrain.training = Training(1);
  EXPECT_THAT([&] { Pretrain(pretrain); },
              ThrowsMessage<ConvertError>(HasSubstr("--source-vocab-size")));
  pretrain.train_tokenizer = 100;
  EXPECT_THAT([&] { Pretrain(pretrain); },
              ThrowsMessage<ConvertError>(HasSubstr("--tokenizer DIR")));
}

}  // namespace
}  // namespace t2r::convert
