// Small models of each kind of layer, for tests of what has to hold for all of them.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "tests/engine/model/engine_fixture.h"

namespace t2r::testing {

// linear: of each layer, whether it is linear or full.
inline ModelSpec LlamaOf(const std::string& map, std::vector<bool> linear) {
  ModelSpec spec;
  spec.layers = static_cast<int>(linear.size());
  spec.linear = std::move(linear);
  spec.map = map;
  spec.positions = 512;
  if (map == "elu") spec.features = spec.head_dim;
  return spec;
}

// The map stands for what has left a window and is folded five keys at a time, with a decay.
inline ModelSpec LlamaBehindWindows(const std::string& map) {
  ModelSpec spec = LlamaOf(map, {true, true});
  spec.window = 12;
  spec.sinks = 2;
  spec.fold = 5;
  spec.decay = true;
  return spec;
}

inline ModelSpec LlamaOfWindowsAlone() {
  ModelSpec spec = LlamaOf("none", {true, true});
  spec.window = 16;
  spec.sinks = 3;
  return spec;
}

inline ModelSpec Gpt2Of(bool linear) {
  ModelSpec spec = LlamaOf("t2r", {linear, linear});
  spec.gpt2 = true;
  spec.groups = spec.heads;
  return spec;
}

}  // namespace t2r::testing
