#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "engine/checkpoint/config_families.h"
#include "engine/engine.h"
#include "engine/io/json.h"
#include "engine/ops/enum_names.h"

namespace t2r {
namespace {

constexpr size_t kMaxConfigBytes = size_t{4} << 20;
constexpr size_t kMaxTokenIds = 1024;
constexpr int64_t kMaxFeatures = 1 << 16;

// `layer_types` or `cross_layer_types`; absent: all full. linear: the name of linear layers.
std::vector<LayerType> ReadLayerTypes(JsonFields& fields, const char* name, int layers,
                                      const std::string& linear = "linear_attention") {
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
      continue;
    }
    const auto found = type.get<std::string>();
    if (found == linear) {
      read[i] = LayerType::kLinearAttention;
    } else if (found != NameOf(LayerType::kFullAttention)) {
      fields.Unimplemented(key, absl::StrCat("is \"", found, "\"; supported are ", linear, " and ",
                                             NameOf(LayerType::kFullAttention)));
    }
  }
  return read;
}

// A number for every layer, or a list with one for each: [layers], in [low, high]. Entries of
// layers that are not linear do not count, whatever they are.
std::vector<int> ReadSizes(JsonFields& fields, const char* key, int64_t low, int64_t high,
                           std::optional<int64_t> absent, const std::vector<bool>& linear) {
  const int layers = static_cast<int>(linear.size());
  const nlohmann::json* value = fields.Find(key);
  if (value == nullptr || !value->is_array()) {
    return std::vector<int>(layers, static_cast<int>(fields.Integer(key, low, high, absent)));
  }
  std::vector<int> sizes(layers, static_cast<int>(low));
  if (value->size() != static_cast<size_t>(layers)) {
    fields.Invalid(key, absl::StrCat("must be a number, or an array with one entry for each of ",
                                     "the ", layers, " layers"));
    return sizes;
  }
  for (int i = 0; i < layers; ++i) {
    if (!linear[i]) continue;
    const nlohmann::json& size = (*value)[i];
    const bool inside = size.is_number_unsigned() &&
                        size.get<uint64_t>() >= static_cast<uint64_t>(low) &&
                        size.get<uint64_t>() <= static_cast<uint64_t>(high);
    if (inside) {
      sizes[i] = size.get<int>();
    } else {
      fields.Invalid(absl::StrCat(key, "[", i, "]"),
                     absl::StrCat("must be an integer from ", low, " to ", high));
    }
  }
  return sizes;
}

// Sizes of every linear layer.
void ReadLayerSizes(JsonFields& fields, const ModelConfig& config, LinearAttentionConfig* linear) {
  const bool elu = linear->feature_map == FeatureMapKind::kElu;
  const bool none = linear->feature_map == FeatureMapKind::kNone;
  std::vector<bool> causal(config.layers), cross(config.layers), either(config.layers);
  for (int i = 0; i < config.layers; ++i) {
    causal[i] = config.layer_types[i] == LayerType::kLinearAttention;
    cross[i] = config.encoder_decoder.has_value() &&
               config.encoder_decoder->cross_layer_types[i] == LayerType::kLinearAttention;
    either[i] = causal[i] || cross[i];
  }
  std::optional<int64_t> features_absent;
  if (elu) features_absent = config.head_dim;
  if (none) features_absent = 0;
  const auto features = ReadSizes(fields, "feature_size", none ? 0 : 1, none ? 0 : kMaxFeatures,
                                  features_absent, either);
  const auto windows = ReadSizes(fields, "window", 0, kMaxWindow, 0, causal);
  const auto sinks = ReadSizes(fields, "sinks", 0, kMaxWindow, 0, causal);
  const auto folds = ReadSizes(fields, "fold", 1, kMaxWindow, 1, causal);
  bool some_window = false;
  for (int i = 0; i < config.layers; ++i) some_window |= causal[i] && windows[i] > 0;
  bool differ = false;
  std::optional<LinearSizes> first;
  std::vector<LinearSizes> layers(config.layers);
  for (int i = 0; i < config.layers; ++i) {
    if (!either[i]) continue;
    LinearSizes& layer = layers[i];
    layer.features = features[i];
    if (causal[i]) layer = {features[i], windows[i], sinks[i], folds[i]};
    if (layer.window == 0) {
      // One number for all layers is that of those with a window, where there is one.
      const auto check = [&](const char* key, int* size, int absent) {
        if (*size != absent && (!some_window || fields.Find(key)->is_array())) {
          fields.Invalid(key, absl::StrCat("needs a window in layer ", i));
        }
        *size = absent;
      };
      check("sinks", &layer.sinks, 0);
      check("fold", &layer.fold, 1);
    }
    if (none && (layer.window == 0 || cross[i])) {
      fields.Invalid("feature_map", "is \"none\", which needs a window in every linear layer");
    }
    if (!first.has_value()) first = layer;
    differ |= layer != *first;
    linear->feature_size = std::max(linear->feature_size, layer.features);
    linear->window = std::max(linear->window, layer.window);
    linear->sinks = std::max(linear->sinks, layer.sinks);
    linear->fold = std::max(linear->fold, layer.fold);
    const int64_t kept = layer.window == 0 ? 0 : int64_t{layer.window} + layer.fold - 1;
    const int64_t floats = (int64_t{layer.features} * (config.head_dim + 1) +
                            2 * config.head_dim * (kept + layer.sinks)) *
                           config.kv_heads;
    if (floats > kMaxStateFloats) {
      fields.Invalid("feature_size", absl::StrCat("makes a layer's state larger than ",
                                                  kMaxStateFloats, " floats a session"));
    }
  }
  if (differ) linear->layers = std::move(layers);
}

