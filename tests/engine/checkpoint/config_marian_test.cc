// config.json of Marian encoder-decoders.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/engine.h"
#include "engine/model/architectures.h"
#include "engine/model/model.h"

namespace t2r::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// A small configuration with `more` ("key": value pairs) added; later keys win.
std::string Marian(const std::string& more = "") {
  return R"({"architectures": ["MarianMTModel"], "model_type": "marian", "d_model": 24,)"
         R"( "encoder_layers": 2, "decoder_layers": 3, "encoder_attention_heads": 2,)"
         R"( "decoder_attention_heads": 4, "encoder_ffn_dim": 40, "decoder_ffn_dim": 48,)"
         R"( "vocab_size": 31, "decoder_start_token_id": 30, "pad_token_id": 30,)"
         R"( "eos_token_id": 0)" +
         (more.empty() ? "" : ", " + more) + "}";
}

ModelConfig Parsed(const std::string& text, const std::string& generation = "") {
  const auto config = ParseModelConfig(text, generation);
  EXPECT_TRUE(config.ok()) << config.status();
  if (!config.ok() || !config->encoder_decoder.has_value()) {
    ADD_FAILURE() << "not an encoder-decoder: " << text;
    ModelConfig none;
    none.encoder_decoder.emplace();
    return none;
  }
  return *config;
}

void ExpectError(const std::string& text, absl::StatusCode code, const std::string& part,
                 const std::string& generation = "") {
  const auto config = ParseModelConfig(text, generation);
  EXPECT_EQ(config.status().code(), code) << text << "\n" << config.status();
  EXPECT_THAT(std::string(config.status().message()), HasSubstr(part));
}
void ExpectRefused(const std::string& more, const std::string& part) {
  ExpectError(Marian(more), absl::StatusCode::kUnimplemented, part);
}
void ExpectInvalid(const std::string& more, const std::string& part) {
  ExpectError(Marian(more), absl::StatusCode::kInvalidArgument, part);
}

TEST(ConfigMarianTest, SizesAndDefaults) {
  const ModelConfig config = Parsed(Marian());
  const EncoderDecoderConfig& both = *config.encoder_decoder;
  EXPECT_EQ(config.architecture, &kMarianArchitecture);
  EXPECT_EQ(config.hidden_size, 24);
  EXPECT_EQ(config.layers, 3);
  EXPECT_EQ(config.heads, 4);
  EXPECT_EQ(config.kv_heads, 4);
  EXPECT_EQ(config.head_dim, 6);
  EXPECT_EQ(config.intermediate_size, 48);
  EXPECT_EQ(config.vocab_size, 31);
  EXPECT_FLOAT_EQ(config.norm_eps, 1e-5F);
  EXPECT_TRUE(config.tie_word_embeddings);
  EXPECT_EQ(config.max_position_embeddings, 1024);
  EXPECT_EQ(config.position_limit(), 1024);
  EXPECT_THAT(config.eos_token_ids, ElementsAre(0));
  EXPECT_THAT(config.suppressed_token_ids, IsEmpty());
  EXPECT_EQ(config.default_temperature, 0.0F);

  EXPECT_EQ(both.encoder_layers, 2);
  EXPECT_EQ(both.encoder_heads, 2);
  EXPECT_EQ(both.encoder_intermediate_size, 40);
  EXPECT_EQ(both.source_vocab_size, 31);
  EXPECT_EQ(both.activation, ActivationKind::kGelu);
  EXPECT_FALSE(both.normalize_before || both.final_norm || both.scale_embedding);
  EXPECT_FALSE(both.learned_positions);
  EXPECT_TRUE(both.share_embeddings && both.source_append_eos);
  EXPECT_EQ(both.max_source_positions, 1024);
  EXPECT_EQ(both.decoder_start_token_id, 30);
  EXPECT_EQ(both.pad_token_id, 30);
  EXPECT_THAT(
      both.cross_layer_types,
      ElementsAre(LayerType::kFullAttention, LayerType::kFullAttention, LayerType::kFullAttention));
}

