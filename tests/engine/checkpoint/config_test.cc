#include "engine/model/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "absl/strings/str_cat.h"
#include "engine/engine.h"
#include "engine/model/architectures.h"

namespace t2r::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// A minimal configuration with `more` ("key": value pairs) added; later keys win.
std::string Llama(const std::string& more = "", const std::string& name = "LlamaForCausalLM") {
  return "{\"architectures\": [\"" + name +
         "\"], \"hidden_size\": 64, \"intermediate_size\": 100, \"num_hidden_layers\": 2, "
         "\"num_attention_heads\": 8, \"vocab_size\": 50" +
         (more.empty() ? "" : ", " + more) + "}";
}
std::string Gpt2(const std::string& more = "") {
  return R"({"model_type": "gpt2", "n_embd": 48, "n_layer": 2, "n_head": 3, "n_positions": 11,)"
         R"( "vocab_size": 3)" +
         (more.empty() ? "" : ", " + more) + "}";
}
std::string Linear(const std::string& more) {
  return Llama(R"("layer_types": ["linear_attention", "full_attention"], "linear_attention": {)" +
               more + "}");
}

ModelConfig Parsed(const std::string& text, const std::string& generation = "") {
  const auto config = ParseModelConfig(text, generation);
  EXPECT_TRUE(config.ok()) << config.status();
  return config.ok() ? *config : ModelConfig();
}

void ExpectError(const std::string& text, absl::StatusCode code, const std::string& part,
                 const std::string& generation = "") {
  const auto config = ParseModelConfig(text, generation);
  EXPECT_EQ(config.status().code(), code) << text << "\n" << config.status();
  EXPECT_THAT(std::string(config.status().message()), HasSubstr(part));
}
void ExpectRefused(const std::string& text, const std::string& part) {
  ExpectError(text, absl::StatusCode::kUnimplemented, part);
}
void ExpectInvalid(const std::string& text, const std::string& part) {
  ExpectError(text, absl::StatusCode::kInvalidArgument, part);
}

TEST(ConfigTest, LlamaDefaults) {
  const ModelConfig config = Parsed(Llama());
  EXPECT_EQ(config.architecture, &kLlamaArchitecture);
  EXPECT_EQ(config.kv_heads, 8);
  EXPECT_EQ(config.head_dim, 8);
  EXPECT_EQ(config.rope_theta, 10000.0);
  EXPECT_EQ(config.max_position_embeddings, 2048);
  EXPECT_FLOAT_EQ(config.norm_eps, 1e-6F);
  EXPECT_FALSE(config.tie_word_embeddings);
  EXPECT_FALSE(config.qkv_bias || config.attention_out_bias || config.mlp_bias);
  EXPECT_THAT(config.layer_types,
              ElementsAre(LayerType::kFullAttention, LayerType::kFullAttention));
  EXPECT_FALSE(config.position_limit().has_value());
  EXPECT_THAT(config.eos_token_ids, ElementsAre());
  EXPECT_FALSE(config.default_temperature.has_value());
}

TEST(ConfigTest, BiasesFollowTheFamily) {
  ModelConfig config = Parsed(Llama(R"("attention_bias": true, "mlp_bias": true)"));
  EXPECT_TRUE(config.qkv_bias && config.attention_out_bias && config.mlp_bias);
  config =
      Parsed(Llama(R"("use_sliding_window": false, "sliding_window": 4096)", "Qwen2ForCausalLM"));
  EXPECT_TRUE(config.qkv_bias);
  EXPECT_FALSE(config.attention_out_bias || config.mlp_bias);
  config = Parsed(Llama(R"("sliding_window": null)", "MistralForCausalLM"));
  EXPECT_FALSE(config.qkv_bias);
  EXPECT_EQ(config.kv_heads, 8);
}

TEST(ConfigTest, Gpt2Defaults) {
  const ModelConfig config = Parsed(Gpt2(R"("n_inner": null)"));
  EXPECT_EQ(config.architecture, &kGpt2Architecture);
  EXPECT_EQ(config.intermediate_size, 192);
  EXPECT_EQ(config.head_dim, 16);
  EXPECT_EQ(config.kv_heads, 3);
  EXPECT_TRUE(config.tie_word_embeddings);
  EXPECT_EQ(config.position_limit(), 11);
}

