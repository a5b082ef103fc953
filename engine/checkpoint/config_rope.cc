// Rotary positions in config.json: rope_theta's scaling, and how much of a head turns.
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "engine/checkpoint/config_families.h"

namespace t2r {
namespace {

constexpr double kMaxFactor = 1e9;

// Reads one of rope_scaling's objects. Keys beside it are read through `fields`.
class ScalingReader {
 public:
  ScalingReader(JsonFields& fields, JsonFields& scaling, const RopeDialect& dialect,
                ModelConfig* config)
      : fields_(fields), scaling_(scaling), dialect_(dialect), config_(*config) {}

  void Read() {
    std::string type =
        scaling_.String("rope_type", scaling_.String("type", std::string("default")));
    if (dialect_.longrope_names && (type == "su" || type == "yarn")) type = "longrope";
    if (type == "default") return;
    if (type == "linear") {
      rope_.kind = RopeScaling::Kind::kLinear;
      rope_.factor = Factor();
    } else if (type == "llama3") {
      ReadLlama3();
    } else if (type == "yarn") {
      ReadYarn();
    } else if (type == "dynamic") {
      ReadDynamic();
    } else if (type == "longrope") {
      ReadLongRope();
    } else {
      scaling_.Unimplemented(
          scaling_.Has("rope_type") ? "rope_type" : "type",
          absl::StrCat("is \"", type,
                       "\"; supported are default, linear, llama3, yarn, dynamic and longrope"));
      return;
    }
    config_.rope_scaling = rope_;
  }

 private:
  double Factor() { return scaling_.Number("factor", 1e-6, kMaxFactor); }

  double Positions() const { return static_cast<double>(config_.max_position_embeddings); }

  // Of the text that the model was first trained on: beside the object, or in it.
  double Original() {
    constexpr char kKey[] = "original_max_position_embeddings";
    if (fields_.Has(kKey)) return static_cast<double>(fields_.Integer(kKey, 1, kMaxPositions));
    const int64_t absent =
        dialect_.original > 0 ? dialect_.original : config_.max_position_embeddings;
    return scaling_.Number(kKey, 1, 1e12, static_cast<double>(absent));
  }

  // By how much texts are longer than the original ones.
  double Stretch() { return scaling_.Has("factor") ? Factor() : Positions() / Original(); }

  // What frequencies that depend on a text's length are for.
  double Length(double absent) {
    return static_cast<double>(
        fields_.Integer("rope_length", 1, kMaxPositions, static_cast<int64_t>(absent)));
  }

  void Warn(const std::string& text) {
    config_.warnings.push_back(absl::StrCat(scaling_.prefix(), text));
  }

  void ReadLlama3() {
    rope_.kind = RopeScaling::Kind::kLlama3;
    rope_.factor = Factor();
    rope_.low_freq_factor = scaling_.Number("low_freq_factor", 0, kMaxFactor);
    rope_.high_freq_factor = scaling_.Number("high_freq_factor", 0, kMaxFactor);
    const auto original = static_cast<double>(fields_.Integer(
        "original_max_position_embeddings", 1, kMaxPositions, config_.max_position_embeddings));
    rope_.original_max_position_embeddings =
        scaling_.Number("original_max_position_embeddings", 1, 1e12, original);
    if (!(rope_.low_freq_factor < rope_.high_freq_factor)) {
      scaling_.Invalid("low_freq_factor", "must be less than high_freq_factor");
    }
  }

  void ReadYarn() {
    rope_.kind = RopeScaling::Kind::kYarn;
    rope_.original_max_position_embeddings = Original();
    const bool has_factor =
        scaling_.Has("factor") || Positions() != rope_.original_max_position_embeddings;
    rope_.factor = has_factor ? Stretch() : Factor();
    // 0 is absence here, as in transformers.
    const auto or_else = [&](const char* key, double absent) {
      const double value = scaling_.Number(key, 0, kMaxFactor, absent);
      return value == 0 ? absent : value;
    };
    rope_.beta_fast = or_else("beta_fast", rope_.beta_fast);
    rope_.beta_slow = or_else("beta_slow", rope_.beta_slow);
    rope_.truncate = scaling_.Bool("truncate", true);
    const auto scale = [&](double m) {
      return rope_.factor <= 1 ? 1.0 : 0.1 * m * std::log(rope_.factor) + 1.0;
    };
    const double mscale = scaling_.Number("mscale", 0, kMaxFactor, 0.0);
    const double all_dim = scaling_.Number("mscale_all_dim", 0, kMaxFactor, 0.0);
    const double usual = mscale != 0 && all_dim != 0 ? scale(mscale) / scale(all_dim) : scale(1);
    rope_.attention_factor = scaling_.Number("attention_factor", 1e-6, kMaxFactor, usual);
    if (config_.rope_theta <= 1)
      scaling_.Invalid("rope_type", "is yarn, which needs a theta above 1");
  }

