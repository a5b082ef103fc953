// The shapes of well-known models. Speed depends on shapes and dtypes only.
#pragma once

#include <string_view>

namespace t2r::bench {

struct Shape {
  const char* name;
  int hidden, layers, heads, kv_heads, head_dim, inner, vocab;
  int positions;
  double rope_theta;  // 0: GPT-2
  bool tied;
  bool llama3_rope;  // Llama 3's scaling, with the factor of the 3.2 models

  bool gpt2() const { return rope_theta == 0; }
};

inline constexpr Shape kShapes[] = {
    {"smollm2-135m", 576, 30, 9, 3, 64, 1536, 49152, 8192, 1e5, true, false},
    {"llama-3.2-1b", 2048, 16, 32, 8, 64, 8192, 128256, 131072, 5e5, true, true},
    {"gpt2-small", 768, 12, 12, 12, 64, 3072, 50257, 1024, 0, true, false},
    // The language model of T2R's paper (arXiv 2103.13076), learned positions, a smaller
    // vocabulary.
    {"paper-lm", 1024, 16, 8, 8, 128, 4096, 32768, 16640, 0, true, false},
    {"demo-like", 256, 6, 4, 4, 64, 688, 4096, 512, 1e4, true, false},
    {"tiny", 64, 2, 4, 2, 16, 172, 512, 512, 1e4, true, false},
};

// Null where there is no such shape.
inline const Shape* FindShape(std::string_view name) {
  for (const Shape& shape : kShapes) {
    if (name == shape.name) return &shape;
  }
  return nullptr;
}

}  // namespace t2r::bench
