#include <utility>

#include "engine/sessions/session_store.h"

namespace t2r {

SessionTurn& SessionTurn::operator=(SessionTurn&& other) noexcept {
  std::swap(store_, other.store_);
  std::swap(live_, other.live_);
  return *this;
}

SessionTurn::~SessionTurn() { End(); }

void SessionTurn::End() {
  const SessionStore::LivePtr live = std::exchange(live_, nullptr);
  if (live != nullptr) store_->End(*live, /*release=*/true, live->name, live->state);
}

std::optional<TurnParameters> SessionTurn::resumed() const {
  if (!live_->resumed) return std::nullopt;
  const MutexLock lock(live_->mutex);
  return live_->record.turn;
}

absl::Status SessionTurn::Reserve(int64_t positions) {
  return store_->ReserveFor(*live_, positions);
}

absl::Status SessionTurn::Start(TurnParameters turn, int64_t positions) {
  return store_->Start(*live_, std::move(turn), positions);
}

void SessionTurn::OnTakeOver(std::function<void()> cut) {
  const MutexLock lock(store_->mutex_);
  live_->cut = std::move(cut);
}

std::function<absl::Status(const std::shared_ptr<const SessionState>&)> SessionTurn::Checkpointer()
    const {
  return [store = store_, live = live_](const std::shared_ptr<const SessionState>& state) {
    return store->Checkpoint(*live, state, /*park=*/false);
  };
}

absl::Status SessionTurn::Commit(const std::shared_ptr<const SessionState>& state) {
  const SessionStore::LivePtr live = std::exchange(live_, nullptr);
  return store_->Commit(*live, state);
}

absl::Status SessionTurn::Park(const std::shared_ptr<const SessionState>& state) {
  const SessionStore::LivePtr live = std::exchange(live_, nullptr);
  return store_->Checkpoint(*live, state, /*park=*/true);
}

}  // namespace t2r
