#include "testing/marian_directory.h"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "testing/model_directory.h"
#include "testing/weight_maker.h"

namespace t2r::testing {
namespace {

bool IsLinear(const std::vector<bool>& linear, int layer) {
  return !linear.empty() && linear[layer];
}

std::vector<std::string> Types(const std::vector<bool>& linear, int layers) {
  std::vector<std::string> types;
  for (int i = 0; i < layers; ++i) {
    types.emplace_back(IsLinear(linear, i) ? "linear_attention" : "full_attention");
  }
  return types;
}

class MarianMaker {
 public:
  MarianMaker(const MarianSpec& spec, uint64_t seed) : spec_(spec), maker_(seed) {}

  Tensors Make() {
    const double deviation = spec_.tied ? 0.4 : 1.0;
    if (spec_.share) {
      maker_.Add("model.shared.weight", {spec_.source_vocab, spec_.hidden}, deviation);
    } else {
      maker_.Add("model.encoder.embed_tokens.weight", {spec_.source_vocab, spec_.hidden}, 1.0);
      maker_.Add("model.decoder.embed_tokens.weight", {spec_.vocab, spec_.hidden}, deviation);
    }
    AddSide("encoder", spec_.encoder_layers, spec_.encoder_inner);
    AddSide("decoder", spec_.decoder_layers, spec_.decoder_inner);
    if (!spec_.tied) maker_.Add("lm_head.weight", {spec_.target_vocab(), spec_.hidden}, 0.4);
    maker_.Add("final_logits_bias", {1, spec_.target_vocab()}, 0.5);
    return std::move(maker_.tensors);
  }

 private:
  void AddNorm(const std::string& name) {
    maker_.Add(name + ".weight", {spec_.hidden}, 0.1, 1.0);
    maker_.Add(name + ".bias", {spec_.hidden}, 0.1);
  }
  void AddLinear(const std::string& name, int outputs, int inputs) {
    maker_.Add(name + ".weight", {outputs, inputs}, 1.2 / std::sqrt(static_cast<double>(inputs)));
    maker_.Add(name + ".bias", {outputs}, 0.1);
  }
  void AddAttention(const std::string& name, bool linear) {
    for (const char* part : {".q_proj", ".k_proj", ".v_proj", ".out_proj"}) {
      AddLinear(name + part, spec_.hidden, spec_.hidden);
    }
    if (linear) {
      AddFeatureMap(spec_.map, spec_.decoder_heads, spec_.features, spec_.head_dim(),
                    name + ".feature_map.", &maker_);
    }
    AddNorm(name + "_layer_norm");
  }
  void AddSide(const std::string& side, int layers, int inner) {
    const std::string model = "model." + side + ".";
    if (spec_.stored || spec_.learned) {
      maker_.Add(model + "embed_positions.weight", {spec_.positions, spec_.hidden}, 0.3);
    }
    for (int i = 0; i < layers; ++i) {
      const std::string layer = model + "layers." + std::to_string(i) + ".";
      const bool decoder = side == "decoder";
      AddAttention(layer + "self_attn", decoder && IsLinear(spec_.linear, i));
      if (decoder) AddAttention(layer + "encoder_attn", IsLinear(spec_.linear_cross, i));
      AddLinear(layer + "fc1", inner, spec_.hidden);
      AddLinear(layer + "fc2", spec_.hidden, inner);
      AddNorm(layer + "final_layer_norm");
    }
    if (spec_.final_norm) AddNorm(model + "layer_norm");
  }

  const MarianSpec& spec_;
  WeightMaker maker_;
};

}  // namespace

std::string ConfigOf(const MarianSpec& spec) {
  nlohmann::json config = {
      {"architectures", {"MarianMTModel"}},
      {"d_model", spec.hidden},
      {"encoder_layers", spec.encoder_layers},
      {"decoder_layers", spec.decoder_layers},
      {"encoder_attention_heads", spec.encoder_heads},
      {"decoder_attention_heads", spec.decoder_heads},
      {"encoder_ffn_dim", spec.encoder_inner},
      {"decoder_ffn_dim", spec.decoder_inner},
      {"activation_function", spec.activation},
      {"vocab_size", spec.source_vocab},
      {"decoder_vocab_size", spec.target_vocab()},
      {"max_position_embeddings", spec.positions},
      {"normalize_before", spec.before},
      {"add_final_layer_norm", spec.final_norm},
      {"scale_embedding", spec.scale},
      {"static_position_embeddings", !spec.learned},
      {"share_encoder_decoder_embeddings", spec.share},
      {"tie_word_embeddings", spec.tied},
      {"decoder_start_token_id", 1},
      {"pad_token_id", 1},
      {"eos_token_id", 0},
      {"layer_types", Types(spec.linear, spec.decoder_layers)},
      {"cross_layer_types", Types(spec.linear_cross, spec.decoder_layers)},
  };
  if (!spec.linear.empty() || !spec.linear_cross.empty()) {
    config["linear_attention"] = {{"feature_map", spec.map},
                                  {"feature_size", spec.features},
                                  {"normalizer", spec.normalizer},
                                  {"eps", spec.normalizer == "clamp" ? 1e-2 : 1e-6},
                                  {"query_scale", 0.35}};
  }
  for (const int id : spec.suppressed) config["bad_words_ids"].push_back({id});
  return config.dump();
}

Tensors RandomWeights(const MarianSpec& spec, uint64_t seed) {
  return MarianMaker(spec, seed).Make();
}

std::unique_ptr<Engine> RandomEngine(const MarianSpec& spec, const EngineOptions& options) {
  const TemporaryDirectory directory;
  directory.Write("config.json", ConfigOf(spec));
  WriteWeights(directory, RandomWeights(spec, 17));
  auto engine = LoadEngine(directory.path(), options);
  EXPECT_TRUE(engine.ok()) << engine.status();
  return engine.ok() ? *std::move(engine) : nullptr;
}

}  // namespace t2r::testing
