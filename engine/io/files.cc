#include "engine/io/files.h"

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <system_error>

#include "absl/strings/str_cat.h"

namespace t2r::tokenizer_files {
namespace {

constexpr int kMaxDepth = 64;

absl::Status WrongType(const Json& object, const char* key, const std::string& where,
                       const char* wanted) {
  return Invalid(where, absl::StrCat(key, " must be ", wanted, ", not ", object[key].type_name()));
}

absl::Status Missing(const char* key, const std::string& where) {
  return Invalid(where, absl::StrCat(key, " is missing"));
}

}  // namespace

absl::StatusOr<std::optional<std::string>> ReadOptionalFile(const std::string& path) {
  std::error_code error;
  if (!std::filesystem::exists(path, error)) return std::optional<std::string>();
  if (!std::filesystem::is_regular_file(path, error)) return Invalid(path, "is not a file");
  const auto size = std::filesystem::file_size(path, error);
  if (error) return Invalid(path, error.message());
  if (size > kMaxFileBytes) {
    return Invalid(path, absl::StrCat("has ", size, " bytes; the limit is ", kMaxFileBytes));
  }
  std::ifstream stream(path, std::ios::binary);
  std::ostringstream text;
  text << stream.rdbuf();
  if (!stream.good() && size > 0) return Invalid(path, "cannot be read");
  return std::optional<std::string>(std::move(text).str());
}

absl::StatusOr<Json> ParseJsonObject(const std::string& text, const std::string& file) {
  bool too_deep = false;
  const auto check_depth = [&](int depth, Json::parse_event_t, Json&) {
    too_deep = too_deep || depth > kMaxDepth;
    return !too_deep;
  };
  Json json;
  try {
    json = Json::parse(text, check_depth);
  } catch (const Json::exception& error) {
    return Invalid(file, error.what());
  }
  if (too_deep) return Invalid(file, absl::StrCat("is nested more than ", kMaxDepth, " deep"));
  if (!json.is_object()) return Invalid(file, "must hold a JSON object");
  return json;
}

absl::Status Invalid(const std::string& where, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat(where, ": ", what));
}

absl::Status Unsupported(const std::string& where, const std::string& what) {
  return absl::UnimplementedError(absl::StrCat(where, ": ", what, " is not supported"));
}

const Json* FindField(const Json& object, const char* key) {
  const auto it = object.find(key);
  return it == object.end() || it->is_null() ? nullptr : &*it;
}

absl::StatusOr<std::string> StringField(const Json& object, const char* key,
                                        const std::string& where,
                                        std::optional<std::string> absent) {
  const Json* value = FindField(object, key);
  if (value == nullptr && absent.has_value()) return *std::move(absent);
  if (value == nullptr) return Missing(key, where);
  if (!value->is_string()) return WrongType(object, key, where, "a string");
  return value->get<std::string>();
}

absl::StatusOr<bool> BoolField(const Json& object, const char* key, const std::string& where,
                               std::optional<bool> absent) {
  const Json* value = FindField(object, key);
  if (value == nullptr && absent.has_value()) return *absent;
  if (value == nullptr) return Missing(key, where);
  if (!value->is_boolean()) return WrongType(object, key, where, "true or false");
  return value->get<bool>();
}

absl::StatusOr<int64_t> IntegerField(const Json& object, const char* key, const std::string& where,
                                     int64_t low, int64_t high, std::optional<int64_t> absent) {
  const Json* value = FindField(object, key);
  if (value == nullptr && absent.has_value()) return *absent;
  if (value == nullptr) return Missing(key, where);
  if (!value->is_number_integer()) return WrongType(object, key, where, "an integer");
  if (value->is_number_unsigned() && value->get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) {
    return Invalid(where, absl::StrCat(key, " must be in [", low, ", ", high, "]"));
  }
  const auto number = value->get<int64_t>();
  if (number < low || number > high) {
    return Invalid(where, absl::StrCat(key, " is ", number, ", not in [", low, ", ", high, "]"));
  }
  return number;
}

absl::StatusOr<const Json*> ArrayField(const Json& object, const char* key,
                                       const std::string& where) {
  const Json* value = FindField(object, key);
  if (value == nullptr) return Missing(key, where);
  if (!value->is_array()) return WrongType(object, key, where, "an array");
  return value;
}

}  // namespace t2r::tokenizer_files
