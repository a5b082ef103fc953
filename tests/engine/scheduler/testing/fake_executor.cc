#include "tests/engine/scheduler/testing/fake_executor.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <set>

#include "engine/ops/batch.h"
#include "engine/ops/tensor.h"

namespace t2r {
namespace {

uint64_t Mix(std::span<const int32_t> history) {
  // The whole prompt matters through its sum, so that a wrong split shows.
  uint64_t hash = 1469598103934665603ULL + history.size();
  for (const int32_t token : history) {
    hash = (hash ^ static_cast<uint64_t>(token)) * 1099511628211ULL;
  }
  return hash ^ (hash >> 29);
}

}  // namespace

int32_t MixToken(std::span<const int32_t> history, int vocab) {
  return 2 + static_cast<int32_t>(Mix(history) % static_cast<uint64_t>(vocab - 2));
}

float MixScore(std::span<const int32_t> history, int32_t target) {
  return -static_cast<float>((Mix(history) + static_cast<uint64_t>(target)) % 1000) / 100.0F;
}

std::vector<TokenLogprob> MixAlternatives(std::span<const int32_t> history, int vocab, int64_t n) {
  std::vector<TokenLogprob> all;
  double sum = 0;
  for (int32_t token = 0; token < vocab; ++token) {
    uint64_t hash = (Mix(history) ^ static_cast<uint64_t>(token)) * 0x9E3779B97F4A7C15ULL;
    hash = (hash ^ (hash >> 32)) * 0xD6E8FEB86659FD93ULL;
    const auto logit = static_cast<float>((hash >> 32) % 6007) / 1000.0F;
    sum += std::exp(logit);
    all.push_back({token, logit});
  }
  const auto norm = static_cast<float>(std::log(sum));
  for (TokenLogprob& each : all) each.logprob -= norm;
  std::stable_sort(all.begin(), all.end(), [](const TokenLogprob& a, const TokenLogprob& b) {
    return a.logprob > b.logprob;
  });
  all.resize(std::min(all.size(), static_cast<size_t>(n)));
  return all;
}

std::vector<int32_t> ExpectedTokens(std::vector<int32_t> prompt, int64_t n, int vocab) {
  std::vector<int32_t> generated;
  for (int64_t i = 0; i < n; ++i) {
    generated.push_back(MixToken(prompt, vocab));
    prompt.push_back(generated.back());
  }
  return generated;
}

ExecutorLimits FakeExecutor::DefaultLimits() {
  ExecutorLimits limits;
  limits.slots = 4;
  limits.max_step_tokens = 16;
  limits.vocab_size = 100;
  return limits;
}

FakeExecutor::FakeExecutor(ExecutorLimits limits)
    : limits_(limits),
      next_([vocab = limits.vocab_size](std::span<const int32_t> history) {
        return MixToken(history, vocab);
      }),
      slots_(static_cast<size_t>(limits.slots)),
      prefixes_(static_cast<size_t>(limits.prefix_states)),
      free_pages_(limits.kv_pages) {}

void FakeExecutor::Hold() {
  const std::lock_guard lock(mu_);
  hold_ = true;
  allowed_ = 0;
}

void FakeExecutor::Allow(int64_t n) {
  const std::lock_guard lock(mu_);
  allowed_ += n;
  changed_.notify_all();
}

void FakeExecutor::AllowAll() {
  const std::lock_guard lock(mu_);
  hold_ = false;
  changed_.notify_all();
}

void FakeExecutor::WaitUntilHeldAfter(int64_t n) {
  std::unique_lock lock(mu_);
  ASSERT_TRUE(changed_.wait_for(lock, std::chrono::seconds(60), [this, n] {
    return waiting_ && steps_ >= n;
  })) << "the engine thread is in no step";
  EXPECT_EQ(steps_, n);
}

void FakeExecutor::FailLaunches() {
  const std::lock_guard lock(mu_);
  fail_launches_ = true;
}

void FakeExecutor::FailSteps() {
  const std::lock_guard lock(mu_);
  fail_ = true;
}

void FakeExecutor::FailNextStep(std::exception_ptr error) {
  const std::lock_guard lock(mu_);
  step_error_ = std::move(error);
}

void FakeExecutor::FailNextOpen(std::exception_ptr error) {
  const std::lock_guard lock(mu_);
  open_error_ = std::move(error);
}

void FakeExecutor::FailOpens() {
  const std::lock_guard lock(mu_);
  fail_opens_ = true;
}

void FakeExecutor::FailCloses() {
  const std::lock_guard lock(mu_);
  fail_closes_ = true;
}

void FakeExecutor::FailForks() {
  const std::lock_guard lock(mu_);
  fail_forks_ = true;
}

int64_t FakeExecutor::forks() const {
  const std::lock_guard lock(mu_);
  return forks_;
}

int64_t FakeExecutor::steps() const {
  const std::lock_guard lock(mu_);
  return steps_;
}

int FakeExecutor::open_slots() const {
  const std::lock_guard lock(mu_);
  return open_slots_;
}

int64_t FakeExecutor::free_pages() const {
  const std::lock_guard lock(mu_);
  return free_pages_;
}

std::vector<FakeExecutor::StepRecord> FakeExecutor::records() const {
  const std::lock_guard lock(mu_);
  return records_;
}

void FakeExecutor::CheckCall() const {
  EXPECT_TRUE(launched_.empty()) << "a call between Launch and Wait";
  if (engine_ == std::thread::id()) engine_ = std::this_thread::get_id();
  EXPECT_EQ(engine_, std::this_thread::get_id()) << "the executor belongs to one thread";
}

int64_t FakeExecutor::PagesFor(int64_t positions) const {
  return limits_.kv_pages == 0 ? 0 : (positions + kKvPageSize - 1) / kKvPageSize;
}

bool FakeExecutor::CanOpen(const SessionSize& size, int count) const {
  const std::lock_guard lock(mu_);
  CheckCall();
  return open_slots_ + count <= limits_.slots && count * PagesFor(size.positions) <= free_pages_;
}

int FakeExecutor::Open(const SessionSize& size, const SamplingParams& /*sampling*/) {
  const int64_t positions = size.positions;
  const std::lock_guard lock(mu_);
  CheckCall();
  EXPECT_GE(positions, 1);
  if (open_error_ != nullptr) std::rethrow_exception(std::exchange(open_error_, nullptr));
  if (fail_opens_) throw DeviceError("the fake device opens nothing");
  if (PagesFor(positions) > free_pages_) return -1;
  for (size_t i = 0; i < slots_.size(); ++i) {
    if (slots_[i].open) continue;
    slots_[i] = {.open = true,
                 .positions = positions,
                 .pages = PagesFor(positions),
                 .lasting = size.lasting,
                 .history = {}};
    free_pages_ -= slots_[i].pages;
    ++open_slots_;
    return static_cast<int>(i);
  }
  return -1;
}

void FakeExecutor::Close(int slot) {
  const std::lock_guard lock(mu_);
  CheckCall();
  Slot& closed = slots_.at(static_cast<size_t>(slot));
  EXPECT_TRUE(closed.open) << "slot " << slot << " is closed twice";
  free_pages_ += closed.pages;
  closed = Slot();
  --open_slots_;
  if (fail_closes_) throw DeviceError("the fake device clears nothing");
}

void FakeExecutor::Fork(int from, int to) {
  const std::lock_guard lock(mu_);
  CheckCall();
  const Slot& source = slots_.at(static_cast<size_t>(from));
  Slot& target = slots_.at(static_cast<size_t>(to));
  EXPECT_NE(from, to);
  EXPECT_TRUE(source.open && target.open);
  EXPECT_EQ(source.positions, target.positions);
  EXPECT_GE(source.history.size(), target.history.size());
  if (fail_forks_) throw DeviceError("the fake device cannot copy");
  target.history = source.history;
  ++forks_;
}

SlotState FakeExecutor::Save(int slot) {
  const std::lock_guard lock(mu_);
  CheckCall();
  const Slot& from = slots_.at(static_cast<size_t>(slot));
  EXPECT_TRUE(from.open && from.lasting) << "slot " << slot << " was not opened as lasting";
  SlotState state;
  state.positions = static_cast<int64_t>(from.history.size());
  state.state.resize(static_cast<size_t>(limits_.state_bytes));
  const auto pages = (from.history.size() + kKvPageSize - 1) / kKvPageSize;
  state.pages.resize(pages * kKvPageSize * sizeof(int32_t));
  std::memcpy(state.pages.data(), from.history.data(), from.history.size() * sizeof(int32_t));
  return state;
}

void FakeExecutor::Restore(int slot, const SlotState& state) {
  const std::lock_guard lock(mu_);
  CheckCall();
  Slot& to = slots_.at(static_cast<size_t>(slot));
  EXPECT_TRUE(to.open && to.lasting && to.history.empty());
  EXPECT_LE(state.positions, to.positions);
  to.history.resize(static_cast<size_t>(state.positions));
  std::memcpy(to.history.data(), state.pages.data(), to.history.size() * sizeof(int32_t));
}

int FakeExecutor::KeepPrefix(int slot) {
  const std::lock_guard lock(mu_);
  CheckCall();
  const Slot& from = slots_.at(static_cast<size_t>(slot));
  EXPECT_TRUE(from.open && !from.history.empty());
  EXPECT_EQ(static_cast<int64_t>(from.history.size()) % limits_.prompt_alignment, 0);
  if (fail_forks_) throw DeviceError("the fake device cannot copy");
  for (size_t i = 0; i < prefixes_.size(); ++i) {
    if (!prefixes_[i].empty()) continue;
    prefixes_[i] = from.history;
    return static_cast<int>(i);
  }
  return -1;
}

void FakeExecutor::StartFromPrefix(int slot, int prefix, std::span<const int32_t> tokens) {
  const std::lock_guard lock(mu_);
  CheckCall();
  Slot& to = slots_.at(static_cast<size_t>(slot));
  const std::vector<int32_t>& from = prefixes_.at(static_cast<size_t>(prefix));
  EXPECT_TRUE(to.open && to.history.empty());
  EXPECT_LT(static_cast<int64_t>(from.size()), to.positions);
  EXPECT_EQ(from, std::vector<int32_t>(tokens.begin(), tokens.end()));
  to.history = from;
}

void FakeExecutor::DropPrefix(int prefix) {
  const std::lock_guard lock(mu_);
  CheckCall();
  EXPECT_FALSE(prefixes_.at(static_cast<size_t>(prefix)).empty()) << "dropped twice";
  prefixes_.at(static_cast<size_t>(prefix)).clear();
}

int FakeExecutor::kept_prefixes() const {
  const std::lock_guard lock(mu_);
  return static_cast<int>(std::count_if(prefixes_.begin(), prefixes_.end(),
                                        [](const auto& history) { return !history.empty(); }));
}

int64_t FakeExecutor::prefix_bytes() const { return kept_prefixes() * limits_.prefix_state_bytes; }

void FakeExecutor::Launch(std::span<const ScheduledChunk> chunks) {
  const std::lock_guard lock(mu_);
  CheckCall();
  EXPECT_FALSE(chunks.empty());
  if (fail_launches_) throw DeviceError("the fake device takes no work");
  launched_ = chunks;
}

void FakeExecutor::Wait(std::vector<ChunkResult>* results) {
  std::unique_lock lock(mu_);
  EXPECT_FALSE(launched_.empty()) << "Wait without Launch";
  const std::span<const ScheduledChunk> chunks = launched_;
  launched_ = {};
  CheckCall();
  if (hold_ && allowed_ == 0) {
    waiting_ = true;
    changed_.notify_all();
    changed_.wait(lock, [this] { return !hold_ || allowed_ > 0; });
    waiting_ = false;
  }
  if (hold_) --allowed_;
  if (fail_) throw DeviceError("the fake device is broken");
  ++steps_;
  if (step_error_ != nullptr) std::rethrow_exception(std::exchange(step_error_, nullptr));

  results->assign(chunks.size(), ChunkResult());
  std::set<int> seen;
  int64_t rows = 0;
  StepRecord record;
  for (size_t i = 0; i < chunks.size(); ++i) {
    const ScheduledChunk& chunk = chunks[i];
    EXPECT_TRUE(seen.insert(chunk.slot).second) << "slot " << chunk.slot << " twice in a step";
    rows += static_cast<int64_t>(chunk.tokens.size());
    if (keep_records_) {
      record.push_back({chunk.slot, chunk.position, static_cast<int64_t>(chunk.tokens.size()),
                        chunk.sample, static_cast<int64_t>(chunk.targets.size())});
    }
    Run(chunk, &(*results)[i]);
  }
  EXPECT_LE(rows, limits_.max_step_tokens);
  if (keep_records_) records_.push_back(std::move(record));
}

void FakeExecutor::Run(const ScheduledChunk& chunk, ChunkResult* result) {
  Slot& slot = slots_.at(static_cast<size_t>(chunk.slot));
  EXPECT_TRUE(slot.open);
  EXPECT_EQ(chunk.position, static_cast<int64_t>(slot.history.size()));
  EXPECT_FALSE(chunk.tokens.empty());
  EXPECT_LE(chunk.targets.size(), chunk.tokens.size());
  for (size_t i = 0; i < chunk.tokens.size(); ++i) {
    slot.history.push_back(chunk.tokens[i]);
    if (i < chunk.targets.size()) {
      result->scores.push_back(MixScore(slot.history, chunk.targets[i]));
    }
    const bool wanted = i < chunk.targets.size() || (chunk.sample && i + 1 == chunk.tokens.size());
    if (wanted && result->not_finite < 0 && not_finite_ && not_finite_(slot.history)) {
      result->not_finite = static_cast<int64_t>(slot.history.size()) - 1;
    }
  }
  EXPECT_LE(static_cast<int64_t>(slot.history.size()), slot.positions);
  if (!chunk.sample) return;
  result->sampled = {next_(slot.history), -1.0F};
  if (alternatives_) {
    result->top = alternatives_(slot.history, chunk.top_logprobs);
    return;
  }
  for (int i = 0; i < chunk.top_logprobs; ++i) {
    result->top.push_back({i, -1.0F - static_cast<float>(i)});
  }
}

}  // namespace t2r