TEST(ConfigMarianTest, EverythingThatDiffersFromOpusMt) {
  const ModelConfig config = Parsed(Marian(
      R"("normalize_before": true, "add_final_layer_norm": true, "scale_embedding": true,)"
      R"("static_position_embeddings": false, "share_encoder_decoder_embeddings": false,)"
      R"("tie_word_embeddings": false, "decoder_vocab_size": 19, "source_append_eos": false,)"
      R"("decoder_start_token_id": 1, "pad_token_id": 2, "max_position_embeddings": 77,)"
      R"("layer_norm_eps": 1e-6, "eos_token_id": 18)"));
  const EncoderDecoderConfig& both = *config.encoder_decoder;
  EXPECT_TRUE(both.normalize_before && both.final_norm && both.scale_embedding);
  EXPECT_TRUE(both.learned_positions);
  EXPECT_FALSE(both.share_embeddings || both.source_append_eos || config.tie_word_embeddings);
  EXPECT_EQ(config.vocab_size, 19);
  EXPECT_EQ(both.source_vocab_size, 31);
  EXPECT_EQ(both.decoder_start_token_id, 1);
  EXPECT_EQ(both.pad_token_id, 2);
  EXPECT_EQ(config.position_limit(), 77);
  EXPECT_EQ(both.max_source_positions, 77);
  EXPECT_FLOAT_EQ(config.norm_eps, 1e-6F);
  EXPECT_THAT(config.eos_token_ids, ElementsAre(18));
}

TEST(ConfigMarianTest, Activations) {
  const std::pair<const char*, ActivationKind> kinds[] = {
      {"swish", ActivationKind::kSilu},        {"silu", ActivationKind::kSilu},
      {"relu", ActivationKind::kRelu},         {"gelu", ActivationKind::kGelu},
      {"gelu_new", ActivationKind::kGeluTanh}, {"gelu_pytorch_tanh", ActivationKind::kGeluTanh},
  };
  for (const auto& [name, kind] : kinds) {
    const std::string key = std::string(R"("activation_function": ")") + name + '"';
    EXPECT_EQ(Parsed(Marian(key)).encoder_decoder->activation, kind) << name;
  }
  ExpectRefused(R"("activation_function": "mish")", "activation_function is \"mish\"");
}

TEST(ConfigMarianTest, LayerTypesOfBothAttentions) {
  const std::string linear =
      R"("linear_attention": {"feature_map": "t2r", "feature_size": 8, "normalizer": "clamp",)"
      R"("eps": 0.01, "query_scale": 0.5})";
  const ModelConfig config = Parsed(
      Marian(R"("layer_types": ["linear_attention", "full_attention", "linear_attention"],)"
             R"("cross_layer_types": ["full_attention", "linear_attention", "full_attention"],)" +
             linear));
  EXPECT_EQ(config.linear_layers(), 2);
  EXPECT_EQ(config.full_layers(), 1);
  EXPECT_EQ(config.linear_cross_layers(), 1);
  EXPECT_EQ(config.full_cross_layers(), 2);
  EXPECT_EQ(StateShapeOf(config).layers.size(), 3U);
  EXPECT_EQ(KvShapeOf(config).layers, 1);
  EXPECT_EQ(SourceKvShapeOf(config).layers, 2);

  const std::string cross =
      R"("cross_layer_types": ["linear_attention", "linear_attention", "linear_attention"])";
  const ModelConfig only_cross = Parsed(Marian(cross + "," + linear));
  ASSERT_TRUE(only_cross.linear_attention.has_value());
  EXPECT_EQ(only_cross.linear_attention->feature_size, 8);
  EXPECT_EQ(StateShapeOf(only_cross).layers.size(), 3U);
  ExpectInvalid(cross, "linear_attention is missing; cross_layer_types");
  ExpectInvalid(R"("cross_layer_types": ["full_attention"])", "cross_layer_types");
  ExpectRefused(R"("cross_layer_types": ["full_attention", "sliding_attention", "full_attention"])",
                "cross_layer_types[1] is \"sliding_attention\"");
}

TEST(ConfigMarianTest, SuppressedTokensOfBothFiles) {
  EXPECT_THAT(Parsed(Marian(R"("bad_words_ids": [[30]])"), R"({"bad_words_ids": [[7], [30]]})")
                  .suppressed_token_ids,
              ElementsAre(30, 7));
  ExpectRefused(R"("bad_words_ids": [[30], [4, 5]])", "bad_words_ids has words of several tokens");
  for (const char* wrong : {"3", "[3]", "[[]]", "[[31]]", "[[-1]]", "[[\"a\"]]"}) {
    ExpectInvalid(std::string(R"("bad_words_ids": )") + wrong, "bad_words_ids");
  }
}

