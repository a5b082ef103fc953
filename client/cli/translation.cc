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
  ClosedLoop loop(
      std::min<size_t>(options_.streams, sources_.size()), sources_.size(),
      [this](size_t index, size_t /*session*/) { return MakeJob(index); },
      [this](const GenerateRequest& request, Client::EventCallback on_event,
             Client::DoneCallback on_done) {
        return client_.StartGenerate(request, options_.call, std::move(on_event),
                                     std::move(on_done));
      });
  loop.Start();

  TranslationError error = {sources_.size(), absl::OkStatus()};
  size_t next = 0;
  bool wanted = true;
  MutexLock lock(mutex_);
  while (wanted && !stop && next < results_.size()) {
    Result& result = results_[next];
    if (!result.ended) {
      changed_.WaitUntil(lock, CondVar::Clock::now() + kProgressInterval);
      const Progress now = progress_;
      lock.Unlock();
      on_progress(now);
      lock.Lock();
      continue;
    }
    if (!result.status.ok()) {
      error = {next, result.status};
      break;
    }
    const Translated translated = std::move(result.translated);
    lock.Unlock();
    wanted = on_result(next, translated);
    lock.Lock();
    ++next;
  }
  if (next < results_.size() && error.status.ok()) {
    error = {next, absl::CancelledError("stopped")};
  }
  return error;  // the loop stops, and waits for its callbacks, once the lock is let go
}

ClosedLoop::Job Translation::MakeJob(size_t index) {
  ClosedLoop::Job job;
  job.request = options_.request;
  job.request.prompt = sources_[index];
  job.on_event = [this, index](const Event& event) { OnEvent(index, event); };
  job.on_done = [this, index](const absl::Status& status) { OnDone(index, status); };
  return job;
}

void Translation::OnEvent(size_t index, const Event& event) {
  const MutexLock lock(mutex_);
  Translated& translated = results_[index].translated;
  if (const auto* delta = std::get_if<Delta>(&event)) {
    translated.text += delta->text;
    translated.token_ids.insert(translated.token_ids.end(), delta->token_ids.begin(),
                                delta->token_ids.end());
    progress_.tokens += delta->token_ids.size();
  } else if (const auto* finished = std::get_if<Finished>(&event)) {
    translated.reason = finished->reason;
    if (!finished->hypotheses.empty()) {  // of a beam search, whose best is wanted
      const Hypothesis& best = finished->hypotheses.front();
      translated.text = best.text;
      translated.token_ids = best.token_ids;
      progress_.tokens += best.token_ids.size();
    }
  }
}

void Translation::OnDone(size_t index, const absl::Status& status) {
  const MutexLock lock(mutex_);
  results_[index].ended = true;
  results_[index].status = status;
  ++progress_.ended;
  changed_.NotifyAll();
}

}  // namespace t2r::client
