// First values of parameters: of a model from scratch, and of the feature maps that a swap adds.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "convert/model/model.h"
#include "engine/model/config.h"

namespace t2r::convert {

// A model from scratch: matrices and tables normal with deviation 0.02 (projections that end a
// residual branch divided by sqrt(2 · layers), as GPT-2 does), norms one, biases zero. Feature maps
// as InitializeFeatureMaps does; LoRA factors are left alone.
void InitializeFromScratch(TrainingModel* model, uint64_t seed);

// Feature maps only.
//   t2r       rows are random orthogonal directions (in blocks of d), bias 1: every feature starts
//             active for small inputs, so no unit is dead
//   rfa       rows normal N(0, 1), orthogonal in blocks of d: the lower-variance random features
//   hedgehog  identity rows, repeated to k/2
//   codebook  centroids in random orthogonal directions: calibration.h has better ones
void InitializeFeatureMaps(TrainingModel* model, uint64_t seed);

// LoRA factors: A normal with deviation columns^-½, B zero, so that the update starts at zero.
void InitializeLora(TrainingModel* model, uint64_t seed);

// What a computed parameter (ParameterSpec) is where no file gives it.
torch::Tensor ComputedValue(const ParameterSpec& spec);
// HF's sinusoidal positions [positions, width]: the sines of every frequency, then the cosines.
torch::Tensor SinusoidalPositions(int64_t positions, int64_t width);

struct SwapOptions {
  FeatureMapKind feature_map = FeatureMapKind::kT2r;
  int feature_size = 0;              // k; elu: 0 or head_dim
  std::vector<int> keep_full;        // layers whose causal attention keeps softmax
  std::vector<int> keep_full_cross;  // and whose cross attention does
  // Of causal attention (engine/ops/windowed_attention.h); window 0: none.
  int window = 0, sinks = 0, fold = 1;
  bool rope_features = true;
  std::optional<int64_t> sink_position = std::nullopt;
};

// Whether the model's own attention sees the last keys only (Mistral's sliding_window): a window
// and nothing else. Over texts no longer than it, such a model is a softmax model.
bool HasSlidingWindow(const ModelConfig& config);

// The parent's configuration with its layers swapped: t2r clamps denominators at 1e-2, the other
// maps add 1e-6; query_scale is head_dim^-½. An encoder is left as it is. Throws ConvertError: k
// missing or odd for rfa and hedgehog, k ≠ head_dim for elu, a kept layer that does not exist, a
// parent with linear layers.
ModelConfig SwappedConfig(const ModelConfig& parent, const SwapOptions& options);

}  // namespace t2r::convert
