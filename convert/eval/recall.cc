#include "convert/eval/recall.h"

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <optional>
#include <random>
#include <set>
#include <span>
#include <sstream>
#include <utility>

#include "convert/error.h"

namespace t2r::convert {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kLeastDistance = 32;
constexpr int64_t kCopied = 32;  // tokens of a stretch
constexpr int64_t kCue = 8;      // of them
constexpr int64_t kPairs = 8;

struct Probe {
  std::vector<int32_t> ids;
  std::vector<int64_t> asked;  // indices in ids, ascending, above 0
  size_t result = 0;           // the figures it counts for
  bool control = false;
};

class ProbeMaker {
 public:
  ProbeMaker(const Corpus& corpus, uint64_t seed) : bos_(corpus.bos), random_(seed) {
    std::set<int32_t> distinct;
    for (const auto& document : corpus.documents) {
      for (const int32_t id : document) {
        if (id == corpus.bos) continue;
        text_.push_back(id);
        distinct.insert(id);
      }
    }
    vocabulary_.assign(distinct.begin(), distinct.end());
  }

  // A probe and its control.
  std::pair<Probe, Probe> Copying(int64_t distance) {
    const std::vector<int32_t> text = Text(distance);
    const std::vector<int32_t> other = Text(kCopied);
    Probe probe = Begin(), control = Begin();
    const auto base = static_cast<int64_t>(probe.ids.size());
    Append(text, &probe);
    Append(text, &control);
    std::copy(other.begin(), other.end(), control.ids.begin() + base);
    Append(std::span(text).first(kCopied), &probe);
    Append(std::span(text).first(kCopied), &control);
    for (int64_t i = kCue; i < kCopied; ++i) probe.asked.push_back(base + distance + i);
    control.asked = probe.asked;
    return {std::move(probe), std::move(control)};
  }

  std::pair<Probe, Probe> KeyValue(int64_t distance) {
    const std::vector<int32_t> tokens = DistinctTokens(2 * kPairs);
    const auto key = [&](int64_t i) { return tokens[static_cast<size_t>(2 * i)]; };
    const auto value = [&](int64_t i) { return tokens[static_cast<size_t>(2 * i + 1)]; };
    Probe probe = Begin(), control = Begin();
    for (int64_t i = 0; i < kPairs; ++i) {
      Append({{key(i), value(i)}}, &probe);
      Append({{key(i), value((i + 1) % kPairs)}}, &control);
    }
    const std::vector<int32_t> text = Text(distance - 2 * kPairs);
    Append(text, &probe);
    Append(text, &control);
    std::vector<int64_t> order;
    for (int64_t i = 0; i < kPairs; ++i) order.push_back(i);
    for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random_() % i]);
    for (const int64_t i : order) {
      Append({{key(i), value(i)}}, &probe);
      Append({{key(i), value(i)}}, &control);
      probe.asked.push_back(static_cast<int64_t>(probe.ids.size()) - 1);
    }
    control.asked = probe.asked;
    return {std::move(probe), std::move(control)};
  }

 private:
  Probe Begin() const {
    Probe probe;
    if (bos_.has_value()) probe.ids.push_back(*bos_);
    return probe;
  }

  static void Append(std::span<const int32_t> ids, Probe* probe) {
    probe->ids.insert(probe->ids.end(), ids.begin(), ids.end());
  }

  // So many tokens of running text, from somewhere in the corpus.
  std::vector<int32_t> Text(int64_t count) {
    const auto size = static_cast<int64_t>(text_.size());
    if (size < count) {
      throw ConvertError("the text has " + std::to_string(size) + " tokens; a recall probe needs " +
                         std::to_string(count) + ": give more text or smaller --recall distances");
    }
    const auto start = static_cast<int64_t>(random_() % static_cast<uint64_t>(size - count + 1));
    return {text_.begin() + start, text_.begin() + start + count};
  }

  std::vector<int32_t> DistinctTokens(int64_t count) {
    if (static_cast<int64_t>(vocabulary_.size()) < count) {
      throw ConvertError("the text has " + std::to_string(vocabulary_.size()) +
                         " different tokens; a recall probe needs " + std::to_string(count));
    }
    // The first steps of a Fisher-Yates shuffle.
    for (size_t i = 0; i < static_cast<size_t>(count); ++i) {
      std::swap(vocabulary_[i], vocabulary_[i + random_() % (vocabulary_.size() - i)]);
    }
    return {vocabulary_.begin(), vocabulary_.begin() + count};
  }

  std::optional<int32_t> bos_;
  std::mt19937_64 random_;
  std::vector<int32_t> text_;        // the corpus without its BOS
  std::vector<int32_t> vocabulary_;  // the different tokens in it
};

