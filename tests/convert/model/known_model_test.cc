// A real checkpoint's known figures; skipped where the shared data is absent.
#include <gtest/gtest.h>

#include <string>

#include "convert/data/corpus.h"
#include "convert/model/model_dir.h"
#include "convert/runtime.h"
#include "convert/status.h"
#include "convert/train/loss.h"
#include "engine/engine.h"
#include "engine/tokenizer/tokenizer.h"
#include "testing/shared_data.h"

namespace t2r::convert {
namespace {

TEST(KnownModel, Stories260KHasItsKnownLossOnTheFirst150Stories) {
  const std::string directory = t2r::testing::SharedData("stories260K");
  const std::string text = t2r::testing::SharedData("tinystories/valid.txt");
  if (directory.empty() || text.empty()) {
    GTEST_SKIP() << "needs T2R_DATA: stories260K, tinystories";
  }
  PrepareRuntime();
  const ModelConfig config = Unwrap(LoadModelConfig(directory));
  const auto tokenizer = Unwrap(LoadTokenizer(directory));
  TrainingModel model(config, torch::kCPU);
  LoadParameters(directory, &model, false);
  CorpusOptions options;
  options.separator = "<|endoftext|>";
  options.documents = 150;
  options.max_tokens_per_document = 512;
  const Corpus corpus = LoadCorpus(text, options, config, tokenizer.get());
  const Evaluation evaluation = Evaluate(model, corpus);
  EXPECT_EQ(evaluation.documents, 150);
  EXPECT_EQ(evaluation.predictions, 55777);
  EXPECT_NEAR(evaluation.nats_per_token(), 1.40256, 5e-6);
}

}  // namespace
}  // namespace t2r::convert
