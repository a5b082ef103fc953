// From the API's requests to the engine's. Everything that can be known before tokenising is
// checked here, cheaply; a message names field, value and limit.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/scheduler/request.h"
#include "engine/sessions/session_record.h"
#include "server/served_model.h"
#include "t2r/v1/generation.pb.h"

namespace t2r::server {

// A text of a request, copied out of its message, which its client may end at any time.
struct Text {
  const char* field;
  std::string text;
};

// A request of which texts are still to be tokenised.
struct PreparedRequest {
  Request request;
  std::optional<Text> source;  // becomes Request::source
  std::optional<Text> target;  // is added to Request::prompt
  // A turn of a session, which Join has still to look at.
  struct Turn {
    bool takes_sampling = false;  // the request has none of its own: that of the turn before
    bool takes_seed = false;
    bool resumes = false;  // there is nothing of it here: Resume has it all
  };
  std::optional<Turn> turn;

  bool complete() const { return !source && !target && !turn; }
  // At least Request::queue_tokens once it is complete.
  int64_t queue_bound() const;
};

// The request with every default filled in, a random seed where none is set, checked as far as that
// can be done before tokenising. INVALID_ARGUMENT, or FAILED_PRECONDITION for what needs a
// tokenizer where the model has none.
absl::StatusOr<PreparedRequest> MakeRequest(const v1::GenerateRequest& in,
                                            const ServedModel& model);
absl::StatusOr<PreparedRequest> MakeRequest(const v1::ScoreRequest& in, const ServedModel& model);

// Makes the request of a turn go on from `state`, which is null for a session without tokens.
// INVALID_ARGUMENT where it has no prompt that it needs, or one that cannot be.
absl::Status Join(std::shared_ptr<const SessionState> state, const ServedModel& model,
                  PreparedRequest* prepared);

// What is known of a request that goes on with a turn, before its session is looked at.
PreparedRequest MakeResumption();
// Makes that of it which the turn's client does not have: all of the turn, or, where `state` is
// from within it, the rest. INVALID_ARGUMENT for what is no turn of this model.
absl::Status Resume(const TurnParameters& turn, std::shared_ptr<const SessionState> state,
                    PreparedRequest* prepared);
// The turn that the request is, once it is complete; start: where its session stands.
TurnParameters TurnOf(const Request& request, int64_t start);

// Tokenises what is left, as the model's tokenizer does for sources, targets and prompts.
// INVALID_ARGUMENT, naming the field, if nothing comes out.
absl::StatusOr<Request> Complete(PreparedRequest prepared, const ServedModel& model);

// Whether a Score of the request has nothing to predict.
bool ScoresNothing(const Request& request);

absl::Status CheckHasTokenizer(const ServedModel& model, const std::string& what);

// Appends the ids, each of which must be of the vocabulary; names the first that is not.
absl::Status AppendIds(const char* field, const v1::TokenIds& ids, int64_t vocab_size,
                       std::vector<int32_t>* out);
// Whether a text is short enough to be tokenised, and the model has what it takes.
absl::Status CheckText(const char* field, const std::string& text, const ServedModel& model);
void FromIds(std::span<const int32_t> ids, v1::TokenIds* out);

}  // namespace t2r::server
