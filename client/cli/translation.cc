#include "client/cli/translation.h"

#include <algorithm>
#include <chrono>
#include <utility>

namespace t2r::client {
namespace {

constexpr std::chrono::milliseconds kProgressInterval(200);

}  // namespace

TranslationError Translation::Run(const std::atomic<bool>& stop,
                                  const std::function<bool(size_t, const Translated&)>& on_result,
                                  const std::function<void(const Progress&)>& on_progress) {
  slots_ = std::vector<Slot>(std::min<size_t>(options_.streams, sources_.size()));
  running_ = slots_.size();
  for (Slot& slot : slots_) StartNext(slot);

  TranslationError error = {sources_.size(), absl::OkStatus()};
  size_t next = 0;
  bool wanted = true;
  std::unique_lock<std::mutex> lock(mutex_);
  while (wanted && !stop && next < results_.size()) {
    Result& result = results_[next];
    if (!result.ended) {
      changed_.wait_for(lock, kProgressInterval);
      const Progress now = progress_;
      lock.unlock();
      on_progress(now);
      lock.lock();
      continue;
    }
    if (!result.status.ok()) {
      error = {next, result.status};
      break;
    }
    const Translated translated = std::move(result.translated);
    lock.unlock();
    wanted = on_result(next, translated);
    lock.lock();
    ++next;
  }
  if (next < results_.size() && error.status.ok()) {
    error = {next, absl::CancelledError("stopped")};
  }
  lock.unlock();
  Stop();
  lock.lock();
  changed_.wait(lock, [this] { return running_ == 0 && starting_ == 0; });
  return error;
}

void Translation::StartNext(Slot& slot) {
  size_t index = 0;
  uint64_t sequence = 0;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (stopping_ || issued_ == sources_.size()) {
      --running_;
      changed_.notify_all();
      return;
    }
    index = issued_++;
    sequence = ++slot.sequence;
    ++starting_;
    slot.result = Translated();
  }
  GenerateRequest request = options_.request;
  request.prompt = sources_[index];
  const GenerateCall call = client_.StartGenerate(
      request, options_.call, [this, &slot](const Event& event) { OnEvent(slot, event); },
      [this, &slot, index](const absl::Status& status) { OnDone(slot, index, status); });
  const std::lock_guard<std::mutex> lock(mutex_);
  // The request may have ended, and the next have begun, before StartGenerate returned.
  if (slot.sequence == sequence) slot.call = call;
  if (stopping_) call.Cancel();
  --starting_;
  changed_.notify_all();
}

void Translation::OnEvent(Slot& slot, const Event& event) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (const auto* delta = std::get_if<Delta>(&event)) {
    slot.result.text += delta->text;
    slot.result.token_ids.insert(slot.result.token_ids.end(), delta->token_ids.begin(),
                                 delta->token_ids.end());
    progress_.tokens += delta->token_ids.size();
  } else if (const auto* finished = std::get_if<Finished>(&event)) {
    slot.result.reason = finished->reason;
    if (!finished->hypotheses.empty()) {  // of a beam search, whose best is wanted
      const Hypothesis& best = finished->hypotheses.front();
      slot.result.text = best.text;
      slot.result.token_ids = best.token_ids;
      progress_.tokens += best.token_ids.size();
    }
  }
}

void Translation::OnDone(Slot& slot, size_t index, const absl::Status& status) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    results_[index] = {true, status, std::move(slot.result)};
    ++progress_.ended;
    changed_.notify_all();
  }
  StartNext(slot);
}

void Translation::Stop() {
  std::vector<GenerateCall> calls;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
    for (const Slot& slot : slots_) calls.push_back(slot.call);
  }
  for (const GenerateCall& call : calls) call.Cancel();
}

}  // namespace t2r::client
