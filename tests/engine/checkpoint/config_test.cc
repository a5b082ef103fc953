#include "engine/model/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "absl/strings/str_cat.h"
#include "engine/engine.h"
#include "engine/model/architectures.h"
#include "engine/model/rope.h"

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

TEST(ConfigTest, GptNeox) {
  const auto neox = [](const std::string& more = "") { return Llama(more, "GPTNeoXForCausalLM"); };
  ModelConfig config = Parsed(neox());
  EXPECT_EQ(config.architecture, &kGptNeoxArchitecture);
  EXPECT_EQ(config.kv_heads, 8);
  EXPECT_EQ(config.head_dim, 8);
  EXPECT_EQ(config.rotary_dim, 2);
  EXPECT_FLOAT_EQ(config.norm_eps, 1e-5F);
  EXPECT_TRUE(config.parallel_residual && config.qkv_bias && config.attention_out_bias);
  EXPECT_EQ(config.activation, ActivationKind::kGelu);
  EXPECT_EQ(config.max_position_embeddings, 2048);
  EXPECT_FALSE(config.position_limit().has_value());
  config =
      Parsed(neox(R"("use_parallel_residual": false, "attention_bias": false, "rotary_pct": 1,)"
                  R"("rotary_emb_base": 500.5, "hidden_act": "gelu_fast")"));
  EXPECT_FALSE(config.parallel_residual || config.qkv_bias || config.attention_out_bias);
  EXPECT_EQ(config.rotary_dim, 8);
  EXPECT_EQ(config.rope_theta, 500.5);
  EXPECT_EQ(config.activation, ActivationKind::kGeluTanh);
  // What newer versions write.
  config = Parsed(neox(R"("rope_parameters": {"rope_theta": 7.0, "partial_rotary_factor": 0.5})"));
  EXPECT_EQ(config.rotary_dim, 4);
  EXPECT_EQ(config.rope_theta, 7.0);
  ExpectRefused(neox(R"("hidden_act": "quick_gelu")"), "quick_gelu");
  ExpectInvalid(neox(R"("num_attention_heads": 7)"), "num_attention_heads is 7");
  ExpectInvalid(neox(R"("rotary_pct": 0.1)"), "rotary_pct makes rotary positions turn 0 of 8");
  ExpectInvalid(neox(R"("num_attention_heads": 4, "rotary_pct": 0.45)"), "turn 7 of 16");
  ExpectRefused(neox(R"("partial_rotary_factor": 0.5)"), "partial_rotary_factor");
}

TEST(ConfigTest, Phi3) {
  const auto phi3 = [](const std::string& more = "") { return Llama(more, "Phi3ForCausalLM"); };
  ModelConfig config = Parsed(phi3());
  EXPECT_EQ(config.architecture, &kLlamaArchitecture);
  EXPECT_TRUE(config.fused_projections);
  EXPECT_FLOAT_EQ(config.norm_eps, 1e-5F);
  EXPECT_EQ(config.max_position_embeddings, 4096);
  EXPECT_EQ(config.full_layers(), 2);
  config = Parsed(phi3(R"("sliding_window": 2047, "attention_bias": false)"));
  EXPECT_EQ(config.linear_layers(), 2);
  EXPECT_EQ(config.linear_attention->sizes(1).window, 2047);
  // A window that all positions fit in changes nothing.
  EXPECT_EQ(
      Parsed(phi3(R"("sliding_window": 262144, "max_position_embeddings": 131072)")).full_layers(),
      2);
  EXPECT_EQ(Parsed(phi3(R"("partial_rotary_factor": 0.75)")).rotary_dim, 6);
  ExpectRefused(phi3(R"("hidden_act": "gelu")"), "hidden_act");
  ExpectRefused(phi3(R"("num_local_experts": 16)"), "num_local_experts");
}

