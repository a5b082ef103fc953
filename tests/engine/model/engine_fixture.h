// Small random engines for the executor's tests.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "engine/engine.h"
#include "testing/model_directory.h"
#include "testing/reference_model.h"
#include "tests/engine/ops/testing/chosen_backend.h"

namespace t2r::testing {

inline std::vector<int32_t> SomeIds(int count, int vocab, int salt = 0) {
  std::vector<int32_t> ids;
  for (int i = 0; i < count; ++i) ids.push_back((i * i * 7 + i * (13 + salt) + 3 + salt) % vocab);
  return ids;
}

// An engine on random weights of `spec`; null (and a failure) when it does not load.
inline std::unique_ptr<Engine> RandomEngine(const ModelSpec& spec, const EngineOptions& options) {
  const TemporaryDirectory directory;
  directory.Write("config.json", ConfigOf(spec));
  WriteWeights(directory, RandomWeights(spec, 17));
  EngineOptions chosen = options;
  chosen.backend = ChosenBackend();
  auto engine = LoadEngine(directory.path(), chosen);
  EXPECT_TRUE(engine.ok()) << engine.status();
  return engine.ok() ? *std::move(engine) : nullptr;
}

inline SamplingParams Greedy() {
  SamplingParams params;
  params.temperature = 0;
  return params;
}

inline ScheduledChunk MakeChunk(int slot, std::span<const int32_t> tokens, int64_t position,
                                bool sample = false) {
  ScheduledChunk chunk;
  chunk.slot = slot;
  chunk.tokens = tokens;
  chunk.position = position;
  chunk.sample = sample;
  return chunk;
}

// Feeds the prompt at once and generates `count` tokens, one a step.
inline std::vector<int32_t> Generate(Executor& executor, std::vector<int32_t> prompt, int count,
                                     const SamplingParams& params) {
  const auto total = static_cast<int64_t>(prompt.size()) + count - 1;
  const int slot = executor.Open({total}, params);
  EXPECT_GE(slot, 0);
  std::vector<int32_t> generated;
  std::vector<ChunkResult> results;
  std::vector<int32_t> next = std::move(prompt);
  int64_t position = 0;
  while (static_cast<int>(generated.size()) < count) {
    const ScheduledChunk chunk = MakeChunk(slot, next, position, true);
    executor.Step({&chunk, 1}, &results);
    position += static_cast<int64_t>(next.size());
    generated.push_back(results[0].sampled.token);
    next = {generated.back()};
  }
  executor.Close(slot);
  return generated;
}

}  // namespace t2r::testing
