// How many requests each client address has in the server.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>

#include "engine/io/mutex.h"

namespace t2r::server {

// The address of gRPC's peer string without its port: "ipv4:10.0.0.7:4711" gives "ipv4:10.0.0.7".
std::string PeerAddress(const std::string& peer);

// Thread-safe; must outlive its shares.
class PeerShares {
 public:
  // limit: requests of one address at once; 0: any number.
  explicit PeerShares(int64_t limit) : limit_(limit) {}

  class Share {
   public:
    Share() = default;
    Share(Share&& other) noexcept
        : shares_(std::exchange(other.shares_, nullptr)), address_(std::move(other.address_)) {}
    Share& operator=(Share&& other) noexcept {
      std::swap(shares_, other.shares_);
      std::swap(address_, other.address_);
      return *this;
    }
    ~Share();

   private:
    friend class PeerShares;
    PeerShares* shares_ = nullptr;
    std::string address_;
  };

  // False where the address has as many as it may.
  bool Take(const std::string& peer, Share* share);
  int64_t limit() const { return limit_; }

 private:
  const int64_t limit_;
  Mutex mutex_;
  std::map<std::string, int64_t> counts_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace t2r::server
