#include "client/load/closed_loop.h"

#include <algorithm>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <random>
#include <vector>

#include "client/load/stream_timing.h"

namespace t2r::client {
namespace {

constexpr std::chrono::milliseconds kProgressInterval(200);

class Load {
 public:
  Load(Client& client, const LoadOptions& options) : client_(client), options_(options) {
    for (uint32_t i = 0; i < options.sessions; ++i) slots_.push_back(std::make_unique<Slot>());
  }

  LoadResult Run(const std::atomic<bool>& stop,
                 const std::function<void(const LoadProgress&)>& on_progress) {
    running_ = options_.sessions;
    for (const auto& slot : slots_) StartNext(*slot);
    const auto until = options_.max_time == absl::InfiniteDuration()
                           ? Clock::time_point::max()
                           : start_ + absl::ToChronoNanoseconds(options_.max_time);
    std::unique_lock<std::mutex> lock(mutex_);
    while (!all_done_.wait_for(lock, kProgressInterval, [this] { return running_ == 0; })) {
      lock.unlock();
      const Clock::time_point now = Clock::now();
      if ((stop || now >= until) && !stopping_.exchange(true)) CancelAll();
      if (on_progress) {
        on_progress({ended_, tokens_, std::chrono::duration<double>(now - start_).count()});
      }
      lock.lock();
    }
    return Collect();
  }

 private:
  // Of one session. Its requests follow one another and a request's callbacks are serial, so all
  // but the call is touched by one thread at a time.
  struct Slot {
    StreamTiming timing{Clock::time_point()};
    LoadResult result;
    Clock::time_point last;

    std::mutex mutex;  // guards the rest
    uint64_t sequence = 0;
    GenerateCall call;
  };

  void StartNext(Slot& slot) {
    const uint32_t index = issued_.fetch_add(1);
    if (stopping_ || index >= options_.requests) {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (--running_ == 0) all_done_.notify_all();
      return;
    }
    uint64_t sequence = 0;
    {
      const std::lock_guard<std::mutex> lock(slot.mutex);
      sequence = ++slot.sequence;
    }
    GenerateRequest request =
        MakeLoadRequest(options_.seed, index, options_.prompt_tokens, options_.vocab_size);
    request.max_tokens = options_.output_tokens;
    slot.timing = StreamTiming(Clock::now());
    const GenerateCall call = client_.StartGenerate(
        request, options_.call, [this, &slot](const Event& event) { OnEvent(slot, event); },
        [this, &slot](const absl::Status& status) { OnDone(slot, status); });
    {
      const std::lock_guard<std::mutex> lock(slot.mutex);
      // The request may have ended, and the next have begun, before StartGenerate returned.
      if (slot.sequence == sequence) slot.call = call;
    }
    if (stopping_) call.Cancel();
  }

  void OnEvent(Slot& slot, const Event& event) {
    const auto* delta = std::get_if<Delta>(&event);
    if (delta == nullptr || delta->token_ids.empty()) return;
    const bool first = slot.timing.tokens() == 0;
    slot.last = Clock::now();
    slot.timing.OnTokens(slot.last, delta->token_ids.size(), &slot.result.inter_token);
    if (first) slot.result.time_to_first_token.Add(*slot.timing.TimeToFirstToken());
    slot.result.tokens += delta->token_ids.size();
    tokens_ += delta->token_ids.size();
  }

  void OnDone(Slot& slot, const absl::Status& status) {
    if (status.ok()) {
      ++slot.result.completed;
    } else if (stopping_ && absl::IsCancelled(status)) {
      ++slot.result.cut;
    } else {
      ++slot.result.errors[status.ToString(absl::StatusToStringMode::kWithNoExtraData)];
    }
    ++ended_;
    StartNext(slot);
  }

  void CancelAll() {
    for (const auto& slot : slots_) {
      GenerateCall call;
      {
        const std::lock_guard<std::mutex> lock(slot->mutex);
        call = slot->call;
      }
      call.Cancel();
    }
  }

  LoadResult Collect() const {
    LoadResult all;
    all.sessions = options_.sessions;
    Clock::time_point last = start_;
    for (const auto& slot : slots_) {
      all.completed += slot->result.completed;
      all.cut += slot->result.cut;
      all.tokens += slot->result.tokens;
      all.time_to_first_token.Merge(slot->result.time_to_first_token);
      all.inter_token.Merge(slot->result.inter_token);
      for (const auto& [error, count] : slot->result.errors) all.errors[error] += count;
      last = std::max(last, slot->last);
    }
    all.seconds = std::chrono::duration<double>(last - start_).count();
    return all;
  }

  Client& client_;
  const LoadOptions options_;
  const Clock::time_point start_ = Clock::now();
  std::vector<std::unique_ptr<Slot>> slots_;
  std::atomic<bool> stopping_ = false;
  std::atomic<uint32_t> issued_ = 0;
  std::atomic<uint32_t> ended_ = 0;
  std::atomic<uint64_t> tokens_ = 0;

  std::mutex mutex_;
  std::condition_variable all_done_;
  uint32_t running_ = 0;  // sessions; guarded by mutex_
};

}  // namespace

double LoadResult::TokensPerSecond() const {
  return seconds > 0 ? static_cast<double>(tokens) / seconds : 0;
}

uint32_t LoadResult::ErrorCount() const {
  uint32_t count = 0;
  for (const auto& [error, times] : errors) count += times;
  return count;
}

GenerateRequest MakeLoadRequest(uint64_t seed, uint32_t index, uint32_t prompt_tokens,
                                uint32_t vocab_size) {
  std::seed_seq seeds{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32), index};
  std::mt19937_64 random(seeds);
  std::uniform_int_distribution<TokenId> token(0, vocab_size - 1);
  TokenIds prompt(prompt_tokens);
  for (TokenId& id : prompt) id = token(random);
  GenerateRequest request;
  request.prompt = std::move(prompt);
  request.ignore_eos = true;
  request.sampling.seed = random();
  return request;
}

LoadResult RunLoad(Client& client, const LoadOptions& options, const std::atomic<bool>& stop,
                   const std::function<void(const LoadProgress&)>& on_progress) {
  return Load(client, options).Run(stop, on_progress);
}

}  // namespace t2r::client