TEST(ConfigTest, WhatChangesTheMathematicsIsRefusedByName) {
  for (const char* more :
       {R"("hidden_act": "gelu")", R"("sliding_window": 4096)",
        R"("quantization_config": {"a": 1})", R"("logit_scale": 0.5)",
        R"("attn_logit_softcapping": 50.0)", R"("final_logit_softcapping": 30.0)",
        R"("partial_rotary_factor": 0.5)", R"("residual_multiplier": 0.2)",
        R"("embedding_multiplier": 12)", R"("num_local_experts": 8)",
        R"("cross_layer_types": ["full_attention"])"}) {
    const std::string key = std::string(more).substr(1, std::string(more).find('"', 1) - 1);
    ExpectRefused(Llama(more), key);
  }
  Parsed(Llama(R"("logit_scale": 1.0, "partial_rotary_factor": 1.0, "pruned_heads": {},)"
               R"("quantization_config": null, "some_future_note": "harmless")"));
  ExpectRefused(Llama("", "MambaForCausalLM"), "MambaForCausalLM");
  ExpectRefused(Gpt2(R"("activation_function": "relu")"), "activation_function");
  ExpectRefused(Gpt2(R"("scale_attn_weights": false)"), "scale_attn_weights");
  ExpectRefused(Gpt2(R"("scale_attn_by_inverse_layer_idx": true)"),
                "scale_attn_by_inverse_layer_idx");
  ExpectRefused(Gpt2(R"("add_cross_attention": true)"), "add_cross_attention");
  ExpectRefused(Llama(R"("layer_types": ["full_attention", "sliding_attention"])"),
                "layer_types[1] is \"sliding_attention\"");
}

TEST(ConfigTest, BadValuesAreNamedWithTheirLimits) {
  ExpectInvalid("", "config.json: not valid JSON");
  ExpectInvalid("[]", "config.json: not a JSON object");
  ExpectInvalid("{\"a\":" + std::string(100000, '['), "config.json");
  ExpectInvalid("{}", "architectures");
  ExpectInvalid(R"({"model_type": "llama"})", "hidden_size is missing");
  ExpectInvalid(Llama(R"("num_key_value_heads": 3)"), "num_key_value_heads");
  ExpectInvalid(Llama(R"("num_key_value_heads": 0)"), "num_key_value_heads is 0");
  ExpectInvalid(Llama(R"("head_dim": 7)"), "head_dim is 7");
  ExpectInvalid(Llama(R"("max_position_embeddings": -1)"), "max_position_embeddings is -1");
  ExpectInvalid(Llama(R"("max_position_embeddings": 18446744073709551615)"),
                "max_position_embeddings");
  ExpectInvalid(Llama(R"("rope_theta": "10000")"), "rope_theta");
  ExpectInvalid(Llama(R"("tie_word_embeddings": 1)"), "tie_word_embeddings");
  ExpectInvalid(Llama(R"("layer_types": ["full_attention"])"), "layer_types");
  ExpectInvalid(Llama(R"("layer_types": ["linear_attention", "full_attention"])"),
                "linear_attention is missing");
  ExpectInvalid(Llama(R"("model_type": "qwen2")"), "model_type");
  ExpectInvalid(Llama(R"("eos_token_id": "</s>")"), "eos_token_id");
}

TEST(ConfigTest, LinearAttentionKeys) {
  const std::string rest = R"(, "normalizer": "add", "eps": 1e-6, "query_scale": 0.5)";
  const ModelConfig config =
      Parsed(Linear(R"("feature_map": "hedgehog", "feature_size": 12)" + rest));
  ASSERT_TRUE(config.linear_attention.has_value());
  EXPECT_EQ(config.linear_attention->feature_map, FeatureMapKind::kHedgehog);
  EXPECT_EQ(config.linear_attention->feature_size, 12);
  EXPECT_EQ(config.linear_attention->normalizer, Normalizer::kAdd);
  EXPECT_FLOAT_EQ(config.linear_attention->eps, 1e-6F);
  EXPECT_FLOAT_EQ(config.linear_attention->query_scale, 0.5F);
  EXPECT_EQ(config.linear_layers(), 1);
  EXPECT_EQ(config.full_layers(), 1);
  EXPECT_EQ(Parsed(Linear(R"("feature_map": "elu")" + rest)).linear_attention->feature_size, 8);
  ExpectInvalid(Linear(R"("feature_map": "hedgehog", "feature_size": 13)" + rest), "feature_size");
  ExpectInvalid(Linear(R"("feature_map": "rfa", "feature_size": 13)" + rest), "feature_size");
  ExpectInvalid(Linear(R"("feature_map": "elu", "feature_size": 16)" + rest), "feature_size");
  ExpectInvalid(Linear(R"("feature_map": "t2r", "feature_size": 0)" + rest), "feature_size is 0");
  ExpectInvalid(Linear(R"("feature_map": "t2r")" + rest), "feature_size is missing");
  ExpectRefused(Linear(R"("feature_map": "cosformer", "feature_size": 8)" + rest), "cosformer");
  ExpectRefused(Linear(R"("feature_map": "t2r", "feature_size": 8, "decay": 0.9)" + rest),
                "linear_attention.decay");
  ExpectRefused(Linear(R"("feature_map": "t2r", "feature_size": 8, "normalizer": "none",)"
                       R"("eps": 1, "query_scale": 1)"),
                "normalizer");
  ExpectInvalid(Linear(R"("feature_map": "t2r", "feature_size": 8, "normalizer": "clamp",)"
                       R"("eps": 1)"),
                "query_scale is missing");
}