LinearAttentionConfig ReadLinearAttention(JsonFields& fields, const ModelConfig& config) {
  LinearAttentionConfig linear;
  constexpr std::string_view kKeys[] = {"feature_map",   "feature_size", "normalizer", "eps",
                                        "query_scale",   "window",       "sinks",      "fold",
                                        "rope_features", "sink_position"};
  for (const auto& [key, value] : fields.object().items()) {
    if (std::find(std::begin(kKeys), std::end(kKeys), key) == std::end(kKeys)) {
      fields.Unimplemented(key, "is not a key this version knows");
    }
  }
  const std::string map = fields.String("feature_map");
  const auto kind = Parse<FeatureMapKind>(map);
  if (!kind.has_value()) {
    fields.Unimplemented(
        "feature_map", absl::StrCat("is \"", map, "\"; supported are ", NamesOf<FeatureMapKind>()));
  }
  linear.feature_map = kind.value_or(FeatureMapKind::kT2r);
  const bool even =
      linear.feature_map == FeatureMapKind::kRfa || linear.feature_map == FeatureMapKind::kHedgehog;
  ReadLayerSizes(fields, config, &linear);
  for (int i = 0; i < config.layers; ++i) {
    const int features = linear.sizes(i).features;
    if (even && features % 2 != 0) {
      fields.Invalid("feature_size",
                     absl::StrCat("is ", features, "; ", map, " needs an even one (two halves)"));
    }
    if (linear.feature_map == FeatureMapKind::kElu && features > 0 && features != config.head_dim) {
      fields.Invalid("feature_size",
                     absl::StrCat("is ", features, "; elu needs the head_dim, ", config.head_dim));
    }
  }
  const bool codebook = linear.feature_map == FeatureMapKind::kCodebook;
  linear.rope_features = fields.Bool("rope_features", !codebook);
  if (fields.Has("sink_position")) {
    linear.sink_position = fields.Integer("sink_position", 0, int64_t{1} << 40);
    if (config.rotary_dim == 0) {
      fields.Invalid("sink_position", "needs rotary positions, which the model does not have");
    }
  }
  // Neither applies where the window's softmax is the denominator, nor to the codebook.
  bool windows = config.linear_cross_layers() == 0;
  for (int i = 0; i < config.layers; ++i) {
    if (config.layer_types[i] == LayerType::kLinearAttention) windows &= linear.sizes(i).window > 0;
  }
  if (codebook || windows) {
    linear.query_scale = static_cast<float>(fields.Number("query_scale", -1e6, 1e6));
    return linear;
  }
  const std::string normalizer = fields.String("normalizer");
  const auto known = Parse<Normalizer>(normalizer);
  if (!known.has_value()) {
    fields.Unimplemented("normalizer", absl::StrCat("is \"", normalizer, "\"; supported are ",
                                                    NamesOf<Normalizer>()));
  }
  linear.normalizer = known.value_or(Normalizer::kClamp);
  linear.eps = static_cast<float>(fields.Number("eps", 1e-30, 1e6));
  linear.query_scale = static_cast<float>(fields.Number("query_scale", -1e6, 1e6));
  return linear;
}

