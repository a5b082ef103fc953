#include <utility>

#include "engine/sessions/session_store.h"

namespace t2r {

SessionTurn::SessionTurn(SessionTurn&& other) noexcept
    : store_(std::exchange(other.store_, nullptr)),
      id_(std::move(other.id_)),
      ttl_(other.ttl_),
      state_(std::move(other.state_)) {}

SessionTurn& SessionTurn::operator=(SessionTurn&& other) noexcept {
  std::swap(store_, other.store_);
  std::swap(id_, other.id_);
  std::swap(ttl_, other.ttl_);
  std::swap(state_, other.state_);
  return *this;
}

SessionTurn::~SessionTurn() {
  if (store_ != nullptr) store_->Release(id_);
}

absl::Status SessionTurn::Reserve(int64_t positions) { return store_->Reserve(id_, positions); }

absl::Status SessionTurn::Commit(std::shared_ptr<const SessionState> state) {
  return std::exchange(store_, nullptr)->Commit(id_, ttl_, std::move(state));
}

}  // namespace t2r
