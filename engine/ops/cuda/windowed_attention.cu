// Windowed attention: tiles first, then the rows that stand alone, which may follow them.
#include <string>

#include "engine/ops/cuda/attention.h"
#include "engine/ops/cuda/windowed_kernels.h"

namespace t2r::cuda {

void WindowedAttention(const OpContext& context, const WindowedAttentionArgs& args) {
  if (args.head_dim > kMaxHeadDim || args.map.features > kMaxFeatures) {
    throw DeviceError("windowed attention with head_dim " + std::to_string(args.head_dim) +
                      " and " + std::to_string(args.map.features) +
                      " features: the CUDA backend takes " + std::to_string(kMaxHeadDim) + " and " +
                      std::to_string(kMaxFeatures) + " at most; use the CPU backend");
  }
  const WindowedParameters parameters(args);
  PrefillWindowedAttention(context, parameters);
  DecodeWindowedAttention(context, parameters);
}

}  // namespace t2r::cuda
