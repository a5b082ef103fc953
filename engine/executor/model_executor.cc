#include "engine/executor/model_executor.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <limits>
#include <utility>

#include "engine/executor/warm_up.h"

namespace t2r {
namespace {

DType KvDType(const Backend& backend, const ExecutorOptions& options) {
  return options.kv_dtype.value_or(backend.activation_dtype(options.weight_dtype));
}

}  // namespace

ModelExecutor::ModelExecutor(std::unique_ptr<Backend> backend, std::unique_ptr<Model> model,
                             const ExecutorOptions& options)
    : backend_(std::move(backend)),
      model_(std::move(model)),
      options_(options),
      states_(*backend_, StateShapeOf(model_->config(), options.window_dtype), options.slots,
              options.prefix_states),
      kv_(*backend_, KvShapeOf(model_->config(), KvDType(*backend_, options)), options.kv_pages,
          options.slots, options.prefix_states, options.prefix_pages),
      source_kv_(*backend_, SourceKvShapeOf(model_->config(), KvDType(*backend_, options)),
                 options.source_kv_pages, options.slots),
      sessions_(options.slots),
      prefix_positions_(static_cast<size_t>(options.prefix_states)) {
  for (int i = options.prefix_states - 1; i >= 0; --i) free_prefixes_.push_back(i);
  model_->AllocateWorkspace(options.max_step_tokens, options.max_step_logit_rows);
  const ModelConfig& config = model_->config();
  limits_.slots = options.slots;
  limits_.max_step_tokens = options.max_step_tokens;
  limits_.vocab_size = config.vocab_size;
  limits_.position_limit = options.position_limit;
  limits_.kv_pages = kv_.pages();
  limits_.state_bytes = states_.shape().bytes();
  limits_.kv_bytes_per_position = kv_.shape().page_bytes() / kKvPageSize;
  limits_.prompt_alignment = backend_->prompt_alignment();
  if (config.encoder_decoder) {
    const EncoderDecoderConfig& both = *config.encoder_decoder;
    limits_.max_source = std::min(both.max_source_positions, options.max_step_tokens);
    if (config.full_cross_layers() > 0) {
      limits_.max_source = std::min(limits_.max_source, source_kv_.pages() * kKvPageSize);
    }
    limits_.source_vocab_size = both.source_vocab_size;
    limits_.source_kv_bytes_per_position = source_kv_.shape().page_bytes() / kKvPageSize;
  }
  limits_.suppressed_token_ids = config.suppressed_token_ids;
  limits_.prefix_states = options.prefix_states;
  limits_.prefix_pages = options.prefix_pages;
  limits_.prefix_state_bytes = StatePool::SlotBytes(states_.shape());
  // A multiplication and an addition for each weight that a token meets, and for each element of a
  // key and of a value.
  limits_.token_flops = 2.0 * config.layers * config.hidden_size *
                        (4.0 * config.hidden_size + 3.0 * config.intermediate_size);
  limits_.pair_flops = 4.0 * config.full_layers() * config.heads * config.head_dim;
  step_limits_.max_rows = options.max_step_tokens;
  step_limits_.max_logit_rows = options.max_step_logit_rows;
  step_limits_.max_pages = std::max(kv_.pages(), source_kv_.pages());
  step_limits_.max_adjustments =
      options.slots *
      std::max<int64_t>(1, static_cast<int64_t>(config.suppressed_token_ids.size()));
  step_limits_.max_segments = options.slots;
  backend_->PrepareSteps(step_limits_);
  if (backend_->asynchronous()) {
    WarmUp(*model_, {states_, kv_, source_kv_}, step_limits_, options.slots);
  } else {
    ReserveScratch(*model_, {states_, kv_, source_kv_});
  }
}

ModelExecutor::~ModelExecutor() = default;

bool ModelExecutor::CanOpen(const SessionSize& size, int count) const {
  if (options_.position_limit > 0 && size.positions > options_.position_limit) return false;
  return states_.free_slots() >= count && kv_.CanReserve(size.positions, count) &&
         source_kv_.CanReserve(size.source, count);
}

int ModelExecutor::Open(const SessionSize& size, const SamplingParams& sampling) {
  if (!CanOpen(size, 1)) return -1;
  const int slot = states_.Acquire();
  kv_.Reserve(slot, size.positions, size.lasting);
  source_kv_.Reserve(slot, size.source, size.lasting);
  Session& session = sessions_[slot];
  session.sampling = sampling;
  for (const int32_t token : limits_.suppressed_token_ids) {
    session.sampling.logit_bias.emplace_back(token, -std::numeric_limits<float>::infinity());
  }
  session.history = TokenHistory(session.sampling);
  if (size.lasting) session.whole_history = TokenHistory::Whole();
  return slot;
}

void ModelExecutor::Fork(int from, int to) {
  const Session& source = sessions_[from];
  assert(sessions_[to].positions <= source.positions);
  states_.Copy(from, to);
  kv_.Fork(from, to, source.positions);
  // Written whole by the first chunk and never again: every page can be shared.
  source_kv_.Fork(from, to, KvCache::PagesFor(source.source) * kKvPageSize);
  sessions_[to].positions = source.positions;
  sessions_[to].source = source.source;
  sessions_[to].history = source.history;
}

void ModelExecutor::Close(int slot) {
  kv_.Release(slot);
  source_kv_.Release(slot);
  states_.Release(slot);
  sessions_[slot] = Session();
}

SlotState ModelExecutor::Save(int slot) {
  const Session& session = sessions_[slot];
  assert(session.whole_history.has_value());
  SlotState saved;
  saved.positions = session.positions;
  saved.source = session.source;
  const std::span<const TokenAdjustment> history = session.whole_history->adjustments();
  saved.history.assign(history.begin(), history.end());
  saved.state.resize(static_cast<size_t>(limits_.state_bytes));
  states_.Read(slot, saved.state.data());
  saved.pages.resize(static_cast<size_t>(kv_.ReadBytes(session.positions)));
  kv_.Read(slot, session.positions, saved.pages.data());
  saved.source_pages.resize(static_cast<size_t>(source_kv_.ReadBytes(session.source)));
  source_kv_.Read(slot, session.source, saved.source_pages.data());
  return saved;
}

void ModelExecutor::Restore(int slot, const SlotState& state) {
  Session& session = sessions_[slot];
  assert(session.whole_history.has_value() && session.positions == 0);
  assert(static_cast<int64_t>(state.state.size()) == limits_.state_bytes);
  assert(static_cast<int64_t>(state.pages.size()) == kv_.ReadBytes(state.positions));
  assert(static_cast<int64_t>(state.source_pages.size()) == source_kv_.ReadBytes(state.source));
  states_.Write(slot, state.state.data());
  kv_.Write(slot, state.positions, state.pages.data());
  source_kv_.Write(slot, state.source, state.source_pages.data());
  session.positions = state.positions;
  session.source = state.source;
  session.history.Adopt(state.history);
  session.whole_history->Adopt(state.history);
}

int ModelExecutor::KeepPrefix(int slot) {
  const Session& session = sessions_[slot];
  assert(session.source == 0 && session.positions % limits_.prompt_alignment == 0);
  if (free_prefixes_.empty()) return -1;
  const int prefix = free_prefixes_.back();
  if (!kv_.Keep(slot, options_.slots + prefix, session.positions)) return -1;
  free_prefixes_.pop_back();
  states_.Copy(slot, options_.slots + prefix);
  prefix_positions_[prefix] = session.positions;
  return prefix;
}

void ModelExecutor::StartFromPrefix(int slot, int prefix, std::span<const int32_t> tokens) {
  Session& session = sessions_[slot];
  assert(session.positions == 0);
  assert(prefix_positions_[prefix] == static_cast<int64_t>(tokens.size()));
  states_.Copy(options_.slots + prefix, slot);
  kv_.Fork(options_.slots + prefix, slot, prefix_positions_[prefix]);
  session.positions = prefix_positions_[prefix];
  session.history.See(tokens);
  if (session.whole_history) session.whole_history->See(tokens);
}

void ModelExecutor::DropPrefix(int prefix) {
  kv_.Drop(options_.slots + prefix);
  prefix_positions_[prefix] = 0;
  free_prefixes_.push_back(prefix);
}

int64_t ModelExecutor::prefix_bytes() const {
  const auto states =
      static_cast<int64_t>(prefix_positions_.size()) - static_cast<int64_t>(free_prefixes_.size());
  return states * limits_.prefix_state_bytes + kv_.kept_pages() * kv_.shape().page_bytes();
}

bool ModelExecutor::Wanted(const ScheduledChunk& chunk, int64_t token) {
  return token < static_cast<int64_t>(chunk.targets.size()) ||
         (chunk.sample && token + 1 == static_cast<int64_t>(chunk.tokens.size()));
}

void ModelExecutor::Launch(std::span<const ScheduledChunk> chunks) {
  chunks_ = chunks;
  // Where ops run on the calling thread, Wait runs them: the caller has other work first.
  if (backend_->asynchronous()) Start();
}

void ModelExecutor::Wait(std::vector<ChunkResult>* results) {
  if (!backend_->asynchronous()) Start();
  FinishBatch();
  results->swap(results_);
}

void ModelExecutor::Start() {
  const std::span<const ScheduledChunk> chunks = chunks_;
  results_.assign(chunks.size(), ChunkResult());
  // A step that failed may have left some of it.
  ClearBatch();
  logit_rows_.clear();
  int64_t rows = 0;
  for (size_t i = 0; i < chunks.size(); ++i) {
    const ScheduledChunk& chunk = chunks[i];
    rows += static_cast<int64_t>(chunk.tokens.size());
    assert(!chunk.tokens.empty() && chunk.targets.size() <= chunk.tokens.size());
    results_[i].scores.resize(chunk.targets.size());
    Session& session = sessions_[chunk.slot];
    session.history.See(chunk.tokens);
    if (session.whole_history) session.whole_history->See(chunk.tokens);
    session.positions = chunk.position + static_cast<int64_t>(chunk.tokens.size());
  }
  assert(rows <= options_.max_step_tokens);
  static_cast<void>(rows);
  Encode(chunks);

  // Normally all chunks make one batch. Where they want more logits than the workspace holds, the
  // step is cut there: results do not depend on how a session's tokens are split.
  for (size_t i = 0; i < chunks.size(); ++i) {
    const auto count = static_cast<int64_t>(chunks[i].tokens.size());
    int64_t first = 0;
    for (int64_t token = 0; token < count; ++token) {
      if (!Wanted(chunks[i], token)) continue;
      if (static_cast<int64_t>(logit_rows_.size()) == options_.max_step_logit_rows) {
        Append(chunks, i, first, token - first);
        StartBatch();
        FinishBatch();
        first = token;
      }
      const bool last = token + 1 == count;
      logit_rows_.push_back({i, token, token < static_cast<int64_t>(chunks[i].targets.size()),
                             last && chunks[i].sample});
      batch_.logit_rows.push_back(static_cast<int32_t>(batch_.rows() + token - first));
    }
    Append(chunks, i, first, count - first);
  }
  StartBatch();
}

void ModelExecutor::Encode(std::span<const ScheduledChunk> chunks) {
  const auto run = [this] {
    if (batch_.rows() > 0) model_->Encode(batch_, {states_, kv_, source_kv_});
    ClearBatch();
  };
  for (const ScheduledChunk& chunk : chunks) {
    if (chunk.source.empty()) continue;
    const auto count = static_cast<int64_t>(chunk.source.size());
    assert(count <= limits_.max_source);
    if (batch_.rows() + count > options_.max_step_tokens) run();
    AppendSegment(chunk.slot, chunk.source, 0, source_kv_);
    sessions_[chunk.slot].source = count;
  }
  run();
}

void ModelExecutor::AppendSegment(int slot, std::span<const int32_t> tokens, int64_t position,
                                  const KvCache& kv) {
  Segment segment;
  segment.slot = slot;
  segment.first_row = static_cast<int32_t>(batch_.rows());
  segment.rows = static_cast<int32_t>(tokens.size());
  segment.position = position;
  segment.first_page = static_cast<int32_t>(batch_.pages.size());
  batch_.segments.push_back(segment);
  batch_.tokens.insert(batch_.tokens.end(), tokens.begin(), tokens.end());
  for (int64_t i = 0; i < segment.rows; ++i) batch_.positions.push_back(position + i);
  const std::span<const int32_t> table = kv.table(slot);
  batch_.pages.insert(batch_.pages.end(), table.begin(), table.end());
}

void ModelExecutor::Append(std::span<const ScheduledChunk> chunks, size_t index, int64_t first,
                           int64_t count) {
  if (count == 0) return;
  const ScheduledChunk& chunk = chunks[index];
  const int slot = chunk.slot;
  AppendSegment(slot, chunk.tokens.subspan(first, count), chunk.position + first, kv_);
  Segment& segment = batch_.segments.back();
  segment.source_rows = static_cast<int32_t>(sessions_[slot].source);
  segment.first_source_page = static_cast<int32_t>(batch_.source_pages.size());
  const std::span<const int32_t> table = source_kv_.table(slot);
  batch_.source_pages.insert(batch_.source_pages.end(), table.begin(), table.end());
}

void ModelExecutor::StartBatch() {
  if (batch_.rows() == 0) return;
  const Tensor logits = model_->Forward(batch_, {states_, kv_, source_kv_});
  requests_.clear();
  int64_t adjustments = 0;
  for (const LogitRow& row : logit_rows_) {
    const ScheduledChunk& chunk = chunks_[row.chunk];
    SampleRequest request;
    request.row = static_cast<int32_t>(requests_.size());
    if (row.score) request.target = chunk.targets[row.token];
    if (row.sample) {
      const Session& session = sessions_[chunk.slot];
      request.sampling = &session.sampling;
      request.position = static_cast<uint64_t>(chunk.position) + chunk.tokens.size();
      request.adjustments = session.history.adjustments();
      request.top = chunk.top_logprobs;
      adjustments += static_cast<int64_t>(request.adjustments.size());
    }
    requests_.push_back(request);
  }
  if (requests_.empty()) return;
  if (adjustments > step_limits_.max_adjustments) {
    step_limits_.max_adjustments = 2 * adjustments;
    backend_->PrepareSteps(step_limits_);
  }
  backend_->Sample(logits, requests_);
}

void ModelExecutor::FinishBatch() {
  samples_.resize(logit_rows_.size());
  if (!samples_.empty()) backend_->FetchSamples(samples_);
  for (size_t i = 0; i < logit_rows_.size(); ++i) {
    const LogitRow& row = logit_rows_[i];
    SampleResult& sample = samples_[i];
    ChunkResult& result = results_[row.chunk];
    // A device tells by the log probability alone.
    const float told = row.sample ? sample.logprob : sample.target_logprob;
    if (!sample.finite || !std::isfinite(told)) {
      if (result.not_finite < 0) result.not_finite = chunks_[row.chunk].position + row.token;
      continue;
    }
    if (row.score) result.scores[row.token] = sample.target_logprob;
    if (!row.sample) continue;
    result.sampled = {sample.token, sample.logprob};
    for (const auto& [token, logprob] : sample.top) result.top.push_back({token, logprob});
    Session& session = sessions_[chunks_[row.chunk].slot];
    session.history.Generate(sample.token);
    if (session.whole_history) session.whole_history->Generate(sample.token);
  }
  ClearBatch();
  logit_rows_.clear();
}

void ModelExecutor::ClearBatch() {
  batch_.tokens.clear();
  batch_.positions.clear();
  batch_.segments.clear();
  batch_.pages.clear();
  batch_.source_pages.clear();
  batch_.logit_rows.clear();
}

}  // namespace t2r
