// A real checkpoint's known figures; skipped where the shared data is absent.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <string>

#include "convert/data/corpus.h"
#include "convert/model/model_dir.h"
#include "convert/runtime.h"
#include "convert/status.h"
#include "convert/train/loss.h"
#include "engine/engine.h"
#include "engine/tokenizer/tokenizer.h"

namespace t2r::convert {
namespace {

std::string SharedData() {
  const char* set = std::getenv("T2R_SHARED_DATA");
  return set != nullptr ? set : T2R_SOURCE_DIR "/../shared/data";
}

TEST(KnownModel, Stories260KHasItsKnownLossOnTheFirst150Stories) {
  const std::string data = SharedData();
  if (!std::filesystem::exists(data + "/stories260K/config.json")) {
    GTEST_SKIP() << "no stories260K in " << data << "; set T2R_SHARED_DATA";
  }
  PrepareRuntime(1);
  const ModelConfig config = Unwrap(LoadModelConfig(data + "/stories260K"));
  const auto tokenizer = Unwrap(LoadTokenizer(data + "/stories260K"));
  TrainingModel model(config, torch::kCPU);
  LoadParameters(data + "/stories260K", &model, false);
  CorpusOptions options;
  options.separator = "<|endoftext|>";
  options.documents = 150;
  options.max_tokens_per_document = 512;
  const Corpus corpus =
      LoadCorpus(data + "/tinystories/valid.txt", options, config, tokenizer.get());
  const Evaluation evaluation = Evaluate(model, corpus);
  EXPECT_EQ(evaluation.documents, 150);
  EXPECT_EQ(evaluation.predictions, 55777);
  EXPECT_NEAR(evaluation.nats_per_token(), 1.40256, 5e-6);
}

}  // namespace
}  // namespace t2r::convert
