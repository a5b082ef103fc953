#include "engine/model/tensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "engine/model/model.h"
#include "testing/marian_directory.h"
#include "testing/reference_model.h"

namespace t2r {
namespace {

using ::testing::HasSubstr;
using testing::MarianSpec;
using testing::ModelSpec;
using testing::Tensors;

// Holds tensors and remembers which were asked for and found.
class RecordingSource : public WeightSource {
 public:
  explicit RecordingSource(const Tensors& tensors) {
    for (const auto& [name, tensor] : tensors) {
      tensors_[name] = {tensor.values.data(), DType::kFloat32, tensor.shape};
    }
  }
  const HostTensor* Find(std::string_view name) const override {
    const auto found = tensors_.find(name);
    if (found == tensors_.end()) return nullptr;
    used_.insert(found->first);
    return &found->second;
  }
  const std::set<std::string>& used() const { return used_; }

 private:
  std::map<std::string, HostTensor, std::less<>> tensors_;
  mutable std::set<std::string> used_;
};

struct Case {
  std::string name;
  std::string config;
  Tensors tensors;  // written down independently of TensorsOf
};

std::vector<Case> Cases() {
  std::vector<Case> cases;
  const auto add = [&](const char* name, const auto& spec) {
    cases.push_back({name, testing::ConfigOf(spec), testing::RandomWeights(spec, 3)});
  };
  ModelSpec llama;
  add("Llama", llama);
  llama.tied = true;
  llama.linear = {true, false, true};
  add("LlamaTiedT2r", llama);
  llama.map = "hedgehog";
  llama.prefix = false;
  add("LlamaHedgehogWithoutPrefix", llama);
  ModelSpec biased;
  biased.attention_bias = biased.mlp_bias = true;
  biased.linear = {true, true, true};
  biased.map = "rfa";
  add("LlamaBiasedRfa", biased);
  ModelSpec qwen2;
  qwen2.qwen2 = true;
  add("Qwen2", qwen2);
  ModelSpec qwen3;
  qwen3.qwen3 = true;
  qwen3.linear = {true, false, true};
  add("Qwen3", qwen3);
  ModelSpec gpt2;
  gpt2.gpt2 = true;
  gpt2.groups = 4;
  add("Gpt2Untied", gpt2);
  gpt2.tied = true;
  gpt2.prefix = false;
  gpt2.linear = {false, true, true};
  add("Gpt2WithoutPrefix", gpt2);
  ModelSpec neox;
  neox.neox = true;
  neox.groups = 4;
  neox.rotary = 0.5;
  add("GptNeoxWithoutBiases", neox);
  neox.attention_bias = neox.tied = true;
  neox.prefix = false;
  neox.linear = {true, false, true};
  add("GptNeoxTiedT2rWithoutPrefix", neox);
  ModelSpec phi3;
  phi3.phi3 = true;
  add("Phi3", phi3);
  phi3.rotary = 0.5;
  phi3.map = "hedgehog";
  phi3.linear = {false, true, true};
  add("Phi3Hedgehog", phi3);
  MarianSpec marian;
  marian.linear = {true, false, true};
  marian.linear_cross = {false, true, true};
  add("Marian", marian);
  marian.share = true;
  marian.stored = false;
  marian.tied = false;
  marian.final_norm = true;
  add("MarianShared", marian);
  return cases;
}

class TensorsTest : public ::testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    auto config = ParseModelConfig(GetParam().config, "");
    ASSERT_TRUE(config.ok()) << config.status();
    config_ = *config;
  }
  ModelConfig config_;
};

// Every tensor of a file that was written without the list stands in it with its shape, and nothing
// but optional ones is listed beside.
TEST_P(TensorsTest, ListsWhatFilesHold) {
  std::set<std::string> left;
  for (const auto& [name, tensor] : GetParam().tensors) left.insert(name);
  for (const TensorSpec& tensor : TensorsOf(config_)) {
    std::vector<std::string> names = tensor.aliases;
    names.push_back(tensor.name);
    bool found = false;
    for (const std::string& name : names) {
      if (left.erase(name) == 0) continue;
      found = true;
      EXPECT_EQ(GetParam().tensors.at(name).shape, tensor.shape) << name;
    }
    EXPECT_TRUE(found || tensor.optional) << tensor.name;
  }
  EXPECT_THAT(left, ::testing::IsEmpty());
}

// The forward pass takes every listed tensor that is there.
TEST_P(TensorsTest, AllAreLoaded) {
  const RecordingSource source(GetParam().tensors);
  const auto backend = MakeBackend({"cpu", 1});
  const auto model = MakeModel(config_, source, *backend, {});
  std::set<std::string> all;
  for (const auto& [name, tensor] : GetParam().tensors) all.insert(name);
  EXPECT_EQ(source.used(), all);
}

TEST_P(TensorsTest, AWrongShapeIsRefusedByName) {
  for (const TensorSpec& tensor : TensorsOf(config_)) {
    Tensors changed = GetParam().tensors;
    const RecordingSource before(changed);
    const HostTensor* const found = FindTensor(before, tensor);
    if (found == nullptr) continue;
    for (auto& [name, each] : changed) {
      if (each.values.data() == found->data) each.shape.back() += 1;
    }
    const RecordingSource source(changed);
    const auto backend = MakeBackend({"cpu", 1});
    try {
      MakeModel(config_, source, *backend, {});
      ADD_FAILURE() << tensor.name << " of another shape was taken";
    } catch (const ModelError& error) {
      EXPECT_THAT(error.what(), HasSubstr(tensor.name));
    }
  }
}

// What a converter needs to know of a tensor beside its shape.
TEST_P(TensorsTest, RolesFollowFromUse) {
  int branches = 0;
  const std::vector<TensorSpec> tensors = TensorsOf(config_);
  for (const TensorSpec& tensor : tensors) {
    branches += tensor.ends_residual ? 1 : 0;
    EXPECT_EQ(tensor.role == TensorRole::kNormWeight,
              tensor.shape.size() == 1 && tensor.name.ends_with(".weight"))
        << tensor.name;
  }
  const bool both = config_.encoder_decoder.has_value();
  EXPECT_EQ(branches, both ? 3 * config_.layers + 2 * config_.encoder_decoder->encoder_layers
                           : 2 * config_.layers);
  const std::string& head = HeadOf(tensors);
  EXPECT_EQ(head == "lm_head.weight" || head == "embed_out.weight", !config_.tie_word_embeddings);
}

INSTANTIATE_TEST_SUITE_P(Architectures, TensorsTest, ::testing::ValuesIn(Cases()),
                         [](const auto& tested) { return tested.param.name; });

}  // namespace
}  // namespace t2r