TEST(ConfigMarianTest, GenerationConfigMayMoveTheStartAndTheTemperature) {
  ModelConfig config =
      Parsed(Marian(), R"({"decoder_start_token_id": 5, "do_sample": true, "temperature": 0.7,)"
                       R"("eos_token_id": [0, 9]})");
  EXPECT_EQ(config.encoder_decoder->decoder_start_token_id, 5);
  EXPECT_FLOAT_EQ(*config.default_temperature, 0.7F);
  EXPECT_THAT(config.eos_token_ids, ElementsAre(0, 9));
  // HF searches and does not sample unless it is told to.
  EXPECT_EQ(Parsed(Marian(), R"({"temperature": 0.7})").default_temperature, 0.0F);
  EXPECT_FALSE(Parsed(Marian(), R"({"do_sample": true})").default_temperature.has_value());
  ExpectError(Marian(), absl::StatusCode::kInvalidArgument, "decoder_start_token_id",
              R"({"decoder_start_token_id": 31})");
  ExpectError(Marian(), absl::StatusCode::kUnimplemented, "forced_bos_token_id",
              R"({"forced_bos_token_id": 3})");
}

TEST(ConfigMarianTest, WhatChangesTheMathematicsIsRefusedByName) {
  for (const char* more :
       {R"("normalize_embedding": true)", R"("do_blenderbot_90_layernorm": true)",
        R"("is_encoder_decoder": false)", R"("forced_bos_token_id": 3)",
        R"("quantization_config": {"a": 1})", R"("sliding_window": 4)",
        R"("pruned_heads": {"0": [1]})"}) {
    ExpectRefused(more, std::string(more).substr(1, std::string(more).find('"', 1) - 1));
  }
  ExpectRefused(R"("static_position_embeddings": false, "extra_pos_embeddings": 2)",
                "extra_pos_embeddings");
  // What opus-mt's own files hold.
  Parsed(Marian(
      R"("extra_pos_embeddings": 31, "is_encoder_decoder": true, "num_beams": 6,)"
      R"("normalize_embedding": false, "forced_eos_token_id": 0, "add_bias_logits": false)"));
}

TEST(ConfigMarianTest, BadValuesAreNamedWithTheirLimits) {
  ExpectInvalid(R"("d_model": 0)", "d_model is 0");
  ExpectInvalid(R"("decoder_attention_heads": 5)", "decoder_attention_heads is 5");
  ExpectInvalid(R"("encoder_attention_heads": 7)", "encoder_attention_heads is 7");
  ExpectInvalid(R"("encoder_layers": 0)", "encoder_layers is 0");
  ExpectInvalid(R"("decoder_layers": 5000)", "decoder_layers is 5000");
  ExpectInvalid(R"("max_position_embeddings": 0)", "max_position_embeddings is 0");
  ExpectInvalid(R"("decoder_vocab_size": 19)", "decoder_vocab_size is 19");
  ExpectInvalid(R"("decoder_start_token_id": 31)", "decoder_start_token_id is 31");
  ExpectInvalid(R"("pad_token_id": -1)", "pad_token_id is -1");
  ExpectInvalid(R"("decoder_start_token_id": null)", "decoder_start_token_id is missing");
  ExpectInvalid(R"("normalize_before": 1)", "normalize_before");
  ExpectError(R"({"model_type": "marian"})", absl::StatusCode::kInvalidArgument,
              "d_model is missing");
}

TEST(ConfigMarianTest, TheEndTokenDefaultsAsInHf) {
  const ModelConfig config = Parsed(Marian(R"("eos_token_id": null)"));
  EXPECT_THAT(config.eos_token_ids, ElementsAre(0));
  EXPECT_THAT(Parsed(Marian(R"("eos_token_id": null)"), R"({"eos_token_id": 3})").eos_token_ids,
              ElementsAre(3));
}

}  // namespace
}  // namespace t2r::testing
