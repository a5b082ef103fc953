#include "server/peer_shares.h"

namespace t2r::server {

std::string PeerAddress(const std::string& peer) {
  const size_t colon = peer.rfind(':');
  return colon == std::string::npos || peer.find(':') == colon ? peer : peer.substr(0, colon);
}

bool PeerShares::Take(const std::string& peer, Share* share) {
  if (limit_ == 0) return true;
  std::string address = PeerAddress(peer);
  const MutexLock lock(mutex_);
  int64_t& count = counts_[address];
  if (count >= limit_) return false;
  ++count;
  share->shares_ = this;
  share->address_ = std::move(address);
  return true;
}

PeerShares::Share::~Share() {
  if (shares_ == nullptr) return;
  const MutexLock lock(shares_->mutex_);
  const auto found = shares_->counts_.find(address_);
  if (--found->second == 0) shares_->counts_.erase(found);
}

}  // namespace t2r::server
