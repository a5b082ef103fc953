#include "engine/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/ops/cpu/bf16_gemm/kernels.h"
#include "tests/engine/model/engine_fixture.h"

namespace t2r::testing {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

class LoadTest : public ::testing::Test {
 protected:
  void SetUp() override {
    spec_.linear = {true, false, true};
    weights_ = RandomWeights(spec_, 1);
    options_.threads = 1;
  }

  // Writes config and weights as they are now and loads them.
  absl::Status LoadAll() {
    directory_.Write("config.json", ConfigOf(spec_));
    WriteWeights(directory_, weights_);
    return LoadDirectory();
  }
  absl::Status LoadDirectory() {
    auto engine = LoadEngine(directory_.path(), options_);
    if (engine.ok()) engine_ = *std::move(engine);
    return engine.status();
  }
  static std::string OneLine(const absl::Status& status) {
    const std::string message(status.message());
    EXPECT_THAT(message, Not(HasSubstr("\n")));
    return message;
  }

  ModelSpec spec_;
  Tensors weights_;
  EngineOptions options_;
  TemporaryDirectory directory_;
  std::unique_ptr<Engine> engine_;
};

TEST_F(LoadTest, TellsWhatItLoaded) {
  ASSERT_TRUE(LoadAll().ok());
  EXPECT_EQ(engine_->weight_dtype, "float32");
  EXPECT_THAT(engine_->backend_description, HasSubstr("cpu"));
  size_t values = 0;
  for (const auto& [name, tensor] : weights_) values += tensor.values.size();
  EXPECT_GE(engine_->memory.weight_bytes, static_cast<int64_t>(values * 4));
  EXPECT_THAT(engine_->warnings, IsEmpty());
}

TEST_F(LoadTest, TheExactnessClassNamesHowKeysAndValuesAreKept) {
  options_.kv_dtype = "bfloat16";
  ASSERT_TRUE(LoadAll().ok());
  EXPECT_THAT(engine_->exactness_class, HasSubstr("keys and values bfloat16, windows float32"));
  options_.window_dtype = "int8";
  ASSERT_TRUE(LoadAll().ok());
  EXPECT_THAT(engine_->exactness_class, HasSubstr("windows int8"));
  options_.window_dtype = "int3";
  EXPECT_THAT(OneLine(LoadDirectory()), HasSubstr("window_dtype is \"int3\""));
  options_.kv_dtype = "int3";
  EXPECT_THAT(OneLine(LoadDirectory()), HasSubstr("kv_dtype is \"int3\""));
}

TEST_F(LoadTest, RoundsRowsOfProductsWhenAsked) {
  options_.backend = "cpu";
  options_.activations = "bfloat16";
  SetBf16GemmForTest(&Bf16GemmSets().back());  // on any machine
  const absl::Status wide = LoadAll();
  EXPECT_EQ(wide.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(OneLine(wide), HasSubstr("activations is bfloat16"));
  options_.dtype = "bfloat16";
  ASSERT_TRUE(LoadAll().ok());
  EXPECT_THAT(engine_->exactness_class, HasSubstr("bfloat16 products, weights bfloat16"));
  options_.activations = "float32";
  ASSERT_TRUE(LoadAll().ok());
  EXPECT_THAT(engine_->exactness_class, Not(HasSubstr("bfloat16 products")));
  SetBf16GemmForTest(nullptr);
  options_.activations = "int3";
  EXPECT_THAT(OneLine(LoadAll()), HasSubstr("activations is \"int3\""));
}

TEST_F(LoadTest, QuantisesWhenAsked) {
  options_.backend = "cpu";
  ASSERT_TRUE(LoadAll().ok());
  int64_t before = engine_->memory.weight_bytes;
  for (const char* type : {"int8", "int4"}) {
    options_.dtype = type;
    ASSERT_TRUE(LoadAll().ok());
    EXPECT_EQ(engine_->weight_dtype, type);
    EXPECT_THAT(engine_->exactness_class, HasSubstr(std::string("weights ") + type));
    EXPECT_THAT(engine_->exactness_class, Not(HasSubstr("int8 rows")));
    EXPECT_LT(engine_->memory.weight_bytes, before);
    before = engine_->memory.weight_bytes;
  }
  options_.activations = "int8";
  ASSERT_TRUE(LoadAll().ok());
  EXPECT_THAT(engine_->exactness_class, HasSubstr(", int8 rows, weights int4"));
  EXPECT_THAT(engine_->backend_description, HasSubstr("int8 rows"));
  options_.dtype = "bfloat16";
  const absl::Status wide = LoadAll();
  EXPECT_EQ(wide.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(OneLine(wide), AllOf(HasSubstr("activations is int8"), HasSubstr("are bfloat16")));
  options_.activations = "auto";
  options_.dtype = "int3";
  const absl::Status status = LoadAll();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(OneLine(status), AllOf(HasSubstr("int3"), HasSubstr("int4")));
}

TEST_F(LoadTest, MissingDirectory) {
  const auto engine = LoadEngine("/nonexistent/model", options_);
  EXPECT_EQ(engine.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(OneLine(engine.status()), HasSubstr("/nonexistent/model/config.json"));
}

TEST_F(LoadTest, MissingWeights) {
  directory_.Write("config.json", ConfigOf(spec_));
  const absl::Status status = LoadDirectory();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(OneLine(status), AllOf(HasSubstr(directory_.path()), HasSubstr("model.safetensors")));
}

TEST_F(LoadTest, TruncatedFile) {
  ASSERT_TRUE(LoadAll().ok());
  const std::string whole = directory_.Read("model.safetensors");
  for (const size_t size :
       {size_t{0}, size_t{7}, size_t{100}, whole.size() / 2, whole.size() - 1}) {
    directory_.Write("model.safetensors", whole.substr(0, size));
    const absl::Status status = LoadDirectory();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(OneLine(status), HasSubstr("model.safetensors"));
  }
}

TEST_F(LoadTest, MissingTensor) {
  for (const auto& [name, tensor] : RandomWeights(spec_, 1)) {
    const NamedTensor kept = weights_.extract(name).mapped();
    const absl::Status status = LoadAll();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << name;
    EXPECT_THAT(OneLine(status), AllOf(HasSubstr(name), HasSubstr("missing")));
    weights_[name] = kept;
  }
}

TEST_F(LoadTest, WrongShape) {
  for (auto& [name, tensor] : weights_) {
    const NamedTensor kept = tensor;
    tensor.shape.push_back(1);
    const absl::Status status = LoadAll();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << name;
    EXPECT_THAT(OneLine(status), HasSubstr(name));
    tensor = kept;
  }
  weights_["model.norm.weight"].values.resize(16);
  weights_["model.norm.weight"].shape = {16};
  EXPECT_THAT(OneLine(LoadAll()),
              AllOf(HasSubstr("model.norm.weight"), HasSubstr("[16]"), HasSubstr("[32]")));
}

TEST_F(LoadTest, UnusedTensorsWarnAndKnownBuffersDoNot) {
  weights_["model.layers.0.self_attn.rotary_emb.inv_freq"] = {{4}, {1, 1, 1, 1}};
  weights_["model.layers.9.mlp.down_proj.weight"] = {{1}, {0}};
  ASSERT_TRUE(LoadAll().ok());
  EXPECT_THAT(engine_->warnings, ElementsAre(HasSubstr("model.layers.9.mlp.down_proj.weight")));
}

TEST_F(LoadTest, ATiedHeadIgnoresAHeadInTheFile) {
  ASSERT_TRUE(LoadAll().ok());
  const auto untied = Generate(*engine_->executor, {1, 2, 3}, 8, Greedy());
  const int64_t both = engine_->memory.weight_bytes;
  spec_.tied = true;
  ASSERT_TRUE(LoadAll().ok());
  EXPECT_THAT(engine_->warnings, ElementsAre(HasSubstr("lm_head.weight")));
  const auto tied = Generate(*engine_->executor, {1, 2, 3}, 8, Greedy());
  EXPECT_NE(tied, untied);
  // Head and embedding are one.
  EXPECT_LT(engine_->memory.weight_bytes, both);
  weights_.erase("lm_head.weight");
  ASSERT_TRUE(LoadAll().ok());
  EXPECT_EQ(Generate(*engine_->executor, {1, 2, 3}, 8, Greedy()), tied);
}

TEST_F(LoadTest, MissingShardAndMissingTensorOfAShard) {
  directory_.Write("config.json", ConfigOf(spec_));
  WriteWeights(directory_, weights_, DType::kFloat32, 2);
  const std::string index = directory_.Read("model.safetensors.index.json");
  directory_.Write("model.safetensors.index.json",
                   R"({"weight_map": {"a.b": "model-00001-of-00002.safetensors"}})");
  EXPECT_THAT(OneLine(LoadDirectory()),
              AllOf(HasSubstr("a.b"), HasSubstr("model-00001-of-00002.safetensors")));
  directory_.Write("model.safetensors.index.json",
                   R"({"weight_map": {"a.b": "../model-00001-of-00002.safetensors"}})");
  EXPECT_THAT(OneLine(LoadDirectory()), HasSubstr("a.b"));
  directory_.Write("model.safetensors.index.json",
                   R"({"weight_map": {"a.b": "model-00003-of-00003.safetensors"}})");
  const absl::Status status = LoadDirectory();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(OneLine(status), HasSubstr("model-00003-of-00003.safetensors"));
}

TEST_F(LoadTest, OptionsOutOfRangeAreNamed) {
  ASSERT_TRUE(LoadAll().ok());
  const auto expect = [this](const EngineOptions& options, const char* name) {
    const auto engine = LoadEngine(directory_.path(), options);
    EXPECT_EQ(engine.status().code(), absl::StatusCode::kInvalidArgument) << name;
    EXPECT_THAT(OneLine(engine.status()), HasSubstr(name));
  };
  EngineOptions options = options_;
  options.max_sessions = -1;
  expect(options, "max_sessions");
  options = options_;
  options.max_step_tokens = 65537;
  expect(options, "max_step_tokens");
  options = options_;
  options.prompt_chunk = 0;
  expect(options, "prompt_chunk");
  options = options_;
  options.dtype = "int3";
  expect(options, "dtype");
  options = options_;
  options.kv_cache_bytes = 5;
  expect(options, "kv_cache_bytes");
  options = options_;
  options.backend = "tpu";
  expect(options, "tpu");
}

TEST_F(LoadTest, AStepHoldsATokenOfEverySession) {
  options_.max_sessions = 40;
  options_.max_step_tokens = 8;
  ASSERT_TRUE(LoadAll().ok());
  EXPECT_EQ(engine_->executor->limits().max_step_tokens, 40);
}

TEST_F(LoadTest, MaxContextBoundsModelsWithFullLayers) {
  options_.max_context = 100;
  ASSERT_TRUE(LoadAll().ok());
  EXPECT_EQ(engine_->executor->limits().position_limit, 100);
  spec_.linear = {true, true, true};
  weights_ = RandomWeights(spec_, 1);
  ASSERT_TRUE(LoadAll().ok());
  EXPECT_EQ(engine_->executor->limits().position_limit, 0);
}

}  // namespace
}  // namespace t2r::testing
