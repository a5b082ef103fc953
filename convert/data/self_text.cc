#include "convert/data/self_text.h"

#include <algorithm>
#include <charconv>
#include <chrono>
#include <optional>
#include <string_view>
#include <utility>

#include "convert/error.h"
#include "convert/status.h"
#include "engine/engine.h"
#include "engine/tokenizer/tokenizer.h"

namespace t2r::convert {
namespace {

using Clock = std::chrono::steady_clock;

// A document on its way.
struct Writing {
  size_t document = 0;
  int slot = 0;
  int64_t position = 0;  // of `next`
  int32_t next = 0;      // the token to feed
};

class Writer {
 public:
  Writer(Executor* executor, std::vector<int32_t> ends, int32_t first,
         const SelfTextOptions& options)
      : executor_(executor), ends_(std::move(ends)), first_(first), options_(options) {
    length_ = options.length;
    const int64_t limit = executor->limits().position_limit;
    if (limit > 0) length_ = std::min(length_, limit);
  }

  std::vector<std::vector<int32_t>> Run(Progress* progress) {
    const Clock::time_point start = Clock::now();
    while (finished_tokens_ < options_.tokens || !writing_.empty()) {
      Open();
      Step();
      const double share =
          std::min(1.0, static_cast<double>(written_) / static_cast<double>(options_.tokens));
      const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
      if (progress != nullptr) {
        progress->Show(share, "the parent writes",
                       share > 0 ? seconds * (1 - share) / share : seconds);
      }
    }
    // In the order of their numbers: which of them are kept does not depend on how many were
    // written at once.
    int64_t tokens = 0;
    size_t kept = 0;
    while (kept < documents_.size() && tokens < options_.tokens) {
      tokens += static_cast<int64_t>(documents_[kept++].size());
    }
    documents_.resize(kept);
    return std::move(documents_);
  }

 private:
  // New documents while there is room and the finished ones, by number, are too few.
  void Open() {
    while (finished_tokens_ < options_.tokens &&
           static_cast<int>(writing_.size()) < options_.batch &&
           executor_->CanOpen({length_, 0}, 1)) {
      SamplingParams sampling;
      sampling.seed = options_.seed;
      sampling.sequence = documents_.size();
      Writing document{documents_.size(), executor_->Open({length_, 0}, sampling), 0, first_};
      documents_.push_back({first_});
      ended_.push_back(false);
      writing_.push_back(document);
    }
    if (writing_.empty()) throw ConvertError("the engine has no room for a document");
  }

  void Step() {
    std::vector<ScheduledChunk> chunks(writing_.size());
    for (size_t i = 0; i < chunks.size(); ++i) {
      chunks[i].slot = writing_[i].slot;
      chunks[i].tokens = {&writing_[i].next, 1};
      chunks[i].position = writing_[i].position;
      chunks[i].sample = true;
    }
    executor_->Step(chunks, &results_);
    for (size_t i = 0; i < chunks.size(); ++i) Take(results_[i].sampled.token, &writing_[i]);
    written_ += static_cast<int64_t>(chunks.size());
    std::erase_if(writing_, [](const Writing& writing) { return writing.slot < 0; });
    while (first_open_ < documents_.size() && ended_[first_open_]) {
      finished_tokens_ += static_cast<int64_t>(documents_[first_open_++].size());
    }
  }

  void Take(int32_t token, Writing* writing) {
    auto& ids = documents_[writing->document];
    ids.push_back(token);
    writing->next = token;
    ++writing->position;
    const bool end = std::find(ends_.begin(), ends_.end(), token) != ends_.end();
    if (!end && static_cast<int64_t>(ids.size()) < length_) return;
    executor_->Close(writing->slot);
    writing->slot = -1;
    ended_[writing->document] = true;
  }

  Executor* executor_;
  std::vector<int32_t> ends_;
  int32_t first_;
  SelfTextOptions options_;
  int64_t length_ = 0;
  std::vector<std::vector<int32_t>> documents_;
  std::vector<bool> ended_;
  size_t first_open_ = 0;        // documents before it have all ended,
  int64_t finished_tokens_ = 0;  // with so many tokens
  int64_t written_ = 0;
  std::vector<Writing> writing_;
  std::vector<ChunkResult> results_;
};

}  // namespace

std::vector<std::vector<int32_t>> WriteSelfText(const std::string& directory,
                                                const SelfTextOptions& options,
                                                Progress* progress) {
  const ModelConfig config = Unwrap(LoadModelConfig(directory));
  if (config.encoder_decoder.has_value()) {
    throw ConvertError(
        "--train self:N lets a language model write; an encoder-decoder needs pairs");
  }
  const auto tokenizer = Unwrap(LoadTokenizer(directory));
  std::optional<int32_t> first = tokenizer ? tokenizer->bos_id() : std::nullopt;
  if (!first.has_value()) first = config.bos_token_id;
  if (!first.has_value() && !config.eos_token_ids.empty()) first = config.eos_token_ids.front();
  if (!first.has_value()) {
    throw ConvertError(directory + " names no BOS and no end token to start a document with");
  }
  EngineOptions engine_options;
  engine_options.backend = "cpu";
  engine_options.threads = options.threads;
  engine_options.batch_invariant = true;
  engine_options.max_sessions = options.batch;
  engine_options.max_step_tokens = std::max(512, options.batch);
  const auto engine = Unwrap(LoadEngine(directory, engine_options));
  return Writer(engine->executor.get(), config.eos_token_ids, *first, options).Run(progress);
}

int64_t ParseSelfText(const std::string& train) {
  constexpr std::string_view kSelf = "self:";
  if (!train.starts_with(kSelf)) return 0;
  const std::string_view digits = std::string_view(train).substr(kSelf.size());
  int64_t tokens = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), tokens);
  if (error != std::errc() || end != digits.data() + digits.size() || tokens < 1 ||
      tokens > int64_t{1} << 40) {
    throw ConvertError("--train '" + train + "': self: is followed by a number of tokens");
  }
  return tokens;
}

}  // namespace t2r::convert