TEST(ConfigTest, WindowsAndCodebooks) {
  const ModelConfig config = Parsed(Linear(
      R"("feature_map": "codebook", "feature_size": 64, "window": 32, "sinks": 1, "fold": 4,)"
      R"("query_scale": 0.5, "sink_position": 40)"));
  const LinearAttentionConfig& linear = *config.linear_attention;
  EXPECT_EQ(linear.feature_map, FeatureMapKind::kCodebook);
  EXPECT_FALSE(linear.rope_features);  // the codebook's own way
  EXPECT_EQ(linear.sink_position, 40);
  EXPECT_TRUE(linear.layers.empty());
  const LinearSizes sizes = linear.sizes(0);
  EXPECT_EQ(sizes.features, 64);
  EXPECT_EQ(sizes.window, 32);
  EXPECT_EQ(sizes.sinks, 1);
  EXPECT_EQ(sizes.fold, 4);
  EXPECT_EQ(linear.sizes(0, /*cross=*/true).window, 0);
  EXPECT_EQ(linear.sizes(0, /*cross=*/true).features, 64);

  // The window alone needs no features, and a window makes normalizer and eps needless.
  const ModelConfig none =
      Parsed(Linear(R"("feature_map": "none", "window": 8, "query_scale": 1)"));
  EXPECT_EQ(none.linear_attention->feature_size, 0);
  EXPECT_TRUE(none.linear_attention->rope_features);
  EXPECT_FALSE(none.linear_attention->sink_position.has_value());
  Parsed(Linear(R"("feature_map": "t2r", "feature_size": 4, "window": 8, "query_scale": 1)"));
  ExpectInvalid(Linear(R"("feature_map": "t2r", "feature_size": 4, "query_scale": 1)"),
                "normalizer is missing");
  ExpectInvalid(Linear(R"("feature_map": "none", "query_scale": 1)"), "needs a window");
  ExpectInvalid(Linear(R"("feature_map": "codebook", "feature_size": 4, "sinks": 1,)"
                       R"("query_scale": 1)"),
                "sinks needs a window");
  ExpectInvalid(Linear(R"("feature_map": "codebook", "window": 8, "query_scale": 1)"),
                "feature_size is missing");
  ExpectInvalid(Linear(R"("feature_map": "none", "window": 8, "fold": 0, "query_scale": 1)"),
                "fold is 0");
  ExpectInvalid(Linear(R"("feature_map": "none", "window": 8, "query_scale": 1,)"
                       R"("sink_position": -1)"),
                "sink_position");
}

TEST(ConfigTest, SizesByLayer) {
  const auto three = [](const std::string& sizes) {
    return Llama(R"("num_hidden_layers": 3, "layer_types": ["linear_attention", "full_attention",)"
                 R"("linear_attention"], "linear_attention": {"feature_map": "codebook",)"
                 R"("query_scale": 1, )" +
                 sizes + "}");
  };
  const ModelConfig config =
      Parsed(three(R"("feature_size": [16, 0, 64], "window": [8, 0, 4], "sinks": 2)"));
  const LinearAttentionConfig& linear = *config.linear_attention;
  ASSERT_EQ(linear.layers.size(), 3U);
  EXPECT_EQ(linear.sizes(0).features, 16);
  EXPECT_EQ(linear.sizes(2).features, 64);
  EXPECT_EQ(linear.sizes(2).window, 4);
  EXPECT_EQ(linear.sizes(2).sinks, 2);
  EXPECT_EQ(linear.feature_size, 64);
  EXPECT_EQ(linear.window, 8);
  // Full layers' entries do not make layers differ.
  EXPECT_TRUE(Parsed(three(R"("feature_size": [16, 8, 16], "window": 8)"))
                  .linear_attention->layers.empty());
  ExpectInvalid(three(R"("feature_size": [16, 16], "window": 8)"), "each of the 3 layers");
  ExpectInvalid(three(R"("feature_size": [16, 16, -1], "window": 8)"), "feature_size[2]");
  ExpectInvalid(three(R"("feature_size": [16, 16, 1.5], "window": 8)"), "feature_size[2]");
  ExpectInvalid(three(R"("feature_size": 16, "window": [8, 8, 0], "sinks": [1, 0, 1])"),
                "sinks needs a window in layer 2");
  // One number is that of the layers with a window.
  const auto some = Parsed(three(R"("feature_size": 16, "window": [8, 8, 0], "sinks": 1)"));
  EXPECT_EQ(some.linear_attention->sizes(0).sinks, 1);
  EXPECT_EQ(some.linear_attention->sizes(2).sinks, 0);
}

