// Attention on the device: linear over the sessions' states, softmax over the paged cache and
// within segments. What the ops mean is said in engine/ops/{linear,full}_attention.h.
//
// All of them launch on `stream` and return; none allocates or waits. Grids depend only on the
// shape of the batch (segments and chunks, padding included), lengths are read on the device, so a
// step of single rows can be recorded and replayed. Segments with slot −1 are padding.
#pragma once

#include <cstddef>
#include <cstdint>

#include "engine/ops/cuda/cuda_compat.h"
#include "engine/ops/cuda/device_batch.h"
#include "engine/ops/full_attention.h"
#include "engine/ops/linear_attention.h"

namespace t2r::cuda {

// Widest heads that the kernels take.
inline constexpr int kMaxHeadDim = 256;
inline constexpr int kMaxFeatures = 256;

// Device memory that LinearAttention needs for a batch with this many chunks: the features of their
// rows and the states between them. 0 where there are no chunks.
size_t LinearAttentionWorkspaceBytes(const LinearAttentionArgs& args, int64_t chunks);

// `workspace` has at least LinearAttentionWorkspaceBytes(args, batch.chunks) bytes, 256-byte
// aligned. Throws DeviceError where a head is wider than the kernels take.
void LinearAttention(const DeviceBatch& batch, const LinearAttentionArgs& args, void* workspace,
                     cudaStream_t stream);

// A layer's part of a page is K [G, kKvPageSize, d], then V [G, kKvPageSize, d], of the activation
// dtype. Throws DeviceError where a head is wider than the kernels take.
void FullAttention(const DeviceBatch& batch, const FullAttentionArgs& args, cudaStream_t stream);

void EncoderAttention(const DeviceBatch& batch, const EncoderAttentionArgs& args,
                      cudaStream_t stream);

}  // namespace t2r::cuda
