#include "engine/sessions/session_errors.h"

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"

namespace t2r {

absl::Status NoSession(const SessionKey& key) {
  return absl::NotFoundError(absl::StrCat("there is no session ", key.id, ", or it has expired"));
}

absl::Status SessionExists(const SessionKey& key) {
  return absl::AlreadyExistsError(absl::StrCat("there is a session ", key.id, " already"));
}

absl::Status SessionBusy(const SessionKey& key) {
  absl::Status busy = absl::AbortedError(
      absl::StrCat("session ", key.id, " is busy: a turn is running, and there is one at a time"));
  busy.SetPayload(kSessionBusyUrl, absl::Cord());
  return busy;
}

absl::Status SessionFenced(const SessionKey& key) {
  return absl::AbortedError(
      absl::StrCat("session ", key.id,
                   " has been taken over by another server meanwhile: nothing of this turn is "
                   "kept here"));
}

absl::Status NoState(const SessionKey& key) {
  return absl::DataLossError(absl::StrCat("session ", key.id, " lacks its state"));
}

}  // namespace t2r
