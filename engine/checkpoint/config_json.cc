#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "engine/checkpoint/config_families.h"
#include "engine/engine.h"
#include "engine/io/json.h"

namespace t2r {
namespace {

constexpr size_t kMaxConfigBytes = size_t{4} << 20;
constexpr size_t kMaxTokenIds = 1024;
constexpr int64_t kMaxFeatures = 1 << 16;
// Floats of one layer's state of one session.
constexpr int64_t kMaxStateFloats = int64_t{1} << 30;

// `layer_types` or `cross_layer_types`; absent: all full.
std::vector<LayerType> ReadLayerTypes(JsonFields& fields, const char* name, int layers) {
  std::vector<LayerType> read(layers, LayerType::kFullAttention);
  const nlohmann::json* types = fields.Find(name);
  if (types == nullptr) return read;
  if (!types->is_array() || types->size() != static_cast<size_t>(layers)) {
    fields.Invalid(
        name, absl::StrCat("must be an array with one entry for each of the ", layers, " layers"));
    return read;
  }
  for (int i = 0; i < layers; ++i) {
    const nlohmann::json& type = (*types)[i];
    const std::string key = absl::StrCat(name, "[", i, "]");
    if (!type.is_string()) {
      fields.Invalid(key, "must be a string");
    } else if (type == "linear_attention") {
      read[i] = LayerType::kLinearAttention;
    } else if (type != "full_attention") {
      fields.Unimplemented(key, absl::StrCat("is \"", type.get<std::string>(),
                                             "\"; supported are linear_attention and "
                                             "full_attention"));
    }
  }
  return read;
}

LinearAttentionConfig ReadLinearAttention(JsonFields& fields, const ModelConfig& config) {
  LinearAttentionConfig linear;
  for (const auto& [key, value] : fields.object().items()) {
    if (key != "feature_map" && key != "feature_size" && key != "normalizer" && key != "eps" &&
        key != "query_scale") {
      fields.Unimplemented(key, "is not a key this version knows");
    }
  }
  const std::string map = fields.String("feature_map");
  bool even = false;
  if (map == "t2r") {
    linear.feature_map = FeatureMapKind::kT2r;
  } else if (map == "elu") {
    linear.feature_map = FeatureMapKind::kElu;
  } else if (map == "rfa") {
    linear.feature_map = FeatureMapKind::kRfa;
    even = true;
  } else if (map == "hedgehog") {
    linear.feature_map = FeatureMapKind::kHedgehog;
    even = true;
  } else {
    fields.Unimplemented("feature_map", absl::StrCat("is \"", map,
                                                     "\"; supported are t2r, elu, rfa and "
                                                     "hedgehog"));
  }
  const bool elu = linear.feature_map == FeatureMapKind::kElu;
  linear.feature_size = static_cast<int>(
      fields.Integer("feature_size", 1, kMaxFeatures,
                     elu ? std::optional<int64_t>(config.head_dim) : std::nullopt));
  if (even && linear.feature_size % 2 != 0) {
    fields.Invalid("feature_size", absl::StrCat("is ", linear.feature_size, "; ", map,
                                                " needs an even one (two halves)"));
  }
  if (elu && linear.feature_size != config.head_dim) {
    fields.Invalid("feature_size", absl::StrCat("is ", linear.feature_size,
                                                "; elu needs the head_dim, ", config.head_dim));
  }
  const std::string normalizer = fields.String("normalizer");
  if (normalizer == "add") {
    linear.normalizer = Normalizer::kAdd;
  } else if (normalizer != "clamp") {
    fields.Unimplemented("normalizer",
                         absl::StrCat("is \"", normalizer, "\"; supported are clamp and add"));
  }
  linear.eps = static_cast<float>(fields.Number("eps", 1e-30, 1e6));
  linear.query_scale = static_cast<float>(fields.Number("query_scale", -1e6, 1e6));
  if (int64_t{config.kv_heads} * linear.feature_size * (config.head_dim + 1) > kMaxStateFloats) {
    fields.Invalid("feature_size", absl::StrCat("makes a layer's state larger than ",
                                                kMaxStateFloats, " floats a session"));
  }
  return linear;
}

// An id, a list of ids or null. Ids outside the vocabulary (-1 is a common "none") can never be
// produced and are dropped.
std::vector<int32_t> ReadTokenIds(JsonFields& fields, const char* key, int vocab_size) {
  std::vector<int32_t> ids;
  const nlohmann::json* value = fields.Find(key);
  if (value == nullptr) return ids;
  const nlohmann::json list = value->is_array() ? *value : nlohmann::json::array({*value});
  if (list.size() > kMaxTokenIds) {
    fields.Invalid(key, absl::StrCat("lists ", list.size(), " ids; at most ", kMaxTokenIds));
    return ids;
  }
  for (const nlohmann::json& id : list) {
    if (!id.is_number_integer()) {
      fields.Invalid(key, "must be a token id, a list of token ids or null");
      return ids;
    }
    const bool inside = id.is_number_unsigned()
                            ? id.get<uint64_t>() < static_cast<uint64_t>(vocab_size)
                            : id.get<int64_t>() >= 0 && id.get<int64_t>() < vocab_size;
    if (inside) ids.push_back(id.get<int32_t>());
  }
  return ids;
}

void AddEndTokens(const std::vector<int32_t>& ids, ModelConfig* config) {
  for (const int32_t id : ids) {
    auto& all = config->eos_token_ids;
    if (std::find(all.begin(), all.end(), id) == all.end()) all.push_back(id);
  }
}

// An encoder-decoder's bad_words_ids. Words of several tokens are refused: nothing in the engine
// remembers how far a session has come in one.
void ReadSuppressed(JsonFields& fields, ModelConfig* config) {
  if (!config->encoder_decoder.has_value()) return;
  const nlohmann::json* words = fields.Find("bad_words_ids");
  if (words == nullptr) return;
  if (!words->is_array() || words->size() > kMaxTokenIds) {
    fields.Invalid("bad_words_ids",
                   absl::StrCat("must be an array of at most ", kMaxTokenIds, " words"));
    return;
  }
  for (const nlohmann::json& word : *words) {
    if (!word.is_array() || word.empty() || !word[0].is_number_unsigned() ||
        word[0].get<uint64_t>() >= static_cast<uint64_t>(config->vocab_size)) {
      fields.Invalid("bad_words_ids", absl::StrCat("holds ", word.dump().substr(0, 64),
                                                   "; it must be a list of token ids"));
      return;
    }
    if (word.size() > 1) {
      fields.Unimplemented("bad_words_ids",
                           "has words of several tokens; only single ones are "
                           "supported");
      return;
    }
    auto& all = config->suppressed_token_ids;
    const auto id = word[0].get<int32_t>();
    if (std::find(all.begin(), all.end(), id) == all.end()) all.push_back(id);
  }
}

DType ReadFileDType(JsonFields& fields) {
  const std::string name =
      fields.String("dtype", fields.String("torch_dtype", std::string("float32")));
  if (name == "bfloat16") return DType::kBFloat16;
  if (name == "float16") return DType::kFloat16;
  return DType::kFloat32;
}

absl::Status ReadGenerationConfig(const std::string& text, ModelConfig* config) {
  const std::string file = "generation_config.json";
  const auto json = ParseJsonObject(text, kMaxConfigBytes, file);
  if (!json.ok()) return json.status();
  JsonFields fields(*json, file + ": ");
  AddEndTokens(ReadTokenIds(fields, "eos_token_id", config->vocab_size), config);
  ReadSuppressed(fields, config);
  if (config->encoder_decoder.has_value()) {
    int32_t& start = config->encoder_decoder->decoder_start_token_id;
    start = static_cast<int32_t>(
        fields.Integer("decoder_start_token_id", 0, config->vocab_size - 1, int64_t{start}));
    RefuseForcedStart(fields);
  }
  const bool sample = fields.Bool("do_sample", !config->encoder_decoder.has_value());
  if (sample) config->default_temperature.reset();
  if (fields.Has("temperature")) {
    config->default_temperature = static_cast<float>(fields.Number("temperature", 0, 1e6));
  }
  if (!sample) config->default_temperature = 0.0F;
  return fields.status();
}

}  // namespace

absl::StatusOr<ModelConfig> ParseModelConfig(const std::string& config_json,
                                             const std::string& generation_config_json) {
  const std::string file = "config.json";
  const auto json = ParseJsonObject(config_json, kMaxConfigBytes, file);
  if (!json.ok()) return json.status();
  ModelConfig config;
  JsonFields fields(*json, file + ": ");
  const Family family = ReadFamily(fields);
  if (!fields.status().ok()) return fields.status();
  RefuseUnsupportedKeys(fields, family);
  switch (family) {
    case Family::kMarian:
      ReadMarianFields(fields, &config);
      break;
    case Family::kGpt2:
      ReadGpt2Fields(fields, &config);
      break;
    default:
      ReadLlamaFields(fields, family, &config);
  }
  if (!fields.status().ok()) return fields.status();

  config.layer_types = ReadLayerTypes(fields, "layer_types", config.layers);
  if (config.encoder_decoder.has_value()) {
    config.encoder_decoder->cross_layer_types =
        ReadLayerTypes(fields, "cross_layer_types", config.layers);
  }
  const bool linear_layers = config.linear_layers() + config.linear_cross_layers() > 0;
  if (const nlohmann::json* linear = fields.Find("linear_attention"); linear != nullptr) {
    if (!linear->is_object()) {
      fields.Invalid("linear_attention", "must be an object");
      return fields.status();
    }
    JsonFields linear_fields(*linear, file + ": linear_attention.");
    const LinearAttentionConfig read = ReadLinearAttention(linear_fields, config);
    fields.Record(linear_fields.status());
    if (linear_layers) config.linear_attention = read;
  } else if (linear_layers) {
    fields.Invalid("linear_attention",
                   absl::StrCat("is missing; ",
                                config.linear_layers() > 0 ? "layer_types" : "cross_layer_types",
                                " has linear_attention layers"));
  }
  ReadSuppressed(fields, &config);
  AddEndTokens(ReadTokenIds(fields, "eos_token_id", config.vocab_size), &config);
  const auto bos = ReadTokenIds(fields, "bos_token_id", config.vocab_size);
  if (!bos.empty()) config.bos_token_id = bos.front();
  // HF does not sample unless it is told to; translations keep to that.
  if (config.encoder_decoder.has_value()) config.default_temperature = 0.0F;
  config.file_dtype = ReadFileDType(fields);
  if (!fields.status().ok()) return fields.status();

  if (!generation_config_json.empty()) {
    const absl::Status status = ReadGenerationConfig(generation_config_json, &config);
    if (!status.ok()) return status;
  }
  // HF's default for the family.
  if (config.encoder_decoder.has_value() && config.eos_token_ids.empty()) {
    config.eos_token_ids = {0};
  }
  return config;
}

absl::StatusOr<ModelConfig> LoadModelConfig(const std::string& directory) {
  const auto config = ReadTextFile(directory + "/config.json", kMaxConfigBytes);
  if (!config.ok()) return config.status();
  const auto generation = ReadTextFile(directory + "/generation_config.json", kMaxConfigBytes);
  if (!generation.ok() && !absl::IsNotFound(generation.status())) return generation.status();
  auto parsed = ParseModelConfig(*config, generation.ok() ? *generation : "");
  if (!parsed.ok()) {
    return absl::Status(parsed.status().code(),
                        absl::StrCat(directory, "/", parsed.status().message()));
  }
  return parsed;
}

}  // namespace t2r
