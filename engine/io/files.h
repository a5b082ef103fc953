// Files of a tokenizer directory: whole texts, and checked access to JSON.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace t2r::tokenizer_files {

using Json = nlohmann::json;

// The largest file accepted.
inline constexpr size_t kMaxFileBytes = size_t{256} << 20;

// nullopt when there is no such file; INVALID_ARGUMENT beyond kMaxFileBytes.
absl::StatusOr<std::optional<std::string>> ReadOptionalFile(const std::string& path);

// INVALID_ARGUMENT, beginning with `file`, unless the text is one JSON object in valid UTF-8,
// nested at most 64 deep.
absl::StatusOr<Json> ParseJsonObject(const std::string& text, const std::string& file);

// INVALID_ARGUMENT "`where`: `what`".
absl::Status Invalid(const std::string& where, const std::string& what);
// UNIMPLEMENTED "`where`: `what` is not supported".
absl::Status Unsupported(const std::string& where, const std::string& what);

// Fields of `object`, which must be an object; `where` names it in errors. A null counts as absent;
// without a default the field is required.
absl::StatusOr<std::string> StringField(const Json& object, const char* key,
                                        const std::string& where,
                                        std::optional<std::string> absent = std::nullopt);
absl::StatusOr<bool> BoolField(const Json& object, const char* key, const std::string& where,
                               std::optional<bool> absent = std::nullopt);
absl::StatusOr<int64_t> IntegerField(const Json& object, const char* key, const std::string& where,
                                     int64_t low, int64_t high,
                                     std::optional<int64_t> absent = std::nullopt);
// nullptr when absent or null.
const Json* FindField(const Json& object, const char* key);
// The same where the value must be an array.
absl::StatusOr<const Json*> ArrayField(const Json& object, const char* key,
                                       const std::string& where);

}  // namespace t2r::tokenizer_files
