// From the API's requests to the engine's. Everything that can be known before tokenising is
// checked here, cheaply; a message names field, value and limit.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/scheduler/request.h"
#include "server/served_model.h"
#include "t2r/v1/generation.pb.h"

namespace t2r::server {

// The request with every default filled in, a random seed where none is set, checked as far as that
// can be done before tokenising; the prompt only where it came as ids (CheckPrompt has passed).
// INVALID_ARGUMENT, or FAILED_PRECONDITION for what needs a tokenizer where the model has none.
absl::StatusOr<Request> MakeRequest(const v1::GenerateRequest& in, const ServedModel& model);

// Checks what is to be tokenised or is tokens already: present, not empty, ids in the vocabulary, a
// tokenizer for text. `field` names the oneof.
absl::Status CheckPrompt(const v1::GenerateRequest& in, const ServedModel& model);
absl::Status CheckTarget(const v1::ScoreRequest& in, const ServedModel& model);
absl::Status CheckIds(const v1::TokenIds& ids, int64_t vocab_size);
absl::Status CheckHasTokenizer(const ServedModel& model, const std::string& what);

// Ids that CheckIds has passed.
std::vector<int32_t> ToIds(const v1::TokenIds& ids);
void FromIds(std::span<const int32_t> ids, v1::TokenIds* out);

// At least the tokens of a text: every token has a byte, besides BOS and a leading space.
int64_t TokenBound(const std::string& text);

// Tokenises with BOS as the model's tokenizer adds it. INVALID_ARGUMENT if nothing comes out.
absl::StatusOr<std::vector<int32_t>> EncodeText(const std::string& text, const ServedModel& model);

// Sets max_tokens where it was 0: the server's limit, or as many as still fit the model's
// positions.
void ResolveMaxTokens(const ModelLimits& limits, Request* request);

}  // namespace t2r::server
