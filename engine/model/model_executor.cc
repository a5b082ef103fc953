#include "engine/model/model_executor.h"

#include <algorithm>
#include <cassert>
#include <utility>

namespace t2r {

ModelExecutor::ModelExecutor(std::unique_ptr<Backend> backend,
                             std::shared_ptr<const WeightSource> weights,
                             std::unique_ptr<Model> model, const ExecutorOptions& options)
    : backend_(std::move(backend)),
      weights_(std::move(weights)),
      model_(std::move(model)),
      options_(options),
      states_(*backend_, StateShapeOf(model_->config()), options.slots),
      kv_(*backend_, KvShapeOf(model_->config()), options.kv_pages, options.slots),
      sessions_(options.slots) {
  const ModelConfig& config = model_->config();
  const KvShape kv = KvShapeOf(config);
  limits_.slots = options.slots;
  limits_.max_step_tokens = options.max_step_tokens;
  limits_.vocab_size = config.vocab_size;
  limits_.position_limit = options.position_limit;
  limits_.kv_pages = kv_.pages();
  limits_.state_bytes = StateShapeOf(config).bytes();
  limits_.kv_bytes_per_position = kv.page_bytes() / kKvPageSize;
}

ModelExecutor::~ModelExecutor() = default;

bool ModelExecutor::CanOpen(int64_t positions) const {
  if (options_.position_limit > 0 && positions > options_.position_limit) return false;
  return states_.free_slots() > 0 && kv_.CanReserve(positions);
}

int ModelExecutor::Open(int64_t positions, const SamplingParams& sampling) {
  if (!CanOpen(positions)) return -1;
  const int slot = states_.Acquire();
  kv_.Reserve(slot, positions);
  Session& session = sessions_[slot];
  session.sampling = sampling;
  session.counts_seen = sampling.repetition_penalty != 1.0F;
  session.counts_generated =
      sampling.frequency_penalty != 0.0F || sampling.presence_penalty != 0.0F;
  return slot;
}

void ModelExecutor::Close(int slot) {
  kv_.Release(slot);
  states_.Release(slot);
  sessions_[slot] = Session();
}

bool ModelExecutor::Wanted(const Work& work, int64_t token) {
  return token < static_cast<int64_t>(work.targets.size()) ||
         (work.sample && token + 1 == static_cast<int64_t>(work.tokens.size()));
}

void ModelExecutor::Step(std::span<const Work> works, std::vector<WorkResult>* results) {
  results->assign(works.size(), WorkResult());
  int64_t rows = 0;
  for (size_t i = 0; i < works.size(); ++i) {
    const Work& work = works[i];
    rows += static_cast<int64_t>(work.tokens.size());
    assert(!work.tokens.empty() && work.targets.size() <= work.tokens.size());
    (*results)[i].scores.resize(work.targets.size());
    Session& session = sessions_[work.slot];
    if (session.counts_seen) {
      for (const int32_t token : work.tokens) session.counts.seen[token] = true;
    }
  }
  assert(rows <= options_.max_step_tokens);
  static_cast<void>(rows);

  // Normally all works make one batch. Where they want more logits than the workspace holds, the
  // step is cut there: results do not depend on how a session's tokens are split.
  for (size_t i = 0; i < works.size(); ++i) {
    const auto count = static_cast<int64_t>(works[i].tokens.size());
    int64_t first = 0;
    for (int64_t token = 0; token < count; ++token) {
      if (!Wanted(works[i], token)) continue;
      if (static_cast<int64_t>(outputs_.size()) == options_.max_step_outputs) {
        Append(works, i, first, token - first);
        RunBatch(works, results);
        first = token;
      }
      const bool last = token + 1 == count;
      outputs_.push_back({i, token, token < static_cast<int64_t>(works[i].targets.size()),
                          last && works[i].sample});
      batch_.output_rows.push_back(static_cast<int32_t>(batch_.rows() + token - first));
    }
    Append(works, i, first, count - first);
  }
  RunBatch(works, results);
}

void ModelExecutor::Append(std::span<const Work> works, size_t work, int64_t first, int64_t count) {
  if (count == 0) return;
  const Work& source = works[work];
  Segment segment;
  segment.slot = source.slot;
  segment.first_row = static_cast<int32_t>(batch_.rows());
  segment.rows = static_cast<int32_t>(count);
  segment.position = source.position + first;
  segment.first_page = static_cast<int32_t>(batch_.pages.size());
  batch_.segments.push_back(segment);
  const auto tokens = source.tokens.subspan(first, count);
  batch_.tokens.insert(batch_.tokens.end(), tokens.begin(), tokens.end());
  for (int64_t i = 0; i < count; ++i) batch_.positions.push_back(segment.position + i);
  const std::span<const int32_t> table = kv_.table(source.slot);
  batch_.pages.insert(batch_.pages.end(), table.begin(), table.end());
}

void ModelExecutor::RunBatch(std::span<const Work> works, std::vector<WorkResult>* results) {
  if (batch_.rows() > 0) {
    const Tensor device = model_->Forward(batch_, states_, kv_);
    const int64_t vocab = device.cols;
    logits_.resize(outputs_.size() * static_cast<size_t>(vocab));
    if (!outputs_.empty()) {
      backend_->CopyToHost(logits_.data(), device.data, logits_.size() * sizeof(float));
    }
    backend_->ParallelFor(static_cast<int64_t>(outputs_.size()), [&](int64_t i) {
      const Output& output = outputs_[i];
      Finish(works[output.work], output,
             std::span(logits_).subspan(static_cast<size_t>(i * vocab), vocab),
             &(*results)[output.work]);
    });
  }
  batch_.tokens.clear();
  batch_.positions.clear();
  batch_.segments.clear();
  batch_.pages.clear();
  batch_.output_rows.clear();
  outputs_.clear();
}

void ModelExecutor::Finish(const Work& work, const Output& output, std::span<float> logits,
                           WorkResult* result) {
  const double norm = LogSumExp(logits);
  if (output.score) {
    const float logit = logits[work.targets[output.token]];
    result->scores[output.token] = static_cast<float>(static_cast<double>(logit) - norm);
  }
  if (!output.sample) return;
  Session& session = sessions_[work.slot];
  const SamplingParams& sampling = session.sampling;
  if (work.top_logprobs > 0) {
    for (const auto& [token, logprob] : TopLogProbabilities(logits, work.top_logprobs)) {
      result->top.push_back({token, logprob});
    }
  }
  const bool plain = !session.counts_seen && !session.counts_generated &&
                     sampling.logit_bias.empty() && sampling.temperature <= 0.0F;
  int32_t token = 0;
  if (plain) {
    token = GreedyToken(logits);
  } else {
    // Sampling overwrites its logits; the raw ones are still needed.
    thread_local std::vector<float> scratch;
    scratch.assign(logits.begin(), logits.end());
    const auto position = static_cast<uint64_t>(work.position) + work.tokens.size();
    token = SampleToken(scratch, sampling, session.counts, position);
  }
  result->sampled = {token, static_cast<float>(static_cast<double>(logits[token]) - norm)};
  if (session.counts_generated) ++session.counts.generated[token];
}

}  // namespace t2r
