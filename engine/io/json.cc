#include "engine/io/json.h"

#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"

namespace t2r {
namespace {

constexpr int kMaxDepth = 64;

// The value as a message shows it: short, whatever a file holds.
std::string Shown(const nlohmann::json& value) {
  if (value.is_structured()) return value.is_array() ? "an array" : "an object";
  std::string text = value.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
  if (text.size() > 80) text = absl::StrCat(text.substr(0, 80), "…");
  return text;
}

}  // namespace

absl::StatusOr<Json> ParseJsonObject(const std::string& text, const std::string& file,
                                     size_t max_bytes) {
  if (text.size() > max_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(file, ": ", text.size(), " bytes; at most ", max_bytes, " are read"));
  }
  bool too_deep = false;
  // Refusing a value in the callback keeps the parser from storing it, so depth costs no memory.
  const auto shallow = [&too_deep](int depth, nlohmann::json::parse_event_t, nlohmann::json&) {
    too_deep = too_deep || depth > kMaxDepth;
    return depth <= kMaxDepth;
  };
  try {
    nlohmann::json value = nlohmann::json::parse(text, shallow);
    if (too_deep) {
      return absl::InvalidArgumentError(
          absl::StrCat(file, ": nested deeper than ", kMaxDepth, " levels"));
    }
    if (!value.is_object()) {
      return absl::InvalidArgumentError(absl::StrCat(file, ": not a JSON object"));
    }
    return value;
  } catch (const nlohmann::json::exception& error) {
    return absl::InvalidArgumentError(absl::StrCat(file, ": not valid JSON: ", error.what()));
  }
}

JsonFields::JsonFields(const nlohmann::json& object, std::string prefix)
    : object_(object), prefix_(std::move(prefix)) {}

const nlohmann::json* JsonFields::Find(const char* key) const { return FindField(object_, key); }

bool JsonFields::Has(const char* key) const { return Find(key) != nullptr; }

int64_t JsonFields::Integer(const char* key, int64_t low, int64_t high,
                            std::optional<int64_t> absent) {
  const nlohmann::json* value = Find(key);
  if (value == nullptr) {
    if (!absent.has_value()) Invalid(key, "is missing");
    return absent.value_or(low);
  }
  const bool fits =
      value->is_number_integer() &&
      (!value->is_number_unsigned() || value->get<uint64_t>() <= static_cast<uint64_t>(INT64_MAX));
  if (!fits || value->get<int64_t>() < low || value->get<int64_t>() > high) {
    Invalid(key,
            absl::StrCat("is ", Shown(*value), "; it must be an integer from ", low, " to ", high));
    return low;
  }
  return value->get<int64_t>();
}

double JsonFields::Number(const char* key, double low, double high, std::optional<double> absent) {
  const nlohmann::json* value = Find(key);
  if (value == nullptr) {
    if (!absent.has_value()) Invalid(key, "is missing");
    return absent.value_or(low);
  }
  const double number = value->is_number() ? value->get<double>() : NAN;
  if (!(number >= low && number <= high)) {
    Invalid(key,
            absl::StrCat("is ", Shown(*value), "; it must be a number from ", low, " to ", high));
    return low;
  }
  return number;
}

bool JsonFields::Bool(const char* key, std::optional<bool> absent) {
  const nlohmann::json* value = Find(key);
  if (value == nullptr) {
    if (!absent.has_value()) Invalid(key, "is missing");
    return absent.value_or(false);
  }
  if (!value->is_boolean()) {
    Invalid(key, absl::StrCat("is ", Shown(*value), "; it must be true or false"));
    return absent.value_or(false);
  }
  return value->get<bool>();
}

const Json* JsonFields::Array(const char* key) {
  const Json* value = Find(key);
  if (value == nullptr) {
    Invalid(key, "is missing");
    return nullptr;
  }
  if (!value->is_array()) {
    Invalid(key, absl::StrCat("is ", Shown(*value), "; it must be an array"));
    return nullptr;
  }
  return value;
}

std::string JsonFields::String(const char* key, const std::optional<std::string>& absent) {
  const nlohmann::json* value = Find(key);
  if (value == nullptr) {
    if (!absent.has_value()) Invalid(key, "is missing");
    return absent.value_or("");
  }
  if (!value->is_string()) {
    Invalid(key, absl::StrCat("is ", Shown(*value), "; it must be a string"));
    return absent.value_or("");
  }
  return value->get<std::string>();
}

void JsonFields::Invalid(const std::string& key, const std::string& problem) {
  Record(absl::InvalidArgumentError(absl::StrCat(prefix_, key, " ", problem)));
}

void JsonFields::Unimplemented(const std::string& key, const std::string& problem) {
  Record(absl::UnimplementedError(absl::StrCat(prefix_, key, " ", problem)));
}

void JsonFields::Record(absl::Status status) {
  if (status_.ok()) status_ = std::move(status);
}

absl::StatusOr<std::string> StringField(const Json& object, const char* key,
                                        const std::string& where,
                                        const std::optional<std::string>& absent) {
  JsonFields fields(object, where + ": ");
  std::string value = fields.String(key, absent);
  if (!fields.status().ok()) return fields.status();
  return value;
}

absl::StatusOr<bool> BoolField(const Json& object, const char* key, const std::string& where,
                               std::optional<bool> absent) {
  JsonFields fields(object, where + ": ");
  const bool value = fields.Bool(key, absent);
  if (!fields.status().ok()) return fields.status();
  return value;
}

absl::StatusOr<int64_t> IntegerField(const Json& object, const char* key, const std::string& where,
                                     int64_t low, int64_t high, std::optional<int64_t> absent) {
  JsonFields fields(object, where + ": ");
  const int64_t value = fields.Integer(key, low, high, absent);
  if (!fields.status().ok()) return fields.status();
  return value;
}

absl::StatusOr<const Json*> ArrayField(const Json& object, const char* key,
                                       const std::string& where) {
  JsonFields fields(object, where + ": ");
  const Json* value = fields.Array(key);
  if (value == nullptr) return fields.status();
  return value;
}

const Json* FindField(const Json& object, const char* key) {
  const auto it = object.find(key);
  return it == object.end() || it->is_null() ? nullptr : &*it;
}

absl::Status InvalidAt(const std::string& where, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat(where, ": ", what));
}

absl::Status UnsupportedAt(const std::string& where, const std::string& what) {
  return absl::UnimplementedError(absl::StrCat(where, ": ", what, " is not supported"));
}

}  // namespace t2r