// An id, a list of ids or null. Ids outside the vocabulary can never be produced: they are dropped,
// with a warning unless they are negative (-1 is a common "none").
std::vector<int32_t> ReadTokenIds(JsonFields& fields, const char* key, ModelConfig* config) {
  const int vocab_size = config->vocab_size;
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
    if (inside) {
      ids.push_back(id.get<int32_t>());
    } else if (id.is_number_unsigned()) {
      config->warnings.push_back(absl::StrCat(fields.prefix(), key, " names ", id.dump(),
                                              ", outside the vocabulary of ", vocab_size,
                                              " tokens: it never occurs"));
    }
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
  return Parse<DType>(name).value_or(DType::kFloat32);
}

// Keys of generation_config.json that change what is generated and do not count here, with the
// value at which they change nothing.
constexpr struct {
  const char* key;
  double neutral;
} kIgnoredDefaults[] = {
    {"typical_p", 1},
    {"epsilon_cutoff", 0},
    {"eta_cutoff", 0},
    {"no_repeat_ngram_size", 0},
    {"encoder_repetition_penalty", 1},
    {"num_beam_groups", 1},
    {"penalty_alpha", 0},
    {"guidance_scale", 1},
    {"min_new_tokens", 0},
    {"min_length", 0},
    {"suppress_tokens", 0},
    {"begin_suppress_tokens", 0},
    {"sequence_bias", 0},
    {"stop_strings", 0},
};

void ReadDefaults(JsonFields& fields, ModelConfig* config) {
  ModelConfig::GenerationDefaults& defaults = config->defaults;
  const auto number = [&](const char* key, double low, double high, std::optional<float>* value) {
    if (fields.Has(key)) *value = static_cast<float>(fields.Number(key, low, high));
  };
  if (fields.Has("top_k")) {
    defaults.top_k = static_cast<int>(fields.Integer("top_k", 0, INT32_MAX));
  }
  number("top_p", 0, 1, &defaults.top_p);
  number("min_p", 0, 1, &defaults.min_p);
  number("repetition_penalty", 1e-6, 100, &defaults.repetition_penalty);
  if (fields.Has("max_new_tokens")) {
    defaults.max_new_tokens = fields.Integer("max_new_tokens", 1, kMaxPositions);
  }
  for (const auto& ignored : kIgnoredDefaults) {
    const nlohmann::json* value = fields.Find(ignored.key);
    if (value == nullptr || *value == ignored.neutral ||
        (value->is_structured() && value->empty())) {
      continue;
    }
    config->warnings.push_back(absl::StrCat(fields.prefix(), ignored.key,
                                            " is set, which is not supported and not applied"));
  }
}

absl::Status ReadGenerationConfig(const std::string& text, ModelConfig* config) {
  const std::string file = "generation_config.json";
  const auto json = ParseJsonObject(text, file, kMaxConfigBytes);
  if (!json.ok()) return json.status();
  JsonFields fields(*json, file + ": ");
  AddEndTokens(ReadTokenIds(fields, "eos_token_id", config), config);
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
    config->default_temperature = static_cast<float>(fields.Number("temperature", 0, 100));
  }
  if (!sample) config->default_temperature = 0.0F;
  ReadDefaults(fields, config);
  return fields.status();
}

}  // namespace

absl::StatusOr<ModelConfig> ParseModelConfig(const std::string& config_json,
                                             const std::string& generation_config_json) {
  const std::string file = "config.json";
  const auto json = ParseJsonObject(config_json, file, kMaxConfigBytes);
  if (!json.ok()) return json.status();
  ModelConfig config;
  JsonFields fields(*json, file + ": ");
  const ConfigFamily* family = FindFamily(fields);
  if (!fields.status().ok()) return fields.status();
  family->read(fields, &config);
  if (!fields.status().ok()) return fields.status();

  // A family's sliding window has made layers linear; linear_attention replaces them.
  const bool sliding = config.linear_attention.has_value() && !fields.Has("linear_attention");
  if (fields.Has("layer_types") || !sliding) {
    config.layer_types = ReadLayerTypes(fields, "layer_types", config.layers,
                                        sliding ? "sliding_attention" : "linear_attention");
  }
  if (config.linear_attention.has_value() && !sliding && config.full_layers() > 0) {
    fields.Unimplemented("sliding_window",
                         "is set beside linear_attention and full layers; only null is supported");
  }
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
  } else if (linear_layers && !sliding) {
    fields.Invalid("linear_attention",
                   absl::StrCat("is missing; ",
                                config.linear_layers() > 0 ? "layer_types" : "cross_layer_types",
                                " has linear_attention layers"));
  }
  if (!linear_layers) config.linear_attention.reset();
  ReadSuppressed(fields, &config);
  AddEndTokens(ReadTokenIds(fields, "eos_token_id", &config), &config);
  const auto bos = ReadTokenIds(fields, "bos_token_id", &config);
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
