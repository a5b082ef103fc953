#include "client/load/load.h"

#include <algorithm>
#include <random>
#include <utility>
#include <vector>

#include "client/load/closed_loop.h"
#include "client/load/stream_timing.h"

namespace t2r::client {
namespace {

constexpr std::chrono::milliseconds kProgressInterval(200);

class Load {
 public:
  Load(Client& client, const LoadOptions& options)
      : client_(client), options_(options), sessions_(options.sessions) {}

  LoadResult Run(const std::atomic<bool>& stop,
                 const std::function<void(const LoadProgress&)>& on_progress) {
    ClosedLoop loop(
        options_.sessions, options_.requests,
        [this](size_t index, size_t session) {
          return MakeJob(static_cast<uint32_t>(index), sessions_[session]);
        },
        [this](const GenerateRequest& request, Client::EventCallback on_event,
               Client::DoneCallback on_done) {
          return client_.StartGenerate(request, options_.call, std::move(on_event),
                                       std::move(on_done));
        });
    loop.Start();
    const auto until = options_.max_time == absl::InfiniteDuration()
                           ? Clock::time_point::max()
                           : start_ + absl::ToChronoNanoseconds(options_.max_time);
    while (!loop.WaitFor(kProgressInterval)) {
      const Clock::time_point now = Clock::now();
      if (stop || now >= until) {
        stopping_ = true;
        loop.Stop();
      }
      if (on_progress) {
        on_progress({static_cast<uint32_t>(loop.ended()), tokens_,
                     std::chrono::duration<double>(now - start_).count()});
      }
    }
    return Collect();
  }

 private:
  // Its requests follow one another and a request's callbacks are serial, so it is touched by one
  // thread at a time.
  struct Session {
    StreamTiming timing{Clock::time_point()};
    LoadResult result;
    Clock::time_point last;
  };

  ClosedLoop::Job MakeJob(uint32_t index, Session& session) {
    ClosedLoop::Job job;
    job.request =
        MakeLoadRequest(options_.seed, index, options_.prompt_tokens, options_.vocab_size);
    job.request.max_tokens = options_.output_tokens;
    session.timing = StreamTiming(Clock::now());
    job.on_event = [this, &session](const Event& event) { OnEvent(session, event); };
    job.on_done = [this, &session](const absl::Status& status) { OnDone(session, status); };
    return job;
  }

  void OnEvent(Session& session, const Event& event) {
    const auto* delta = std::get_if<Delta>(&event);
    if (delta == nullptr || delta->token_ids.empty()) return;
    const bool first = session.timing.tokens() == 0;
    session.last = Clock::now();
    session.timing.OnTokens(session.last, delta->token_ids.size(), &session.result.inter_token);
    if (first) session.result.time_to_first_token.Add(*session.timing.TimeToFirstToken());
    session.result.tokens += delta->token_ids.size();
    ++session.result.messages;
    tokens_ += delta->token_ids.size();
  }

  void OnDone(Session& session, const absl::Status& status) {
    if (status.ok()) {
      ++session.result.completed;
    } else if (stopping_ && absl::IsCancelled(status)) {
      ++session.result.cut;
    } else {
      ++session.result.errors[status.ToString(absl::StatusToStringMode::kWithNoExtraData)];
    }
  }

  LoadResult Collect() const {
    LoadResult all;
    all.sessions = options_.sessions;
    Clock::time_point last = start_;
    for (const Session& session : sessions_) {
      all.completed += session.result.completed;
      all.cut += session.result.cut;
      all.tokens += session.result.tokens;
      all.messages += session.result.messages;
      all.time_to_first_token.Merge(session.result.time_to_first_token);
      all.inter_token.Merge(session.result.inter_token);
      for (const auto& [error, count] : session.result.errors) all.errors[error] += count;
      last = std::max(last, session.last);
    }
    all.seconds = std::chrono::duration<double>(last - start_).count();
    return all;
  }

  Client& client_;
  const LoadOptions options_;
  const Clock::time_point start_ = Clock::now();
  std::vector<Session> sessions_;
  std::atomic<bool> stopping_ = false;
  std::atomic<uint64_t> tokens_ = 0;
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