// A probe on its way through the engine.
struct Session {
  const Probe* probe = nullptr;
  int slot = 0;
  int64_t fed = 0;
  size_t answered = 0;  // of probe->asked
};

class ProbeRunner {
 public:
  ProbeRunner(Executor* executor, const std::vector<Probe>& probes,
              std::vector<RecallResult>* results, Progress* progress)
      : executor_(executor), probes_(probes), totals_(results), progress_(progress) {
    sampling_.temperature = 0;
    for (const Probe& probe : probes) total_ += probe.asked.back();
  }

  void Run() {
    start_ = Clock::now();
    while (next_ < probes_.size() || !sessions_.empty()) {
      FormStep();
      executor_->Step(chunks_, &results_);
      for (size_t i = 0; i < chunks_.size(); ++i) Take(chunks_[i], results_[i], &sessions_[i]);
      std::erase_if(sessions_, [](const Session& session) { return session.slot < 0; });
      if (progress_ != nullptr) Report();
    }
  }

 private:
  bool OpenNext() {
    if (next_ == probes_.size()) return false;
    const SessionSize size{probes_[next_].asked.back(), 0};
    if (!executor_->CanOpen(size, 1)) {
      if (!sessions_.empty()) return false;
      throw ConvertError("the engine has no room for a recall probe of " +
                         std::to_string(size.positions) + " positions");
    }
    Session session;
    session.probe = &probes_[next_++];
    session.slot = executor_->Open(size, sampling_);
    sessions_.push_back(session);
    return true;
  }

  // Up to the token before the next one asked, or that token alone, whose answer is wanted. Text
  // without questions needs no logits.
  ScheduledChunk NextChunk(const Session& session, int64_t rows) const {
    const std::span<const int32_t> ids(session.probe->ids);
    const int64_t asked = session.probe->asked[session.answered];
    ScheduledChunk chunk;
    chunk.slot = session.slot;
    chunk.position = session.fed;
    const int64_t count = std::min(std::max<int64_t>(asked - 1 - session.fed, 1), rows);
    chunk.tokens = ids.subspan(static_cast<size_t>(session.fed), static_cast<size_t>(count));
    chunk.sample = session.fed + 1 == asked;
    if (chunk.sample) chunk.targets = ids.subspan(static_cast<size_t>(asked), 1);
    return chunk;
  }

  void FormStep() {
    chunks_.clear();
    int64_t rows = executor_->limits().max_step_tokens;
    for (size_t i = 0; rows > 0 && (i < sessions_.size() || OpenNext()); ++i) {
      chunks_.push_back(NextChunk(sessions_[i], rows));
      rows -= static_cast<int64_t>(chunks_.back().tokens.size());
    }
  }

  void Take(const ScheduledChunk& chunk, const ChunkResult& result, Session* session) {
    const auto count = static_cast<int64_t>(chunk.tokens.size());
    session->fed += count;
    done_ += count;
    if (!chunk.sample) return;
    const Probe& probe = *session->probe;
    const bool hit = result.sampled.token == chunk.targets[0];
    RecallResult& total = (*totals_)[probe.result];
    (probe.control ? total.control_nats : total.nats) -= result.scores[0];
    (probe.control ? total.control_found : total.found) += hit ? 1 : 0;
    if (!probe.control) ++total.asked;
    if (++session->answered < probe.asked.size()) return;
    executor_->Close(session->slot);
    session->slot = -1;
  }