  void ReadDynamic() {
    rope_.kind = RopeScaling::Kind::kDynamic;
    rope_.factor = Factor();
    rope_.original_max_position_embeddings = Positions();
    rope_.length = std::max(Length(Positions()), Positions());
    // θ grows by (factor · length / positions − factor + 1)^(dim / (dim − 2)).
    if (config_.rotary_dim < 4) {
      scaling_.Invalid("rope_type", "is dynamic, which needs heads that turn at least 4 values");
    }
    Warn(absl::StrCat("type is dynamic: the frequencies are those of texts of ", rope_.length,
                      " tokens whatever a session's length (rope_length chooses)"));
  }

  std::vector<double> Factors(const char* key) {
    const auto pairs = static_cast<size_t>(config_.rotary_dim / 2);
    std::vector<double> factors(pairs, 1.0);
    const nlohmann::json* list = scaling_.Array(key);
    if (list == nullptr || list->size() != pairs) {
      scaling_.Invalid(
          key, absl::StrCat("must be an array of ", pairs, " numbers, one for each frequency"));
      return factors;
    }
    for (size_t i = 0; i < pairs; ++i) {
      const nlohmann::json& factor = (*list)[i];
      const double value = factor.is_number() ? factor.get<double>() : 0;
      if (value >= 1e-6 && value <= kMaxFactor) {
        factors[i] = value;
      } else {
        scaling_.Invalid(absl::StrCat(key, "[", i, "]"), "must be a number from 1e-6 to 1e9");
      }
    }
    return factors;
  }

  void ReadLongRope() {
    rope_.kind = RopeScaling::Kind::kLongRope;
    const double original = Original();
    rope_.original_max_position_embeddings = original;
    if (original < 2) {
      scaling_.Invalid("original_max_position_embeddings", "must be at least 2 with longrope");
      return;
    }
    const double stretch = Stretch();
    const double usual =
        stretch <= 1 ? 1.0 : std::sqrt(1.0 + std::log(stretch) / std::log(original));
    rope_.attention_factor = scaling_.Number("attention_factor", 1e-6, kMaxFactor, usual);
    const std::vector<double> short_factors = Factors("short_factor");
    const std::vector<double> long_factors = Factors("long_factor");
    const double length = Length(std::min(std::max(Positions(), original * stretch), 1e12));
    const bool is_long = length > original;
    rope_.factors = is_long ? long_factors : short_factors;
    if (short_factors == long_factors) return;
    Warn(absl::StrCat("type is longrope: ", is_long ? "long" : "short", "_factor holds, as for ",
                      is_long ? "texts of more than " : "texts of up to ", original,
                      " tokens, whatever a session's length (rope_length chooses)"));
  }

  JsonFields& fields_;
  JsonFields& scaling_;
  const RopeDialect& dialect_;
  ModelConfig& config_;
  RopeScaling rope_;
};

}  // namespace

void ReadRope(JsonFields& fields, const RopeDialect& dialect, ModelConfig* config) {
  // `rope_parameters` is the newer name and then holds rope_theta and the turned part too.
  constexpr const char* kNames[] = {"rope_scaling", "rope_parameters"};
  double part = 1.0;
  if (dialect.part_key != nullptr) part = fields.Number(dialect.part_key, 0, 1, dialect.part);
  for (const char* name : kNames) {
    const nlohmann::json* value = fields.Find(name);
    if (value == nullptr) continue;
    if (!value->is_object()) {
      fields.Invalid(name, "must be an object or null");
      return;
    }
    JsonFields scaling(*value, absl::StrCat(fields.prefix(), name, "."));
    part = scaling.Number("partial_rotary_factor", 0, 1, part);
    if (part != 1.0 && dialect.part_key == nullptr) {
      scaling.Unimplemented("partial_rotary_factor", "other than 1 is not supported");
    }
    fields.Record(scaling.status());
  }
  config->rotary_dim = static_cast<int>(config->head_dim * part);
  if (config->rotary_dim < 2 || config->rotary_dim % 2 != 0 || config->head_dim % 2 != 0) {
    fields.Invalid(dialect.part_key == nullptr ? "head_dim" : dialect.part_key,
                   absl::StrCat("makes rotary positions turn ", config->rotary_dim, " of ",
                                config->head_dim, " values; both must be even and at least 2"));
  }
  for (const char* name : kNames) {
    const nlohmann::json* value = fields.Find(name);
    if (value == nullptr) continue;
    JsonFields scaling(*value, absl::StrCat(fields.prefix(), name, "."));
    for (const auto& [key, entry] : value->items()) {
      if (entry.is_object()) scaling.Unimplemented(key, "is an object, which is not supported");
    }
    config->rope_theta = scaling.Number("rope_theta", 1e-6, 1e30, config->rope_theta);
    ScalingReader(fields, scaling, dialect, config).Read();
    fields.Record(scaling.status());
  }
}

}  // namespace t2r
