// How a stream of a session is taken up again when it breaks; internal to client/.
#ifndef T2R_CLIENT_RESUMPTION_H_
#define T2R_CLIENT_RESUMPTION_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "client/types.h"
#include "t2r/v1/generation.pb.h"

namespace t2r::client {

// Sees every event of a call's attempts, in order, and says which the caller sees: those of one
// stream. Not thread-safe.
class Resumption {
 public:
  // limit: how long it is tried without a token; zero: never.
  Resumption(absl::Duration limit, const v1::GenerateRequest& request, absl::Time now);

  // Whether the caller sees the event.
  bool Passes(const Event& event);
  // An attempt has ended with `status`, which is not of the caller's cancelling. The time of the
  // next one, whose request *request becomes; nullopt: the call is over.
  std::optional<absl::Time> NextTry(const absl::Status& status, absl::Time now,
                                    v1::GenerateRequest* request);

 private:
  const absl::Duration limit_;
  const bool may_repeat_;  // the request can be sent twice
  std::optional<uint64_t> expected_;
  absl::Duration pause_;
  absl::Time last_;  // when something came
  std::string session_;
  uint64_t position_ = 0;
  bool started_ = false;
  bool tail_ = false;     // text behind the last token has come
  bool drained_ = false;  // the attempt ended with a Finished that the caller did not see
  bool repeated_ = false;
};

}  // namespace t2r::client

#endif  // T2R_CLIENT_RESUMPTION_H_
