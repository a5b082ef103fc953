// Attention on the device: linear and windowed over the sessions' states, softmax over the paged
// cache and within segments. What the ops mean is said in
// engine/ops/{linear,windowed,full}_attention.h.
//
// All of them launch on the context's stream and return; none waits. The launches of a step of
// single rows depend only on how many rows there are: lengths and places are read on the device.
// They throw DeviceError where a head is wider than the kernels take.
#pragma once

#include "engine/ops/cuda/device_batch.h"
#include "engine/ops/full_attention.h"
#include "engine/ops/linear_attention.h"
#include "engine/ops/windowed_attention.h"

namespace t2r::cuda {

// Widest heads that the kernels take: head_dim, and features of linear attention.
inline constexpr int kMaxHeadDim = 256;
inline constexpr int kMaxFeatures = 256;

// Rows that stand alone go through a recurrent kernel (linear_decode.cu), tiles through the chunked
// form (linear_prefill.cu). Scratch, for t tiles of which a layer's rows have p = heads · k query
// and groups · k key features: t · (kTileRows · (heads + groups) · k activations + groups · k ·
// (d + 1) floats).
void LinearAttention(const OpContext& context, const LinearAttentionArgs& args);

// Likewise: windowed_decode.cu, and windowed_prefill.cu, which says what scratch it takes. A slot's
// window is keys [G, R + n, d], then values likewise.
void WindowedAttention(const OpContext& context, const WindowedAttentionArgs& args);

// A layer's part of a page is K [G, kKvPageSize, d], then V [G, kKvPageSize, d], of the activation
// dtype.
void FullAttention(const OpContext& context, const FullAttentionArgs& args);

void EncoderAttention(const OpContext& context, const EncoderAttentionArgs& args);

}  // namespace t2r::cuda