  void Report() const {
    const double seconds = std::chrono::duration<double>(Clock::now() - start_).count();
    const double share = static_cast<double>(done_) / static_cast<double>(total_);
    char text[100];
    std::snprintf(text, sizeof(text), "recall: %lld of %lld tokens  %.0f tokens/s",
                  static_cast<long long>(done_), static_cast<long long>(total_),
                  static_cast<double>(done_) / seconds);
    progress_->Show(share, text, seconds * (1 - share) / share);
  }

  Executor* executor_;
  const std::vector<Probe>& probes_;
  std::vector<RecallResult>* totals_;  // sums until all is done
  Progress* progress_;
  SamplingParams sampling_;
  Clock::time_point start_;
  std::vector<Session> sessions_;
  std::vector<ScheduledChunk> chunks_;
  std::vector<ChunkResult> results_;
  size_t next_ = 0;
  int64_t done_ = 0, total_ = 0;  // tokens
};

}  // namespace

int64_t ProbeTokens(int64_t distance) { return 1 + distance + std::max(kCopied, 2 * kPairs); }

std::vector<int64_t> ParseDistances(const std::string& text, int64_t window) {
  std::vector<int64_t> distances;
  if (text == "auto") {
    for (int64_t distance = kLeastDistance; ProbeTokens(distance) <= window; distance *= 2) {
      distances.push_back(distance);
    }
    if (distances.empty()) {
      throw ConvertError("--recall needs a window of " +
                         std::to_string(ProbeTokens(kLeastDistance)) + " tokens or more, not " +
                         std::to_string(window));
    }
    return distances;
  }
  std::istringstream parts(text);
  for (std::string part; std::getline(parts, part, ',');) {
    int64_t distance = 0;
    const char* last = part.data() + part.size();
    const auto [end, error] = std::from_chars(part.data(), last, distance);
    if (error != std::errc() || end != last) {
      throw ConvertError("--recall '" + text + "': give auto or distances such as 128,512");
    }
    if (distance < kLeastDistance || ProbeTokens(distance) > window) {
      throw ConvertError("--recall: the distance " + part + " must be at least " +
                         std::to_string(kLeastDistance) + " and, with " +
                         std::to_string(ProbeTokens(0)) + " more, within the window of " +
                         std::to_string(window) + " tokens");
    }
    distances.push_back(distance);
  }
  if (distances.empty()) throw ConvertError("--recall: give auto or distances such as 128,512");
  return distances;
}

std::vector<RecallResult> MeasureRecall(Executor* executor, const Corpus& corpus,
                                        const RecallOptions& options, Progress* progress) {
  if (options.probes < 1) throw ConvertError("--recall-probes must be at least 1");
  ProbeMaker maker(corpus, options.seed);
  std::vector<RecallResult> results;
  std::vector<Probe> probes;
  for (const bool copying : {true, false}) {
    for (const int64_t distance : options.distances) {
      RecallResult& result = results.emplace_back();
      result.kind = copying ? "copying" : "key-value";
      result.distance = distance;
      for (int i = 0; i < options.probes; ++i) {
        auto [probe, control] = copying ? maker.Copying(distance) : maker.KeyValue(distance);
        probe.result = control.result = results.size() - 1;
        control.control = true;
        probes.push_back(std::move(probe));
        probes.push_back(std::move(control));
      }
    }
  }
  ProbeRunner(executor, probes, &results, progress).Run();
  for (RecallResult& result : results) {
    const auto asked = static_cast<double>(result.asked);
    result.nats /= asked;
    result.control_nats /= asked;
    result.found /= asked;
    result.control_found /= asked;
  }
  return results;
}

std::string Table(const std::vector<RecallResult>& results) {
  char line[160];
  std::snprintf(line, sizeof(line), "%-10s %9s %12s %8s %16s %8s %7s\n", "recall", "distance",
                "nats/token", "found", "control's nats", "found", "asked");
  std::string table = line;
  for (const RecallResult& result : results) {
    std::snprintf(line, sizeof(line), "%-10s %9lld %12.4f %6.1f %% %16.4f %6.1f %% %7lld\n",
                  result.kind.c_str(), static_cast<long long>(result.distance), result.nats,
                  100 * result.found, result.control_nats, 100 * result.control_found,
                  static_cast<long long>(result.asked));
    table += line;
  }
  return table;
}

}  // namespace t2r::convert