TEST(ConfigTest, EndTokensAndTemperatureOfBothFiles) {
  ModelConfig config = Parsed(Llama(R"("eos_token_id": 2, "bos_token_id": 1)"),
                              R"({"eos_token_id": [2, 7, 99], "temperature": 0.6})");
  EXPECT_THAT(config.eos_token_ids, ElementsAre(2, 7));
  EXPECT_THAT(
      config.warnings,
      ElementsAre("generation_config.json: eos_token_id names 99, outside the vocabulary of "
                  "50 tokens: it never occurs"));
  EXPECT_THAT(Parsed(Llama(R"("eos_token_id": [-1, 3], "bos_token_id": 50)")).warnings,
              ElementsAre(HasSubstr("config.json: bos_token_id names 50")));
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

// A model of heads of 16 values with these keys.
std::string Heads16(const std::string& more, const std::string& name = "LlamaForCausalLM") {
  return Llama(R"("num_attention_heads": 4, )" + more, name);
}

struct RopeCase {
  std::string name;
  std::string config;
  // What transformers computes, in float32.
  std::vector<double> frequencies;
  double factor;
};

class ScaledRopeTest : public ::testing::TestWithParam<RopeCase> {};

TEST_P(ScaledRopeTest, AsTransformersComputes) {
  const ModelConfig config = Parsed(GetParam().config);
  const auto frequencies = RopeInverseFrequencies(config);
  ASSERT_EQ(frequencies.size(), GetParam().frequencies.size());
  for (size_t i = 0; i < frequencies.size(); ++i) {
    EXPECT_NEAR(frequencies[i] / GetParam().frequencies[i], 1, 4e-6) << i;
  }
  EXPECT_NEAR(RopeFactor(config), GetParam().factor, 1e-8);
}

constexpr char kFactors[] = R"("short_factor": [1.0, 1.02, 1.05, 1.1, 1.2, 1.4, 1.8, 2.5],)"
                            R"("long_factor": [1.1, 1.3, 2.0, 4.0, 8.0, 16.0, 20.0, 32.0])";
constexpr char kPhi3Factors[] = R"("short_factor": [1.0, 1.02, 1.05, 1.1, 1.2, 1.4],)"
                                R"("long_factor": [1.1, 1.3, 2.0, 4.0, 8.0, 16.0])";

std::vector<RopeCase> RopeCases() {
  const std::vector<double> yarn = {1,
                                    0.316227764,
                                    0.100000001,
                                    0.025693506,
                                    0.00624999963,
                                    0.00138349656,
                                    0.000250000012,
                                    7.90569466e-05};
  const std::vector<double> dynamic = {1,
                                       0.316227764,
                                       0.100000001,
                                       0.0316227786,
                                       0.00999999978,
                                       0.00316227786,
                                       0.00100000005,
                                       0.000316227786};
  const std::vector<double> longrope = {0.909090877,    0.243252128,   0.0500000007,
                                        0.00790569466,  0.00124999997, 0.000197642366,
                                        4.99999987e-05, 9.88211832e-06};
  const std::vector<double> phi3_short = {
      1, 0.211219087, 0.0442056023, 0.0090909088, 0.00179536187, 0.000331542135};
  const std::vector<double> phi3_long = {0.909090877,   0.165725738,    0.023207942,
                                         0.00249999994, 0.000269304292, 2.90099342e-05};
  const std::string phi3 =
      R"("max_position_embeddings": 131072, "original_max_position_embeddings": 4096, )";
  const std::string phi3_scaling =
      R"("partial_rotary_factor": 0.75, "rope_scaling": {"type": "longrope", )" +
      std::string(kPhi3Factors) + "}";
  return {
      {"Yarn", Heads16(R"("rope_scaling": {"rope_type": "yarn", "factor": 4.0})"), yarn,
       1.13862944},
      {"YarnByType",
       Heads16(R"("rope_scaling": {"type": "yarn", "factor": 4, "beta_fast": 0, "mscale": 2})"),
       yarn, 1.13862944},
      {"YarnBounds",
       Heads16(R"("max_position_embeddings": 32768, "rope_theta": 1e6, "rope_scaling":)"
               R"({"rope_type": "yarn", "factor": 8.0, "beta_fast": 16.0, "beta_slow": 2.0,)"
               R"("attention_factor": 1.25})"),
       {1, 0.177827939, 0.0316227786, 0.00562341325, 0.000562500034, 2.22284925e-05, 3.95284678e-06,
        7.02926684e-07},
       1.25},
      {"YarnOriginal",
       Heads16(R"("max_position_embeddings": 131072, "rope_parameters": {"rope_theta": 1e6,)"
               R"("rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768})"),
       {1, 0.177827939, 0.0316227786, 0.00421755994, 0.000500000024, 4.44569851e-05, 7.90569356e-06,
        1.40585337e-06},
       1.13862944},
      {"YarnFactorOfLengths",
       Heads16(R"("max_position_embeddings": 131072, "rope_theta": 1e6, "rope_scaling":)"
               R"({"rope_type": "yarn", "original_max_position_embeddings": 32768})"),
       {1, 0.177827939, 0.0316227786, 0.00421755994, 0.000500000024, 4.44569851e-05, 7.90569356e-06,
        1.40585337e-06},
       1.13862944},
      {"YarnMscale",
       Heads16(R"("max_position_embeddings": 163840, "rope_scaling": {"rope_type": "yarn",)"
               R"("factor": 40.0, "original_max_position_embeddings": 4096, "mscale": 1.0,)"
               R"("mscale_all_dim": 0.7, "truncate": false})"),
       {1, 0.316227764, 0.100000001, 0.0277108587, 0.00552406255, 0.000722638157, 2.49999994e-05,
        7.90569447e-06},
       1.08795461},
      {"Dynamic", Heads16(R"("rope_scaling": {"type": "dynamic", "factor": 4.0})"), dynamic, 1},
      {"DynamicShort",
       Heads16(R"("rope_length": 100, "rope_scaling": {"type": "dynamic", "factor": 4.0})"),
       dynamic, 1},
      {"DynamicLong",
       Heads16(R"("rope_length": 8192, "rope_scaling": {"rope_type": "dynamic", "factor": 4.0})"),
       {1, 0.219212472, 0.0480541028, 0.0105340583, 0.00230919686, 0.000506204728, 0.000110966386,
        2.43252125e-05},
       1},
      {"LongRope", Heads16(phi3 + R"("rope_scaling": {"rope_type": "longrope", )" + kFactors + "}"),
       longrope, 1.19023807},
      {"LongRopeByFactor",
       Heads16(R"("max_position_embeddings": 4096, "rope_scaling": {"rope_type": "longrope",)"
               R"("factor": 16.0, )" +
               std::string(kFactors) + "}"),
       longrope, 1.15470054},
      {"Phi3Long", Heads16(phi3 + phi3_scaling, "Phi3ForCausalLM"), phi3_long, 1.19023807},
      {"Phi3Short", Heads16(phi3 + R"("rope_length": 4096, )" + phi3_scaling, "Phi3ForCausalLM"),
       phi3_short, 1.19023807},
      {"Phi3Su",
       Heads16(R"("max_position_embeddings": 131072, "rope_parameters": {"rope_type": "su",)"
               R"("partial_rotary_factor": 0.75, )" +
                   std::string(kPhi3Factors) + "}",
               "Phi3ForCausalLM"),
       phi3_long, 1.19023807},
      {"Phi3OfOneLength", Heads16(phi3_scaling, "Phi3ForCausalLM"), phi3_short, 1},
      {"GptNeoxLinear",
       Heads16(R"("num_attention_heads": 2, "rope_scaling": {"type": "linear", "factor": 2.0})",
               "GPTNeoXForCausalLM"),
       {0.5, 0.0500000007, 0.00499999989, 0.000500000024},
       1},
      {"GptNeoxYarn",
       Heads16(R"("num_attention_heads": 2, "rotary_pct": 0.5, "rope_scaling":)"
               R"({"rope_type": "yarn", "factor": 4.0})",
               "GPTNeoXForCausalLM"),
       yarn, 1.13862944},
  };
}

