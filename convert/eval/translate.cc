#include "convert/eval/translate.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <utility>

#include "convert/error.h"
#include "convert/status.h"
#include "engine/engine.h"

namespace t2r::convert {
namespace {

using Clock = std::chrono::steady_clock;

// A source on its way through the engine.
struct Session {
  size_t source = 0;
  int slot = 0;
  int64_t position = 0;  // of `next`
  int32_t next = 0;      // the token to feed
  int64_t longest = 0;   // tokens to make at most
};

class Translator {
 public:
  Translator(Executor* executor, const ModelConfig& config,
             const std::vector<std::vector<int32_t>>& sources, int64_t max_tokens)
      : executor_(executor), config_(config), sources_(sources), max_tokens_(max_tokens) {
    result_.outputs.resize(sources.size());
    const int64_t most =
        std::min(executor->limits().max_source, executor->limits().max_step_tokens);
    for (size_t i = 0; i < sources.size(); ++i) {
      if (static_cast<int64_t>(sources[i].size()) > most) {
        throw ConvertError("source " + std::to_string(i + 1) + " has " +
                           std::to_string(sources[i].size()) + " tokens; at most " +
                           std::to_string(most) + " fit the model");
      }
    }
    sampling_.temperature = 0;
  }

  Translations Run(Progress* progress) {
    const Clock::time_point start = Clock::now();
    while (finished_ < sources_.size()) {
      const size_t opened = OpenSessions();
      Step(opened);
      result_.seconds = std::chrono::duration<double>(Clock::now() - start).count();
      if (progress != nullptr) Report(progress);
    }
    return std::move(result_);
  }

 private:
  // Opens sessions while there is room; how many.
  size_t OpenSessions() {
    size_t opened = 0;
    int64_t source_tokens = 0;
    for (; next_ < sources_.size(); ++next_) {
      const auto length = static_cast<int64_t>(sources_[next_].size());
      if (length == 0) {
        result_.outputs[next_].ended = true;
        ++finished_;
        continue;
      }
      source_tokens += length;
      const int64_t limit = executor_->limits().position_limit;
      int64_t longest = max_tokens_ > 0 ? max_tokens_ : 2 * length + 10;
      if (limit > 0) longest = std::min(longest, limit);
      const SessionSize size{longest, length};
      const int64_t rows = executor_->limits().max_step_tokens;
      if (source_tokens > rows || static_cast<int64_t>(sessions_.size()) == rows ||
          !executor_->CanOpen(size, 1)) {
        break;
      }
      Session session;
      session.source = next_;
      session.slot = executor_->Open(size, sampling_);
      session.next = config_.encoder_decoder.value().decoder_start_token_id;
      session.longest = longest;
      sessions_.push_back(session);
      ++opened;
    }
    if (sessions_.empty() && finished_ < sources_.size()) {
      throw ConvertError("the engine has no room for source " + std::to_string(next_ + 1));
    }
    return opened;
  }

  // One token for every session; the last `opened` ones bring their sources.
  void Step(size_t opened) {
    std::vector<ScheduledChunk> chunks(sessions_.size());
    for (size_t i = 0; i < chunks.size(); ++i) {
      chunks[i].slot = sessions_[i].slot;
      chunks[i].tokens = {&sessions_[i].next, 1};
      chunks[i].position = sessions_[i].position;
      chunks[i].sample = true;
      if (i + opened >= chunks.size()) chunks[i].source = sources_[sessions_[i].source];
    }
    if (chunks.empty()) return;
    executor_->Step(chunks, &results_);
    for (size_t i = 0; i < chunks.size(); ++i) Take(results_[i].sampled.token, &sessions_[i]);
    result_.tokens += static_cast<int64_t>(chunks.size());
    std::erase_if(sessions_, [](const Session& session) { return session.slot < 0; });
  }

  void Take(int32_t token, Session* session) {
    Translation& output = result_.outputs[session->source];
    const auto& eos = config_.eos_token_ids;
    output.ended = std::find(eos.begin(), eos.end(), token) != eos.end();
    if (!output.ended) output.ids.push_back(token);
    session->next = token;
    if (output.ended || ++session->position == session->longest) {
      executor_->Close(session->slot);
      session->slot = -1;
      ++finished_;
    }
  }

  void Report(Progress* progress) const {
    const double share = static_cast<double>(finished_) / static_cast<double>(sources_.size());
    const double rate = static_cast<double>(result_.tokens) / result_.seconds;
    char text[120];
    std::snprintf(text, sizeof(text), "%zu of %zu translated  %.0f tokens/s", finished_,
                  sources_.size(), rate);
    progress->Show(share, text,
                   share > 0 ? result_.seconds * (1 - share) / share : result_.seconds);
  }

  Executor* executor_;
  const ModelConfig& config_;
  const std::vector<std::vector<int32_t>>& sources_;
  int64_t max_tokens_;
  SamplingParams sampling_;
  std::vector<Session> sessions_;
  std::vector<ChunkResult> results_;
  Translations result_;
  size_t next_ = 0;      // the source to open next
  size_t finished_ = 0;  // sources
};

}  // namespace

Translations Translate(Executor* executor, const ModelConfig& config,
                       const std::vector<std::vector<int32_t>>& sources, int64_t max_tokens,
                       Progress* progress) {
  return Translator(executor, config, sources, max_tokens).Run(progress);
}

TranslatedLines TranslateLines(const std::string& directory, const Tokenizer& tokenizer,
                               const std::vector<std::string>& lines,
                               const TranslateOptions& options, Progress* progress) {
  std::vector<std::vector<int32_t>> sources;
  size_t longest = 0;
  for (const std::string& line : lines) {
    sources.push_back(line.empty() ? std::vector<int32_t>() : Unwrap(tokenizer.Encode(line, true)));
    longest = std::max(longest, sources.back().size());
  }
  EngineOptions engine_options;
  engine_options.backend = options.backend;
  engine_options.threads = options.threads;
  engine_options.dtype = options.dtype;
  engine_options.max_sessions = options.batch;
  engine_options.max_step_tokens =
      std::max({int64_t{512}, int64_t{options.batch}, static_cast<int64_t>(longest)});
  const auto engine = Unwrap(LoadEngine(directory, engine_options));
  const Translations translations =
      Translate(engine->executor.get(), engine->config, sources, options.max_tokens, progress);
  TranslatedLines result;
  for (const Translation& output : translations.outputs) {
    result.texts.push_back(tokenizer.Decode(output.ids));
    std::replace(result.texts.back().begin(), result.texts.back().end(), '\n', ' ');
    result.cut += output.ended ? 0 : 1;
  }
  result.tokens = translations.tokens;
  result.seconds = translations.seconds;
  return result;
}

}  // namespace t2r::convert