// Sliding windows of other files are linear layers with a window and no map.
TEST(ConfigTest, SlidingWindows) {
  const auto expect = [](const ModelConfig& config, const std::vector<bool>& linear, int window) {
    ASSERT_EQ(config.layer_types.size(), linear.size());
    for (size_t i = 0; i < linear.size(); ++i) {
      EXPECT_EQ(config.is_linear(static_cast<int>(i), false), linear[i]) << i;
    }
    ASSERT_EQ(config.linear_attention.has_value(), window > 0);
    if (window == 0) return;
    EXPECT_EQ(config.linear_attention->feature_map, FeatureMapKind::kNone);
    EXPECT_EQ(config.linear_attention->sizes(1).window, window);
    EXPECT_EQ(config.linear_attention->sizes(1).features, 0);
    EXPECT_TRUE(config.linear_attention->rope_features);
    EXPECT_FLOAT_EQ(config.linear_attention->query_scale, 1 / std::sqrt(8.0F));
  };
  const std::string mistral = "MistralForCausalLM";
  const std::string qwen = "Qwen2ForCausalLM";
  expect(Parsed(Llama(R"("sliding_window": 24)", mistral)), {true, true}, 24);
  expect(Parsed(Llama("", mistral)), {true, true}, 4096);
  expect(Parsed(Llama(R"("sliding_window": null)", mistral)), {false, false}, 0);
  const std::string used = R"("sliding_window": 16, "use_sliding_window": true)";
  expect(Parsed(Llama(used + R"(, "max_window_layers": 1)", qwen)), {false, true}, 16);
  expect(Parsed(Llama(used, qwen)), {false, false}, 0);
  expect(
      Parsed(Llama(used + R"(, "layer_types": ["sliding_attention", "sliding_attention"])", qwen)),
      {true, true}, 16);
  const std::string types = R"(, "layer_types": ["linear_attention", )";
  const std::string codebook =
      R"(, "linear_attention": {"feature_map": "codebook", "feature_size": 4, "query_scale": 1})";
  ExpectRefused(Llama(used + types + R"("full_attention"])", qwen), "layer_types[0]");
  // A converted model's own layers replace them, if none is left that should slide.
  EXPECT_EQ(Parsed(Llama(R"("sliding_window": 24)" + types + R"("linear_attention"])" + codebook,
                         mistral))
                .linear_attention->feature_map,
            FeatureMapKind::kCodebook);
  ExpectRefused(
      Llama(R"("sliding_window": 24)" + types + R"("full_attention"])" + codebook, mistral),
      "sliding_window");
  ExpectInvalid(Llama(R"("sliding_window": 0)", mistral), "sliding_window is 0");
  ExpectInvalid(Llama(R"("sliding_window": 1000000, "num_attention_heads": 64,)"
                      R"("num_key_value_heads": 64, "head_dim": 64)",
                      mistral),
                "larger than");
}

