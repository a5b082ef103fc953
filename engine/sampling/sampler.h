// Chooses tokens from logits. Order, as in HF and vLLM: logit bias, repetition, frequency and
// presence penalties, temperature, top-k, top-p, min-p, draw.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "engine/sampling/params.h"
#include "engine/sampling/sample.h"

namespace t2r {

// 53 random bits from a counter-based generator: a pure function of its arguments, the same on
// every backend. Philox4x32-10 (Salmon et al. 2011), keyed by the seed, counter (position,
// sequence).
uint64_t CounterBits(uint64_t seed, uint64_t sequence, uint64_t position);
// CounterBits / 2^53: uniform in [0, 1).
double CounterUniform(uint64_t seed, uint64_t sequence, uint64_t position);

// The sampled token for the session's position `position` (the position the new token will have).
// logits [vocabulary] is overwritten. Deterministic; safe to call from many threads. NaN counts as
// −∞; when a logit is +∞ or all are −∞, the choice is greedy. top-k keeps every token that ties
// with the k-th; top-p keeps the fewest tokens (at least one, ties by lower id) whose mass reaches
// p. Adjustments outside the vocabulary are passed over; params.logit_bias is not read
// (TokenHistory makes it adjustments).
int32_t SampleToken(std::span<float> logits, const SamplingParams& params,
                    std::span<const TokenAdjustment> adjustments, uint64_t position);

// Whether none is NaN or infinite.
bool AllFinite(std::span<const float> values);

// The token with the largest logit, the lowest id among equals. NaN counts as −∞.
int32_t GreedyToken(std::span<const float> logits);

// log Σ exp(logits), NaN counting as −∞: exponentials in float32 (2e-7 relative), summed in
// float64.
double LogSumExp(std::span<const float> logits);
// log softmax(logits)[token]; −∞ for a token outside the vocabulary.
float LogProbability(std::span<const float> logits, int32_t token);
// The n most likely tokens with their log probabilities, best first, ties by lower id.
std::vector<std::pair<int32_t, float>> TopLogProbabilities(std::span<const float> logits, int n);

// All that is wanted of one row. Safe to call from many threads.
SampleResult SampleRow(std::span<const float> logits, const SampleRequest& request);

}  // namespace t2r
