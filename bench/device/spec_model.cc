#include "bench/device/spec_model.h"

#include <algorithm>
#include <map>
#include <string>
#include <utility>

#include "engine/model/architectures.h"
#include "engine/ops/enum_names.h"

namespace t2r::bench {
namespace {

using testing::ModelSpec;
using testing::Tensors;

// Named float32 tensors of its own.
class TensorSource : public WeightSource {
 public:
  explicit TensorSource(Tensors tensors) : kept_(std::move(tensors)) {
    for (const auto& [name, tensor] : kept_) {
      tensors_[name] = {tensor.values.data(), DType::kFloat32, tensor.shape};
    }
  }
  const HostTensor* Find(std::string_view name) const override {
    const auto found = tensors_.find(name);
    return found == tensors_.end() ? nullptr : &found->second;
  }

 private:
  Tensors kept_;
  std::map<std::string, HostTensor, std::less<>> tensors_;
};

ModelConfig ModelConfigOf(const ModelSpec& spec) {
  ModelConfig config;
  config.architecture = spec.gpt2 ? &kGpt2Architecture : &kLlamaArchitecture;
  config.hidden_size = spec.hidden;
  config.intermediate_size = spec.inner;
  config.layers = spec.layers;
  config.heads = spec.heads;
  config.kv_heads = spec.groups;
  config.head_dim = spec.head_dim;
  config.vocab_size = spec.vocab;
  config.norm_eps = static_cast<float>(spec.norm_eps);
  config.tie_word_embeddings = spec.tied;
  config.qkv_bias = spec.gpt2;
  config.attention_out_bias = spec.gpt2;
  config.mlp_bias = spec.gpt2;
  config.rotary_dim = spec.gpt2 ? 0 : spec.head_dim;
  config.rope_theta = spec.theta;
  config.max_position_embeddings = spec.positions;
  for (int i = 0; i < spec.layers; ++i) {
    config.layer_types.push_back(spec.is_linear(i) ? LayerType::kLinearAttention
                                                   : LayerType::kFullAttention);
  }
  if (spec.linear.empty()) return config;
  LinearAttentionConfig& linear = config.linear_attention.emplace();
  linear.feature_map = Parse<FeatureMapKind>(spec.map).value();
  linear.feature_size = linear.feature_map == FeatureMapKind::kNone ? 0 : spec.features;
  linear.window = spec.window;
  linear.sinks = spec.sinks;
  linear.fold = spec.fold;
  linear.rope_features = spec.rope_features;
  if (spec.sink_position >= 0) linear.sink_position = spec.sink_position;
  if (!spec.window_list.empty()) {
    for (int i = 0; i < spec.layers; ++i) {
      linear.layers.push_back(
          {spec.feature_count(i), spec.windows(i), spec.sink_count(i), spec.folds(i)});
    }
  }
  linear.normalizer = Parse<Normalizer>(spec.normalizer).value();
  linear.eps = static_cast<float>(spec.eps);
  linear.query_scale = static_cast<float>(spec.query_scale);
  return config;
}

}  // namespace

Tensors BFloat16Weights(const ModelSpec& spec) {
  Tensors tensors = testing::RandomWeights(spec, 5);
  for (auto& [name, tensor] : tensors) {
    for (float& value : tensor.values) value = BFloat16ToFloat(FloatToBFloat16(value));
  }
  return tensors;
}

std::unique_ptr<ModelExecutor> SpecExecutor(const ModelSpec& spec, const Tensors& weights,
                                            DType dtype, int slots) {
  const ModelConfig config = ModelConfigOf(spec);
  const TensorSource source(weights);
  auto backend = std::make_unique<cuda::CudaBackend>(true);
  auto model = MakeModel(config, source, *backend, {dtype});
  ExecutorOptions options;
  options.slots = slots;
  options.max_step_tokens = 256;
  options.max_step_logit_rows = 256;
  options.kv_pages = slots * KvCache::PagesFor(spec.positions);
  options.weight_dtype = dtype;
  return std::make_unique<ModelExecutor>(std::move(backend), std::move(model), options);
}

std::vector<double> Scores(Executor& executor, const std::vector<int32_t>& ids, int64_t piece) {
  const auto count = static_cast<int64_t>(ids.size());
  const int slot = executor.Open({count}, {});
  std::vector<double> scores;
  std::vector<ChunkResult> results;
  for (int64_t at = 0; at < count; at += piece) {
    ScheduledChunk chunk;
    chunk.slot = slot;
    chunk.position = at;
    chunk.tokens = std::span(ids).subspan(at, std::min(piece, count - at));
    const int64_t targets = std::min(piece, count - at - 1);
    if (targets > 0) chunk.targets = std::span(ids).subspan(at + 1, targets);
    executor.Step({&chunk, 1}, &results);
    scores.insert(scores.end(), results[0].scores.begin(), results[0].scores.end());
  }
  executor.Close(slot);
  return scores;
}

int DifferAmongNeighbours(Executor& executor, int sessions, int steps) {
  SamplingParams greedy;
  greedy.temperature = 0;
  std::vector<std::vector<TokenLogprob>> found;
  for (const int count : {1, sessions}) {
    std::vector<int32_t> next(count);
    std::vector<ScheduledChunk> chunks(count);
    for (int i = 0; i < count; ++i) {
      next[i] = i % executor.limits().vocab_size;
      chunks[i].slot = executor.Open({steps}, greedy);
      chunks[i].sample = true;
    }
    found.emplace_back();
    std::vector<ChunkResult> results;
    for (int step = 0; step < steps; ++step) {
      for (int i = 0; i < count; ++i) {
        chunks[i].tokens = {&next[i], 1};
        chunks[i].position = step;
      }
      executor.Step(chunks, &results);
      for (int i = 0; i < count; ++i) next[i] = results[i].sampled.token;
      found.back().push_back(results[0].sampled);
    }
    for (const ScheduledChunk& chunk : chunks) executor.Close(chunk.slot);
  }
  int different = 0;
  for (int step = 0; step < steps; ++step) {
    const TokenLogprob& alone = found[0][step];
    const TokenLogprob& among = found[1][step];
    different += alone.token == among.token && alone.logprob == among.logprob ? 0 : 1;
  }
  return different;
}

}  // namespace t2r::bench
