#include "convert/gguf/model_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <nlohmann/json.hpp>
#include <string>

#include "convert/error.h"
#include "tests/convert/gguf/model_gguf.h"

namespace t2r::convert {
namespace {

using ::t2r::testing::GgufBytes;
using ::t2r::testing::GgufOf;
using ::t2r::testing::Llama3Factors;
using ::t2r::testing::ModelSpec;
using ::t2r::testing::NamedTensor;
using ::t2r::testing::RandomWeights;
using ::t2r::testing::Tensors;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;
using Json = nlohmann::json;

ModelSpec SmallSpec() {
  ModelSpec spec;
  spec.layers = 2;
  spec.theta = 500000;
  return spec;
}

GgufBytes SmallLlama() { return GgufOf(SmallSpec(), RandomWeights(SmallSpec(), 1), "llama"); }

Json ConfigOf(const GgufBytes& bytes) {
  const std::string text = bytes.Bytes();
  return Json::parse(PlanModel(GgufFile::Parse(text), DType::kFloat32).config_json);
}

void ExpectError(const GgufBytes& bytes, const std::string& message) {
  EXPECT_THAT([&] { ConfigOf(bytes); }, ThrowsMessage<ConvertError>(HasSubstr(message)));
}

TEST(ModelPlanTest, WritesTheConfigurationOfALlama) {
  const Json config = ConfigOf(SmallLlama()
                                   .Uint32("tokenizer.ggml.bos_token_id", 1)
                                   .Uint32("tokenizer.ggml.eos_token_id", 2)
                                   .Uint32("tokenizer.ggml.eot_token_id", 5)
                                   .Uint32("tokenizer.ggml.padding_token_id", 3));
  const Json expected = {{"architectures", {"LlamaForCausalLM"}},
                         {"model_type", "llama"},
                         {"vocab_size", 61},
                         {"hidden_size", 32},
                         {"intermediate_size", 48},
                         {"num_hidden_layers", 2},
                         {"num_attention_heads", 4},
                         {"num_key_value_heads", 2},
                         {"head_dim", 8},
                         {"hidden_act", "silu"},
                         {"max_position_embeddings", 256},
                         {"rms_norm_eps", 1e-5},
                         {"rope_theta", 500000.0},
                         {"tie_word_embeddings", false},
                         {"attention_bias", false},
                         {"mlp_bias", false},
                         {"bos_token_id", 1},
                         {"eos_token_id", {2, 5}},
                         {"pad_token_id", 3},
                         {"torch_dtype", "float32"}};
  EXPECT_EQ(config, expected);
}

TEST(ModelPlanTest, TakesDefaultsOfKeysThatAreAbsent) {
  GgufBytes file = SmallLlama();
  for (const char* key : {"attention.key_length", "attention.value_length", "rope.dimension_count",
                          "rope.freq_base"}) {
    file.Drop(std::string("llama.") + key);
  }
  const Json config = ConfigOf(file);
  EXPECT_EQ(config["head_dim"], 8);
  EXPECT_EQ(config["rope_theta"], 10000.0);
  EXPECT_FALSE(config.contains("eos_token_id"));
  EXPECT_FALSE(config.contains("rope_scaling"));
}

TEST(ModelPlanTest, FindsBiasesAndTiedEmbeddings) {
  ModelSpec spec = SmallSpec();
  spec.attention_bias = spec.mlp_bias = spec.tied = true;
  const Json config = ConfigOf(GgufOf(spec, RandomWeights(spec, 1), "llama"));
  EXPECT_EQ(config["attention_bias"], true);
  EXPECT_EQ(config["mlp_bias"], true);
  EXPECT_EQ(config["tie_word_embeddings"], true);
}

TEST(ModelPlanTest, WritesTheConfigurationsOfQwen) {
  ModelSpec spec = SmallSpec();
  spec.qwen2 = true;
  const Json qwen2 = ConfigOf(GgufOf(spec, RandomWeights(spec, 1), "qwen2"));
  EXPECT_EQ(qwen2["architectures"][0], "Qwen2ForCausalLM");
  EXPECT_EQ(qwen2["use_sliding_window"], false);
  EXPECT_FALSE(qwen2.contains("attention_bias"));
  ExpectError(GgufOf(SmallSpec(), RandomWeights(SmallSpec(), 1), "qwen2"),
              "tensor blk.0.attn_q.bias is missing");

  spec.qwen2 = false;
  spec.head_dim = 16;  // not hidden / heads
  Tensors weights = RandomWeights(spec, 1);
  ExpectError(GgufOf(spec, weights, "qwen3"), "tensor blk.0.attn_q_norm.weight is missing");
  for (const char* layer : {"0", "1"}) {
    for (const char* norm : {"q_norm", "k_norm"}) {
      weights["model.layers." + std::string(layer) + ".self_attn." + norm + ".weight"] =
          NamedTensor{{16}, std::vector<float>(16, 1)};
    }
  }
  const std::string bytes = GgufOf(spec, weights, "qwen3").Bytes();
  const GgufFile file = GgufFile::Parse(bytes);
  const ModelPlan plan = PlanModel(file, DType::kBFloat16);
  const Json qwen3 = Json::parse(plan.config_json);
  EXPECT_EQ(qwen3["architectures"][0], "Qwen3ForCausalLM");
  EXPECT_EQ(qwen3["model_type"], "qwen3");
  EXPECT_EQ(qwen3["head_dim"], 16);
  EXPECT_EQ(qwen3["attention_bias"], false);
  EXPECT_EQ(qwen3["torch_dtype"], "bfloat16");
  for (const PlannedTensor& tensor : plan.tensors) EXPECT_EQ(tensor.interleaved_heads, 0);
}

TEST(ModelPlanTest, TranslatesRopeScaling) {
  const std::string scaling = "llama.rope.scaling.";
  EXPECT_EQ(ConfigOf(SmallLlama()
                         .String(scaling + "type", "linear")
                         .Float32(scaling + "factor", 4))["rope_scaling"],
            Json({{"rope_type", "linear"}, {"factor", 4.0}}));
  EXPECT_EQ(ConfigOf(SmallLlama().Float32("llama.rope.scale_linear", 2))["rope_scaling"],
            Json({{"rope_type", "linear"}, {"factor", 2.0}}));
  EXPECT_EQ(ConfigOf(SmallLlama()
                         .String(scaling + "type", "yarn")
                         .Float32(scaling + "factor", 4)
                         .Uint32(scaling + "original_context_length", 32768))["rope_scaling"],
            Json({{"rope_type", "yarn"},
                  {"factor", 4.0},
                  {"original_max_position_embeddings", 32768},
                  {"beta_fast", 32.0},
                  {"beta_slow", 1.0}}));
  EXPECT_FALSE(ConfigOf(SmallLlama().String(scaling + "type", "none")).contains("rope_scaling"));
  ExpectError(SmallLlama().String(scaling + "type", "longrope").Float32(scaling + "factor", 4),
              "llama.rope.scaling.type is longrope; supported are none, linear and yarn");
  ExpectError(SmallLlama().String(scaling + "type", "yarn").Float32(scaling + "factor", 4),
              "original_context_length is missing");
  ExpectError(SmallLlama().Float32(scaling + "attn_factor", 2), "attn_factor is 2.0; only 1");
}

// The heads of Llama 3.2 1B, Llama 3.1 8B and a model of another context.
TEST(ModelPlanTest, FindsLlama3sScaling) {
  struct Case {
    int head_dim;
    float factor, original;
  };
  for (const Case& one : {Case{64, 32, 8192}, Case{128, 8, 8192}, Case{128, 64, 32768}}) {
    ModelSpec spec = SmallSpec();
    spec.head_dim = one.head_dim;
    GgufBytes file = GgufOf(spec, RandomWeights(spec, 1), "llama");
    std::vector<float> factors = Llama3Factors(500000, one.head_dim, one.factor, one.original);
    GgufBytes scaled = file;
    scaled.FloatTensor("rope_freqs.weight", {one.head_dim / 2}, factors);
    EXPECT_EQ(ConfigOf(scaled)["rope_scaling"],
              Json({{"rope_type", "llama3"},
                    {"factor", one.factor},
                    {"low_freq_factor", 1.0},
                    {"high_freq_factor", 4.0},
                    {"original_max_position_embeddings", static_cast<int>(one.original)}}));
    // One that the rule does not give, by a hundredth.
    factors[factors.size() / 2] *= 1.01F;
    GgufBytes other = file;
    ExpectError(other.FloatTensor("rope_freqs.weight", {one.head_dim / 2}, factors),
                "factors that Llama 3's rule");
    GgufBytes none = file;
    none.FloatTensor("rope_freqs.weight", {one.head_dim / 2},
                     std::vector<float>(factors.size(), 1));
    EXPECT_FALSE(ConfigOf(none).contains("rope_scaling"));
  }
  ExpectError(SmallLlama().FloatTensor("rope_freqs.weight", {3}, {1, 1, 8}),
              "one factor for each of the 4 frequencies");
  ExpectError(SmallLlama().FloatTensor("rope_freqs.weight", {4}, {1, 1, 1, 0}), "not positive");
}

TEST(ModelPlanTest, WritesHowToSample) {
  const std::string bytes = SmallLlama()
                                .Float32("general.sampling.temp", 0.6F)
                                .Float32("general.sampling.top_p", 0.95F)
                                .Key("general.sampling.top_k", 5, std::string("\x14\0\0\0", 4))
                                .Uint32("tokenizer.ggml.eos_token_id", 2)
                                .Bytes();
  EXPECT_EQ(Json::parse(PlanModel(GgufFile::Parse(bytes), DType::kFloat32).generation_config_json),
            Json({{"eos_token_id", 2},
                  {"temperature", 0.6},
                  {"top_p", 0.95},
                  {"top_k", 20},
                  {"do_sample", true}}));
}

TEST(ModelPlanTest, RefusesWhatItCannotSay) {
  ExpectError(GgufBytes(), "general.architecture is missing");
  ExpectError(SmallLlama().Drop("general.architecture").String("general.architecture", "mamba"),
              "general.architecture is mamba; supported are llama, qwen2, qwen3");
  ExpectError(SmallLlama().String("general.type", "mmproj"), "general.type is mmproj");
  ExpectError(SmallLlama().Uint32("split.count", 3), "split.count is 3: the file is one part");
  ExpectError(SmallLlama().Uint32("llama.expert_count", 8), "llama.expert_count is 8.0");
  ExpectError(SmallLlama().Float32("llama.logit_scale", 0.5F), "llama.logit_scale is 0.5");
  ExpectError(SmallLlama().Bool("llama.attention.causal", false), "llama.attention.causal is 0.0");
  ExpectError(SmallLlama().Uint32("llama.attention.sliding_window", 4096),
              "sliding_window is 4096");
  EXPECT_NO_THROW(ConfigOf(SmallLlama().Uint32("llama.expert_count", 0)));
  const auto replaced = [](const std::string& key, uint32_t value) {
    return SmallLlama().Drop("llama." + key).Uint32("llama." + key, value);
  };
  ExpectError(replaced("block_count", 5000), "llama.block_count is 5000");
  ExpectError(replaced("block_count", 3), "tensor blk.2.attn_norm.weight is missing");
  ExpectError(replaced("block_count", 1), "tensor blk.1.attn_k.weight has no place in a llama");
  ExpectError(replaced("attention.head_count_kv", 3), "does not divide attention.head_count 4");
  ExpectError(replaced("attention.key_length", 7), "only equal sizes");
  ExpectError(replaced("rope.dimension_count", 4), "llama.rope.dimension_count is 4");
  ExpectError(replaced("embedding_length", 64),
              "tensor token_embd.weight has shape [61, 32], the metadata ask for [61, 64]");
  ExpectError(replaced("attention.head_count", 8).Drop("llama.attention.head_count_kv"),
              "tensor blk.0.attn_q.weight has shape [32, 32]");
  ExpectError(SmallLlama().Drop("llama.context_length"), "llama.context_length is missing");
  ExpectError(SmallLlama().FloatTensor("blk.0.attn_q.bias", {32}, std::vector<float>(32)),
              "blk.0.attn_output.bias is missing");
  ExpectError(SmallLlama().DropTensor("output_norm.weight"),
              "tensor output_norm.weight is missing");
  ExpectError(SmallLlama().DropTensor("token_embd.weight"), "tensor token_embd.weight is missing");
}

TEST(ModelPlanTest, TakesLayersThatAreListedAndEqual) {
  GgufBytes file = SmallLlama();
  file.Drop("llama.attention.head_count_kv").Int32s("llama.attention.head_count_kv", {2, 2});
  EXPECT_EQ(ConfigOf(file)["num_key_value_heads"], 2);
  file.Drop("llama.attention.head_count_kv").Int32s("llama.attention.head_count_kv", {2, 1});
  ExpectError(file, "llama.attention.head_count_kv differs between layers (2 and 1)");
}

}  // namespace
}  // namespace t2r::convert
