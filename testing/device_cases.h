// What a device is checked against: small models of every kind, and how far results are apart. Uses
// no test framework: bench/gpu takes it to a device.
#pragma once

#include <cmath>
#include <cstddef>
#include <string>
#include <vector>

#include "testing/reference_model.h"

namespace t2r::testing {

struct DeviceCase {
  std::string name;  // letters, digits and underscores
  ModelSpec spec;
};

// Both families, softmax, each feature map, a mix of layers, windows with what may stand beside
// them, and folded projections. Softmax and t2r of Llama come first.
inline std::vector<DeviceCase> DeviceCases() {
  std::vector<DeviceCase> cases;
  for (const bool gpt2 : {false, true}) {
    ModelSpec base;
    base.layers = 2;
    base.gpt2 = gpt2;
    if (gpt2) base.groups = base.heads;
    const std::string family = gpt2 ? "Gpt2" : "Llama";
    cases.push_back({family + "Full", base});
    for (const char* map : {"t2r", "elu", "rfa", "hedgehog"}) {
      ModelSpec spec = base;
      spec.linear = {true, true};
      spec.map = map;
      if (spec.map == "elu") spec.features = spec.head_dim;
      // Σ φ(q)·φ(k) has either sign for rfa: this keeps the divisor away from 0.
      if (spec.map == "rfa") {
        spec.normalizer = "add";
        spec.eps = 80;
      }
      cases.push_back({family + "_" + map, spec});
    }
    ModelSpec windowed = base;
    windowed.linear = {true, true};
    windowed.map = "codebook";
    windowed.window = 9;
    windowed.sinks = 2;
    windowed.rope_features = false;
    cases.push_back({family + "_codebook", windowed});
    windowed.map = "t2r";
    windowed.rope_features = true;
    windowed.fold = 4;
    windowed.decay = true;
    cases.push_back({family + "_t2r_window", windowed});
    windowed.map = "none";
    windowed.decay = false;
    cases.push_back({family + "_window", windowed});
    ModelSpec mixed = base;
    mixed.linear = {true, false};
    cases.push_back({family + "Mixed", mixed});
  }
  ModelSpec uneven = cases.front().spec;
  uneven.linear = {true, true};
  uneven.map = "codebook";
  uneven.window_list = {5, 16};
  uneven.sink_list = {1, 0};
  uneven.fold_list = {1, 3};
  uneven.feature_list = {12, 6};
  uneven.sink_position = 7;
  cases.push_back({"LlamaCodebookByLayer", uneven});
  ModelSpec folded = cases[cases.size() - 2].spec;
  folded.features = 6;  // fewer rows than the 8 of a head: folded
  cases.push_back({"Gpt2Folded", folded});
  folded.map = "hedgehog";
  folded.features = 12;
  cases.push_back({"Gpt2FoldedHedgehog", folded});
  return cases;
}

// ‖got − want‖ / ‖want‖; infinite where their sizes differ.
inline double RelativeError(const std::vector<double>& got, const std::vector<double>& want) {
  if (got.size() != want.size()) return HUGE_VAL;
  double error = 0;
  double norm = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    error += (got[i] - want[i]) * (got[i] - want[i]);
    norm += want[i] * want[i];
  }
  return std::sqrt(error / norm);
}

}  // namespace t2r::testing
