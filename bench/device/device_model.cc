#include "bench/device/device_model.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "engine/model/tensors.h"

namespace t2r::bench {
namespace {

// Sessions in steps of which a plan is tried: from what was asked for down to one.
int Fewer(int sessions) { return sessions > 8 ? sessions - sessions / 8 : sessions - 1; }

}  // namespace

ModelConfig ConfigOf(const Shape& shape, int features) {
  ModelConfig config;
  config.hidden_size = shape.hidden;
  config.intermediate_size = shape.inner;
  config.layers = shape.layers;
  config.heads = shape.heads;
  config.kv_heads = shape.kv_heads;
  config.head_dim = shape.head_dim;
  config.vocab_size = shape.vocab;
  config.tie_word_embeddings = shape.tied;
  config.rotary_dim = shape.head_dim;
  config.rope_theta = shape.rope_theta;
  config.max_position_embeddings = shape.positions;
  if (shape.llama3_rope) {
    config.rope_scaling = RopeScaling{};
    config.rope_scaling->factor = 32;
  }
  config.layer_types.assign(shape.layers,
                            features > 0 ? LayerType::kLinearAttention : LayerType::kFullAttention);
  if (features > 0) {
    config.linear_attention = LinearAttentionConfig{};
    config.linear_attention->feature_size = features;
    config.linear_attention->query_scale = 1 / std::sqrt(static_cast<float>(shape.head_dim));
  }
  return config;
}

RandomSource::RandomSource(const ModelConfig& config) {
  for (TensorSpec& tensor : TensorsOf(config)) {
    if (tensor.optional) continue;
    tensors_[tensor.name] = {nullptr, DType::kBFloat16, std::move(tensor.shape)};
  }
  int64_t largest = 0;
  for (const auto& [name, tensor] : tensors_) largest = std::max(largest, tensor.elements());
  block_.resize(largest);
  // Uniform in [-0.05, 0.05], by a linear congruential generator; the rest repeats the beginning.
  const int64_t drawn = std::min<int64_t>(largest, 1 << 20);
  uint64_t state = 1;
  for (int64_t i = 0; i < drawn; ++i) {
    state = state * 6364136223846793005ULL + 1442695040888963407ULL;
    const auto uniform = static_cast<float>(state >> 40) * 0x1p-24F;
    block_[i] = FloatToBFloat16((uniform - 0.5F) * 0.1F);
  }
  for (int64_t at = drawn; at < largest; at += drawn) {
    std::copy_n(block_.begin(), std::min(drawn, largest - at), block_.begin() + at);
  }
  for (auto& [name, tensor] : tensors_) tensor.data = block_.data();
}

const HostTensor* RandomSource::Find(std::string_view name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : &found->second;
}

DeviceModel MakeDeviceModel(const Shape& shape, int features, int most_sessions,
                            int64_t prompt_chunk, int64_t positions, bool batch_invariant) {
  DeviceModel made;
  made.config = ConfigOf(shape, features);
  const RandomSource source(made.config);
  auto backend = std::make_unique<cuda::CudaBackend>(batch_invariant);
  made.backend = backend.get();
  auto model = MakeModel(made.config, source, *backend, {DType::kBFloat16});
  made.after_weights = backend->Memory();

  PlanOptions options;
  options.prompt_chunk = prompt_chunk;
  options.kv_dtype = DType::kBFloat16;
  const int64_t page_bytes = KvShapeOf(made.config, DType::kBFloat16).page_bytes();
  for (options.sessions = most_sessions;; options.sessions = Fewer(options.sessions)) {
    options.kv_cache_bytes = page_bytes * KvCache::PagesFor(positions) * options.sessions;
    try {
      made.memory = PlanMemory(*model, made.after_weights, options);
      break;
    } catch (const DeviceError&) {
      if (options.sessions == 1) throw;
    }
  }
  ExecutorOptions executor;
  executor.slots = made.memory.slots;
  executor.max_step_tokens = made.memory.max_step_tokens;
  executor.max_step_logit_rows = made.memory.max_step_logit_rows;
  executor.kv_pages = made.memory.pages;
  executor.weight_dtype = DType::kBFloat16;
  made.executor = std::make_unique<ModelExecutor>(std::move(backend), std::move(model), executor);
  return made;
}

}  // namespace t2r::bench
