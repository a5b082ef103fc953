// Typed, checked access to the fields of a JSON object, with errors that name file, field and
// limit: several fields with one check at the end (JsonFields), or one at a time.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/io/files.h"

namespace t2r {

using Json = nlohmann::json;

// Parses a JSON text whose top level is an object, nested at most 64 deep and at most `max_bytes`
// long. Errors (INVALID_ARGUMENT) begin with `file`.
absl::StatusOr<Json> ParseJsonObject(const std::string& text, const std::string& file,
                                     size_t max_bytes = kMaxFileBytes);

// Reads fields one after another and keeps the first error; after an error the getters go on
// returning values inside their ranges, so that callers check status() once. A field that is null
// counts as absent. Borrows `object`.
class JsonFields {
 public:
  // prefix: what error messages put before a key, such as "config.json: " or
  // "config.json: linear_attention.".
  JsonFields(const nlohmann::json& object, std::string prefix);

  bool Has(const char* key) const;
  // Null when absent.
  const nlohmann::json* Find(const char* key) const;

  // In [low, high]; without a default the field is required.
  int64_t Integer(const char* key, int64_t low, int64_t high,
                  std::optional<int64_t> absent = std::nullopt);
  // Finite and in [low, high].
  double Number(const char* key, double low, double high,
                std::optional<double> absent = std::nullopt);
  bool Bool(const char* key, std::optional<bool> absent = std::nullopt);
  // Null when absent or no array.
  const Json* Array(const char* key);
  std::string String(const char* key, const std::optional<std::string>& absent = std::nullopt);

  // Records an error about a key unless there is one already.
  void Invalid(const std::string& key, const std::string& problem);
  void Unimplemented(const std::string& key, const std::string& problem);
  void Record(absl::Status status);
  const absl::Status& status() const { return status_; }
  const std::string& prefix() const { return prefix_; }
  const nlohmann::json& object() const { return object_; }

 private:
  const nlohmann::json& object_;
  std::string prefix_;
  absl::Status status_;
};

// One field of `object`, which must be an object, by the rules of JsonFields; `where` stands before
// a colon in errors.
absl::StatusOr<std::string> StringField(const Json& object, const char* key,
                                        const std::string& where,
                                        const std::optional<std::string>& absent = std::nullopt);
absl::StatusOr<bool> BoolField(const Json& object, const char* key, const std::string& where,
                               std::optional<bool> absent = std::nullopt);
absl::StatusOr<int64_t> IntegerField(const Json& object, const char* key, const std::string& where,
                                     int64_t low, int64_t high,
                                     std::optional<int64_t> absent = std::nullopt);
absl::StatusOr<const Json*> ArrayField(const Json& object, const char* key,
                                       const std::string& where);
// Null when absent or null.
const Json* FindField(const Json& object, const char* key);

// INVALID_ARGUMENT "`where`: `what`".
absl::Status InvalidAt(const std::string& where, const std::string& what);
// UNIMPLEMENTED "`where`: `what` is not supported".
absl::Status UnsupportedAt(const std::string& where, const std::string& what);

}  // namespace t2r