TEST(ConfigTest, EndTokensAndTemperatureOfBothFiles) {
  ModelConfig config = Parsed(Llama(R"("eos_token_id": 2, "bos_token_id": 1)"),
                              R"({"eos_token_id": [2, 7, 99], "temperature": 0.6})");
  EXPECT_THAT(config.eos_token_ids, ElementsAre(2, 7));  // 99 is outside the vocabulary
  EXPECT_EQ(config.bos_token_id, 1);
  EXPECT_FLOAT_EQ(*config.default_temperature, 0.6F);
  config = Parsed(Llama(R"("eos_token_id": null)"), R"({"do_sample": false, "temperature": 0.6})");
  EXPECT_THAT(config.eos_token_ids, ElementsAre());
  EXPECT_EQ(config.default_temperature, 0.0F);
  EXPECT_FALSE(Parsed(Llama(), R"({"do_sample": true})").default_temperature.has_value());
  const ModelConfig set = Parsed(Llama(), R"({"top_k": 20, "top_p": 0.8, "min_p": 0.05,
      "repetition_penalty": 1.1, "max_new_tokens": 77, "typical_p": 0.5, "num_beam_groups": 1})");
  EXPECT_EQ(set.defaults.top_k, 20);
  EXPECT_EQ(set.defaults.top_p, 0.8F);
  EXPECT_EQ(set.defaults.min_p, 0.05F);
  EXPECT_EQ(set.defaults.repetition_penalty, 1.1F);
  EXPECT_EQ(set.defaults.max_new_tokens, 77);
  ASSERT_EQ(set.warnings.size(), 1U);
  EXPECT_NE(set.warnings[0].find("typical_p"), std::string::npos);
  EXPECT_FALSE(Parsed(Llama(), R"({"top_k": null})").defaults.top_k.has_value());
  for (const char* bad : {"top_k\": -1", "top_p\": 1.5", "min_p\": -0.1", "repetition_penalty\": 0",
                          "max_new_tokens\": 0", "top_k\": 1.5"}) {
    ExpectError(Llama(), absl::StatusCode::kInvalidArgument,
                "generation_config.json: ", absl::StrCat("{\"", bad, "}"));
  }
  ExpectError(Llama(), absl::StatusCode::kInvalidArgument, "generation_config.json: temperature",
              R"({"temperature": -1})");
}

TEST(ConfigTest, FileTypes) {
  EXPECT_EQ(Parsed(Llama(R"("torch_dtype": "bfloat16")")).file_dtype, DType::kBFloat16);
  EXPECT_EQ(Parsed(Llama(R"("dtype": "float16")")).file_dtype, DType::kFloat16);
  EXPECT_EQ(Parsed(Llama()).file_dtype, DType::kFloat32);
}

TEST(RopeTest, PlainAndLinear) {
  const auto plain = RopeInverseFrequencies(Parsed(Llama(R"("rope_theta": 500000.0)")));
  ASSERT_EQ(plain.size(), 4U);
  for (int i = 0; i < 4; ++i) EXPECT_DOUBLE_EQ(plain[i], std::pow(500000.0, -i / 4.0));
  // The newer object holds theta as well.
  EXPECT_EQ(RopeInverseFrequencies(Parsed(
                Llama(R"("rope_parameters": {"rope_type": "default", "rope_theta": 500000.0})"))),
            plain);
  const auto linear = RopeInverseFrequencies(
      Parsed(Llama(R"("rope_theta": 500000.0, "rope_scaling": {"type": "linear", "factor": 4})")));
  for (int i = 0; i < 4; ++i) EXPECT_DOUBLE_EQ(linear[i], plain[i] / 4);
}

TEST(RopeTest, Llama3KeepsHighFrequenciesAndSlowsLowOnes) {
  const auto scaled = RopeInverseFrequencies(Parsed(
      Llama(R"("head_dim": 128, "rope_theta": 500000.0, "rope_scaling": {"rope_type": "llama3",)"
            R"("factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,)"
            R"("original_max_position_embeddings": 8192})")));
  ASSERT_EQ(scaled.size(), 64U);
  int blended = 0;
  for (int i = 0; i < 64; ++i) {
    const double plain = std::pow(500000.0, -i / 64.0);
    const double wavelength = 2 * 3.14159265358979323846 / plain;
    if (wavelength < 8192 / 4.0) {
      EXPECT_DOUBLE_EQ(scaled[i], plain);
    } else if (wavelength > 8192) {
      EXPECT_DOUBLE_EQ(scaled[i], plain / 8);
    } else {
      ++blended;
      EXPECT_LT(scaled[i], plain);
      EXPECT_GT(scaled[i], plain / 8);
      EXPECT_LT(scaled[i], scaled[i - 1]);
    }
  }
  EXPECT_GT(blended, 3);
}

TEST(RopeTest, OtherScalingsAreRefused) {
  ExpectRefused(Llama(R"("rope_scaling": {"rope_type": "yarn", "factor": 4})"), "yarn");
  ExpectRefused(Llama(R"("rope_scaling": {"type": "dynamic", "factor": 4})"), "dynamic");
  ExpectInvalid(Llama(R"("rope_scaling": {"type": "linear"})"), "rope_scaling.factor");
  ExpectInvalid(Llama(R"("rope_scaling": {"rope_type": "llama3", "factor": 8,)"
                      R"("low_freq_factor": 4, "high_freq_factor": 4})"),
                "low_freq_factor");
  Parsed(Llama(R"("rope_scaling": null)"));
}

TEST(ConfigTest, MissingDirectory) {
  const auto config = LoadModelConfig("/nonexistent");
  EXPECT_EQ(config.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(config.status().message()), HasSubstr("/nonexistent/config.json"));
}

}  // namespace
}  // namespace t2r::testing
