// Windowed linear attention for training: the keys near a query, the first keys of the sequence and
// a recurrent state that stands for all others, in one softmax (engine/ops/windowed_attention.h has
// the definition). No matrix over all pairs of tokens is formed: queries go in chunks, and each
// chunk meets the band of keys that its windows reach, and the state before that band.
#pragma once

#include <torch/types.h>

#include "convert/model/attention.h"
#include "engine/model/config.h"

namespace t2r::convert {

// Whether a layer of these sizes is computed here; else it is plain linear attention.
bool IsWindowed(const LinearAttentionConfig& config, const LinearSizes& sizes);

// Attention of input.q over input.k and input.v (shapes in attention.h) to [B, T, G·R·d], each
// sequence from empty state. Differentiable in the inputs and the map's tensors; that far weights
// stop at e^40 times the nearest key's largest counts as a constant. Without a window (the codebook
// alone) a token sees its own key in the state too.
torch::Tensor WindowedAttention(const LinearAttentionConfig& config, const LinearSizes& sizes,
                                const FeatureMapTensors& map, const AttentionInput& input);

}  // namespace t2r::convert
