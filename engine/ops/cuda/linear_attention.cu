// Linear attention: tiles first, then the rows that stand alone, which may follow them.
#include <algorithm>
#include <string>

#include "engine/ops/cuda/attention.h"
#include "engine/ops/cuda/linear_kernels.h"

namespace t2r::cuda {

void LinearAttention(const OpContext& context, const LinearAttentionArgs& args) {
  if (args.head_dim > kMaxHeadDim || args.map.features > kMaxFeatures) {
    throw DeviceError(DeviceErrorKind::kInvalidArgument,
                      "linear attention with head_dim " + std::to_string(args.head_dim) + " and " +
                          std::to_string(args.map.features) + " features: the CUDA backend takes " +
                          std::to_string(kMaxHeadDim) + " and " + std::to_string(kMaxFeatures) +
                          " at most; use the CPU backend");
  }
  const LinearParameters parameters(args);
  PrefillLinearAttention(context, parameters);
  DecodeLinearAttention(context, parameters);
}

}  // namespace t2r::cuda
