// An executor that computes nothing: what is left of a server is its front end.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/executor/executor.h"

namespace t2r::bench {

// Answers each step at once, and samples the ids 0, 1, 2, … of the vocabulary, again and again, by
// their position, whatever the sampling parameters say. Sessions are limited by slots alone. It
// keeps neither sessions (Save throws) nor states of prompts' beginnings. Thread-compatible.
class NullExecutor : public Executor {
 public:
  // limits: with slots and vocab_size of at least 1; what it says of prompts' states is dropped.
  explicit NullExecutor(ExecutorLimits limits);

  const ExecutorLimits& limits() const override { return limits_; }
  bool CanOpen(const SessionSize& /*size*/, int count) const override {
    return static_cast<int>(free_slots_.size()) >= count;
  }
  int Open(const SessionSize& size, const SamplingParams& sampling) override;
  void Fork(int /*from*/, int /*to*/) override {}
  void Close(int slot) override { free_slots_.push_back(slot); }
  void Launch(std::span<const ScheduledChunk> chunks) override { chunks_ = chunks; }
  void Wait(std::vector<ChunkResult>* results) override;

 private:
  ExecutorLimits limits_;
  std::vector<int> free_slots_;
  std::span<const ScheduledChunk> chunks_;  // of the step that is launched
};

}  // namespace t2r::bench