INSTANTIATE_TEST_SUITE_P(Types, ScaledRopeTest, ::testing::ValuesIn(RopeCases()),
                         [](const auto& tested) { return tested.param.name; });

TEST(RopeTest, WhatDependsOnALengthIsWarnedOf) {
  const auto warnings = [](const std::string& text) { return Parsed(text).warnings; };
  EXPECT_THAT(warnings(Heads16(R"("rope_scaling": {"type": "dynamic", "factor": 4})")),
              ElementsAre(HasSubstr("texts of 2048 tokens")));
  const std::string longrope = R"("max_position_embeddings": 9000, "rope_scaling":)"
                               R"({"type": "longrope", "original_max_position_embeddings": 500, )" +
                               std::string(kFactors) + "}";
  EXPECT_THAT(warnings(Heads16(longrope)),
              ElementsAre(HasSubstr("long_factor holds, as for texts of more than 500 tokens")));
  EXPECT_THAT(warnings(Heads16(R"("rope_length": 500, )" + longrope)),
              ElementsAre(HasSubstr("short_factor holds, as for texts of up to 500 tokens")));
  EXPECT_THAT(warnings(Heads16(R"("rope_scaling": {"type": "yarn", "factor": 4})")), ElementsAre());
}

TEST(RopeTest, BadScalingsAreRefused) {
  ExpectRefused(Llama(R"("rope_scaling": {"rope_type": "xpos", "factor": 4})"), "xpos");
  ExpectRefused(Llama(R"("rope_scaling": {"type": "su", "factor": 4})"), "su");
  ExpectRefused(Llama(R"("rope_parameters": {"full_attention": {"rope_type": "yarn"}})"),
                "full_attention");
  ExpectRefused(Llama(R"("rope_parameters": {"partial_rotary_factor": 0.5})"),
                "partial_rotary_factor");
  ExpectInvalid(Llama(R"("rope_scaling": {"type": "linear"})"), "rope_scaling.factor");
  ExpectInvalid(Llama(R"("rope_scaling": {"type": "yarn"})"), "rope_scaling.factor");
  ExpectInvalid(Llama(R"("rope_scaling": {"type": "dynamic"})"), "rope_scaling.factor");
  ExpectInvalid(Llama(R"("rope_scaling": {"rope_type": "llama3", "factor": 8,)"
                      R"("low_freq_factor": 4, "high_freq_factor": 4})"),
                "low_freq_factor");
  ExpectInvalid(Llama(R"("rope_theta": 1.0, "rope_scaling": {"type": "yarn", "factor": 4})"),
                "theta");
  ExpectInvalid(Llama(R"("head_dim": 2, "rope_scaling": {"type": "dynamic", "factor": 4})"),
                "at least 4 values");
  ExpectInvalid(Llama(R"("rope_scaling": {"type": "longrope", "short_factor": [1, 1, 1, 1]})"),
                "long_factor is missing");
  ExpectInvalid(Llama(R"("rope_scaling": {"type": "longrope", "short_factor": [1, 1, 1]})"),
                "short_factor must be an array of 4 numbers");
  ExpectInvalid(Llama(R"("rope_scaling": {"type": "longrope", "short_factor": [1, 1, 1, 1],)"
                      R"("long_factor": [1, 0, 1, 1]})"),
                "long_factor[1]");
  ExpectInvalid(Llama(R"("rope_scaling": {"type": "longrope", "short_factor": [1, 1, 1, 1],)"
                      R"("long_factor": [1, 1, 1, 1], "original_max_position_embeddings": 1})"),
                "at least 2");
  Parsed(Llama(R"("rope_scaling": null)"));
}

// Where only a part of a head turns, what turns comes first in both halves.
TEST(RopeTest, PartsOfHeads) {
  const ModelConfig config = Parsed(
      Heads16(R"("num_attention_heads": 8, "partial_rotary_factor": 0.5)", "Phi3ForCausalLM"));
  EXPECT_EQ(config.rotary_dim, 4);
  EXPECT_THAT(HeadOrder(config), ElementsAre(0, 1, 4, 5, 2, 3, 6, 7));
  EXPECT_THAT(HeadFrequencies(config), ElementsAre(1, 0.01, 0, 0));
  EXPECT_THAT(HeadOrder(Parsed(Llama())), ElementsAre());
  EXPECT_EQ(HeadFrequencies(Parsed(Llama())), RopeInverseFrequencies(Parsed(Llama())));
}

TEST(ConfigTest, MissingDirectory) {
  const auto config = LoadModelConfig("/nonexistent");
  EXPECT_EQ(config.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(config.status().message()), HasSubstr("/nonexistent/config.json"));
}

}  // namespace
}  // namespace t2r::testing
