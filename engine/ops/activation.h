// Elementwise functions of feed-forward layers.
#pragma once

#include <cstdint>

namespace t2r {

// gelu_tanh: x/2 (1 + tanh(√(2/π) (x + 0.044715 x³))); gelu: x Φ(x) with the error function; relu:
// max(x, 0); silu (swish): x / (1 + e^−x).
enum class ActivationKind : uint8_t { kGeluTanh, kGelu, kRelu, kSilu };

}  // namespace t2r
