// What all RPCs together hold in memory: request messages, texts, outboxes, answers.
#pragma once

#include <atomic>
#include <cstdint>
#include <utility>

namespace t2r::server {

// Counts bytes against a limit. Thread-safe.
class BufferBudget {
 public:
  // limit: bytes; 0: none.
  explicit BufferBudget(int64_t limit) : limit_(limit) {}

  // False, and nothing is taken, when that would pass the limit.
  bool TryTake(int64_t bytes) {
    if (used_.fetch_add(bytes) + bytes <= limit_ || limit_ == 0) return true;
    used_.fetch_sub(bytes);
    return false;
  }
  // What must be held in any case.
  void Take(int64_t bytes) { used_.fetch_add(bytes); }
  void Give(int64_t bytes) { used_.fetch_sub(bytes); }
  bool full() const { return limit_ > 0 && used_.load() >= limit_; }
  int64_t used() const { return used_.load(); }
  int64_t limit() const { return limit_; }

 private:
  const int64_t limit_;
  std::atomic<int64_t> used_{0};
};

// One RPC's part, given back at its end. Its owner's lock guards it.
class BufferLease {
 public:
  explicit BufferLease(BufferBudget& budget) : budget_(budget) {}
  ~BufferLease() { budget_.Give(bytes_); }
  BufferLease(const BufferLease&) = delete;
  BufferLease& operator=(const BufferLease&) = delete;

  // Grows to `bytes` if they fit.
  bool TryResize(int64_t bytes) {
    if (bytes > bytes_ && !budget_.TryTake(bytes - bytes_)) return false;
    if (bytes < bytes_) budget_.Give(bytes_ - bytes);
    bytes_ = bytes;
    return true;
  }
  void Resize(int64_t bytes) {
    if (bytes == bytes_) return;
    budget_.Take(bytes - bytes_);
    bytes_ = bytes;
  }

 private:
  BufferBudget& budget_;
  int64_t bytes_ = 0;
};

}  // namespace t2r::server
