#include "convert/eval/score.h"

#include <algorithm>
#include <chrono>
#include <cstdio>

#include "convert/error.h"
#include "convert/status.h"

namespace t2r::convert {
namespace {

using Clock = std::chrono::steady_clock;

// Rows of a step: enough for full tiles in every matrix product.
constexpr int64_t kStepRows = 512;
constexpr int64_t kLeastSessions = 8, kMostSessions = 64;

// A window on its way through the engine.
struct Session {
  const Window* window = nullptr;
  int slot = 0;
  int64_t fed = 0;  // of window->length tokens
  std::vector<float> logprobs;
};

class Scorer {
 public:
  Scorer(Executor* executor, const Corpus& corpus, std::span<const Window> windows,
         const TakeScores& take, Progress* progress)
      : executor_(executor), corpus_(corpus), windows_(windows), take_(take), progress_(progress) {
    for (const Window& window : windows) total_ += window.length;
  }

  void Run() {
    start_ = Clock::now();
    while (next_ < windows_.size() || !sessions_.empty()) {
      FormStep();
      executor_->Step(chunks_, &results_);
      for (size_t i = 0; i < chunks_.size(); ++i) Take(chunks_[i], results_[i], &sessions_[i]);
      std::erase_if(sessions_, [](const Session& session) { return session.slot < 0; });
      if (progress_ != nullptr) Report();
    }
  }

 private:
  bool OpenNext() {
    if (next_ == windows_.size()) return false;
    const Window& window = windows_[next_];
    const SessionSize size{window.length, window.source_length};
    if (!executor_->CanOpen(size, 1)) {
      if (!sessions_.empty()) return false;
      throw ConvertError("the engine has no room for a window of " + std::to_string(window.length) +
                         " positions");
    }
    Session session;
    session.window = &window;
    session.slot = executor_->Open(size, SamplingParams());
    session.logprobs.reserve(static_cast<size_t>(window.length - window.context));
    sessions_.push_back(std::move(session));
    ++next_;
    return true;
  }

  // Gives the step's rows to the sessions in their order: chunks_[i] is of sessions_[i]. A session
  // is opened when there are rows for it.
  void FormStep() {
    chunks_.clear();
    int64_t rows = executor_->limits().max_step_tokens;
    for (size_t i = 0; rows > 0 && (i < sessions_.size() || OpenNext()); ++i) {
      const ScheduledChunk chunk = NextChunk(sessions_[i], rows);
      if (chunk.tokens.empty()) break;
      rows -= static_cast<int64_t>(chunk.tokens.size());
      chunks_.push_back(chunk);
    }
  }

  // At most `rows` of the session's next tokens; none where an aligned split leaves none.
  ScheduledChunk NextChunk(const Session& session, int64_t rows) const {
    const Window& window = *session.window;
    const int64_t alignment = executor_->limits().prompt_alignment;
    // Logits are costly: the part that does not count goes without, but for a last piece.
    const int64_t unscored = window.context / alignment * alignment;
    int64_t end = session.fed < unscored ? unscored : window.length;
    if (end - session.fed > rows) end = session.fed + rows / alignment * alignment;
    const auto document = static_cast<size_t>(window.document);
    const auto count = static_cast<size_t>(end - session.fed);
    const std::span<const int32_t> ids(corpus_.documents[document]);
    const auto first = static_cast<size_t>(window.start + session.fed);
    ScheduledChunk chunk;
    chunk.slot = session.slot;
    chunk.position = session.fed;
    chunk.tokens = ids.subspan(first, count);
    if (session.fed >= unscored) chunk.targets = ids.subspan(first + 1, count);
    if (session.fed == 0 && corpus_.pairs()) chunk.source = corpus_.sources[document];
    return chunk;
  }

  void Take(const ScheduledChunk& chunk, const ChunkResult& result, Session* session) {
    const Window& window = *session->window;
    for (size_t i = 0; i < result.scores.size(); ++i) {
      if (session->fed + static_cast<int64_t>(i) < window.context) continue;
      session->logprobs.push_back(result.scores[i]);
    }
    const auto count = static_cast<int64_t>(chunk.tokens.size());
    session->fed += count;
    done_ += count;
    if (session->fed < window.length) return;
    executor_->Close(session->slot);
    session->slot = -1;
    take_(window, session->logprobs);
  }

  void Report() const {
    const double seconds = std::chrono::duration<double>(Clock::now() - start_).count();
    const double share = static_cast<double>(done_) / static_cast<double>(total_);
    char text[100];
    std::snprintf(text, sizeof(text), "%lld of %lld tokens scored  %.0f tokens/s",
                  static_cast<long long>(done_), static_cast<long long>(total_),
                  static_cast<double>(done_) / seconds);
    progress_->Show(share, text, seconds * (1 - share) / share);
  }

  Executor* executor_;
  const Corpus& corpus_;
  std::span<const Window> windows_;
  const TakeScores& take_;
  Progress* progress_;
  Clock::time_point start_;
  std::vector<Session> sessions_;
  std::vector<ScheduledChunk> chunks_;
  std::vector<ChunkResult> results_;
  size_t next_ = 0;    // the window to open next
  int64_t done_ = 0;   // tokens that went through the model
  int64_t total_ = 0;  // and that will have
};

}  // namespace

void ScoringRoom::Add(int64_t positions, int64_t source_tokens) {
  longest = std::max(longest, positions);
  shortest = shortest == 0 ? positions : std::min(shortest, positions);
  source = std::max(source, source_tokens);
}

std::unique_ptr<Engine> LoadScoringEngine(const std::string& directory, const ScoringRoom& room,
                                          const ScoreOptions& options) {
  const ModelConfig config = Unwrap(LoadModelConfig(directory));
  EngineOptions engine;
  engine.backend = options.backend;
  engine.threads = options.threads;
  engine.dtype = options.dtype;
  engine.activations = options.activations;
  engine.window_dtype = options.window_dtype;
  engine.max_step_tokens = std::max(kStepRows, room.source);
  engine.max_sessions = static_cast<int>(std::clamp<int64_t>(
      kStepRows / std::max<int64_t>(room.shortest, 1), kLeastSessions, kMostSessions));
  engine.max_context = room.longest;
  if (config.full_layers() > 0) {
    // The longest session, and the rows of a step in shorter ones, whose last pages are not full.
    const int64_t pages =
        KvCache::PagesFor(room.longest) + KvCache::PagesFor(2 * kStepRows) + engine.max_sessions;
    engine.kv_cache_bytes = pages * KvShapeOf(config).page_bytes();
  }
  return Unwrap(LoadEngine(directory, engine));
}

void ScoreWindows(Executor* executor, const Corpus& corpus, std::span<const Window> windows,
                  const TakeScores& take, Progress* progress) {
  Scorer(executor, corpus, windows, take, progress).Run();
}

}  // namespace t2r::convert
