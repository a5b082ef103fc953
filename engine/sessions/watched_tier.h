// A tier whose moves and failures somebody hears of.
#pragma once

#include <memory>
#include <type_traits>
#include <utility>

#include "absl/time/clock.h"
#include "engine/sessions/session_tier.h"

namespace t2r {

// Told by any thread; must not block.
class SessionObserver {
 public:
  virtual ~SessionObserver() = default;
  // A state was brought to or from a tier ("disk" or "shared"), which took so long.
  virtual void OnSessionMove(const char* tier, bool stored, absl::Duration time) = 0;
  // A tier could not do what it was asked for: UNAVAILABLE, RESOURCE_EXHAUSTED or DATA_LOSS.
  virtual void OnSessionStoreError(const char* tier) = 0;
};

class WatchedTier final : public SessionTier {
 public:
  WatchedTier(std::unique_ptr<SessionTier> tier, const char* name, SessionObserver* observer)
      : tier_(std::move(tier)), name_(name), observer_(observer) {}

  absl::Status Create(const std::vector<SessionRecord>& records,
                      const std::shared_ptr<const SessionState>& state) override {
    return Move(state != nullptr, true, [&] { return tier_->Create(records, state); });
  }
  absl::StatusOr<SessionRecord> Get(const SessionKey& key) override {
    return Heard(tier_->Get(key));
  }
  absl::StatusOr<std::vector<SessionInfo>> List(const std::string& owner, const std::string& after,
                                                int64_t count) override {
    return Heard(tier_->List(owner, after, count));
  }
  absl::StatusOr<Claimed> Claim(const SessionKey& key, bool take_over) override {
    return Heard(tier_->Claim(key, take_over));
  }
  absl::Status Renew(const std::vector<SessionClaim>& claims) override {
    return Heard(tier_->Renew(claims));
  }
  absl::Status Change(const SessionClaim& claim, const SessionChange& change) override {
    return Move(change.name != 0, true, [&] { return tier_->Change(claim, change); });
  }
  absl::Status Release(const SessionClaim& claim) override { return Heard(tier_->Release(claim)); }
  absl::Status Delete(const SessionKey& key) override { return Heard(tier_->Delete(key)); }
  absl::StatusOr<std::shared_ptr<const SessionState>> State(const SessionKey& key, StateName name,
                                                            bool allow_inexact) override {
    return Move(true, false, [&] { return tier_->State(key, name, allow_inexact); });
  }
  absl::StatusOr<SessionUsage> Usage(const std::string& owner) override {
    return Heard(tier_->Usage(owner));
  }
  absl::StatusOr<SessionUsage> Total() override { return Heard(tier_->Total()); }

 private:
  static const absl::Status& StatusOf(const absl::Status& status) { return status; }
  template <typename T>
  static const absl::Status& StatusOf(const absl::StatusOr<T>& result) {
    return result.status();
  }
  template <typename Result>
  Result Heard(Result result) {
    const absl::Status& status = StatusOf(result);
    if (absl::IsUnavailable(status) || absl::IsResourceExhausted(status) ||
        absl::IsDataLoss(status)) {
      observer_->OnSessionStoreError(name_);
    }
    return result;
  }
  template <typename Operation>
  std::invoke_result_t<Operation> Move(bool moves, bool stored, const Operation& operation) {
    const absl::Time begun = absl::Now();
    std::invoke_result_t<Operation> result = Heard(operation());
    if (moves && result.ok()) observer_->OnSessionMove(name_, stored, absl::Now() - begun);
    return result;
  }

  const std::unique_ptr<SessionTier> tier_;
  const char* const name_;
  SessionObserver* const observer_;
};

}  // namespace t2r
