#include "engine/sessions/session_store.h"

#include <algorithm>

#include "engine/sessions/redis/redis_tier.h"

namespace t2r {
namespace {

// Of an answer of the shared store: records and lists, which have no state.
constexpr int64_t kMaxRecordBytes = int64_t{16} << 20;
constexpr int64_t kMaxReplyBytes = int64_t{512} << 20;

}  // namespace

SessionStore::SessionStore(const ExecutorLimits& limits, std::string exactness_class,
                           SessionStoreOptions options)
    : codec_{limits, std::move(exactness_class)}, options_(std::move(options)) {
  auto memory = std::make_unique<MemoryTier>(options_.memory_bytes, Clock());
  memory_ = memory.get();
  tier_ = std::move(memory);
}

SessionStore::~SessionStore() {
  {
    const MutexLock lock(mutex_);
    stopping_ = true;
    stop_.NotifyAll();
  }
  if (keeper_.joinable()) keeper_.join();
}

std::function<absl::Time()> SessionStore::Clock() const {
  return options_.clock ? options_.clock : [] { return absl::Now(); };
}

absl::StatusOr<std::unique_ptr<SessionStore>> SessionStore::Open(const ExecutorLimits& limits,
                                                                 std::string exactness_class,
                                                                 SessionStoreOptions options) {
  auto store =
      std::make_unique<SessionStore>(limits, std::move(exactness_class), std::move(options));
  const SessionStoreOptions& given = store->options_;
  const auto watched = [&given](std::unique_ptr<SessionTier> tier, const char* name) {
    if (given.observer == nullptr) return tier;
    return std::unique_ptr<SessionTier>(
        std::make_unique<WatchedTier>(std::move(tier), name, given.observer));
  };
  std::unique_ptr<DiskTier> disk;
  if (!given.directory.empty()) {
    absl::StatusOr<std::unique_ptr<DiskTier>> opened =
        DiskTier::Open(given.directory, store->codec_, store->Clock());
    if (!opened.ok()) return opened.status();
    disk = *std::move(opened);
    store->disk_ = disk.get();
    store->memory_ = nullptr;
  }
  if (given.shared) {
    RedisOptions redis;
    redis.address = *given.shared;
    redis.ca_file = given.shared_ca;
    redis.max_reply_bytes = static_cast<size_t>(
        std::clamp(store->max_snapshot_bytes(), kMaxRecordBytes, kMaxReplyBytes));
    store->memory_ = nullptr;
    store->mirror_ = std::move(disk);
    store->tier_ = watched(
        std::make_unique<RedisTier>(std::move(redis), store->codec_, given.lease), "shared");
    store->keeper_ = std::thread([at = store.get()] { at->KeepClaims(); });
  } else if (disk != nullptr) {
    store->tier_ = watched(std::move(disk), "disk");
    store->keeper_ = std::thread([at = store.get()] { at->PurgeDirectory(); });
  }
  return store;
}

void SessionStore::PurgeDirectory() {
  MutexLock lock(mutex_);
  while (!stopping_) {
    stop_.WaitUntil(lock, CondVar::Clock::now() + absl::ToChronoMilliseconds(options_.purge_pause));
    if (stopping_) return;
    lock.Unlock();
    disk_->Purge();
    lock.Lock();
  }
}

void SessionStore::KeepClaims() {
  const absl::Duration pause =
      std::clamp(options_.lease / 3, absl::Milliseconds(1), absl::Seconds(5));
  const absl::Duration count_pause = absl::Seconds(5);
  absl::Time next_count = absl::InfinitePast();
  MutexLock lock(mutex_);
  while (!stopping_) {
    std::vector<SessionClaim> claims;
    for (const auto& [key, live] : live_) {
      if (live->claim.fence != 0) claims.push_back(live->claim);
    }
    lock.Unlock();
    // What could not be renewed is tried again at the next round.
    if (!claims.empty()) static_cast<void>(tier_->Renew(claims));
    absl::StatusOr<SessionUsage> usage = absl::UnavailableError("");
    if (absl::Now() >= next_count) {
      usage = tier_->Total();
      next_count = absl::Now() + count_pause;
    }
    lock.Lock();
    if (usage.ok()) shared_usage_ = *usage;
    if (!stopping_) {
      stop_.WaitUntil(lock, CondVar::Clock::now() + absl::ToChronoMilliseconds(pause));
    }
  }
}

SessionUsage SessionStore::kept() const {
  if (options_.shared) {
    const MutexLock lock(mutex_);
    return shared_usage_;
  }
  return memory_only() ? in_memory() : on_disk();
}

SessionUsage SessionStore::in_memory() const {
  const MutexLock lock(mutex_);
  if (!memory_only()) return {cache_.size(), cache_.bytes() + reserved_};
  SessionUsage usage = memory_->Total().value_or(SessionUsage());
  usage.bytes += reserved_;
  return usage;
}

SessionUsage SessionStore::on_disk() const {
  if (disk_ == nullptr) return {};
  return disk_->Total().value_or(SessionUsage());
}

}  // namespace t2r
