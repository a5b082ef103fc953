// Random weights for models of tests.
#pragma once

#include <cmath>
#include <cstdint>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "testing/reference_model.h"

namespace t2r::testing {

class WeightMaker {
 public:
  explicit WeightMaker(uint64_t seed) : random_(seed) {}

  // `scale` · N(0, 1) + mean, made from the generator's raw bits so that every C++ library agrees.
  void Add(const std::string& name, std::vector<int64_t> shape, double scale, double mean = 0) {
    int64_t count = 1;
    for (const int64_t extent : shape) count *= extent;
    NamedTensor tensor;
    tensor.shape = std::move(shape);
    for (int64_t i = 0; i < count; ++i) {
      double sum = 0;  // of 12 uniforms: variance 1
      for (int j = 0; j < 12; ++j) sum += static_cast<double>(random_() >> 11) * 0x1p-53;
      tensor.values.push_back(static_cast<float>(mean + scale * (sum - 6.0)));
    }
    tensors[name] = std::move(tensor);
  }

  Tensors tensors;

 private:
  std::mt19937_64 random_;
};

// The tensors of a feature map ("t2r", "elu", "rfa", "hedgehog", "none"); `name` ends in
// "feature_map.".
inline void AddFeatureMap(const std::string& map, int groups, int features, int head_dim,
                          const std::string& name, WeightMaker* maker) {
  const double scale = 1.0 / std::sqrt(static_cast<double>(head_dim));
  if (map == "t2r") {
    maker->Add(name + "weight", {groups, features, head_dim}, scale);
    maker->Add(name + "bias", {groups, features}, 0.3, 0.2);
  } else if (map == "rfa") {
    maker->Add(name + "projection", {groups, features / 2, head_dim}, 1.0);
  } else if (map == "hedgehog") {
    maker->Add(name + "weight", {groups, features / 2, head_dim}, scale);
  }
}

// The tensors of a codebook.
inline void AddCodebook(int heads, int groups, int features, int head_dim, const std::string& name,
                        WeightMaker* maker) {
  maker->Add(name + "key_weight", {groups, features, head_dim}, 1.0);
  maker->Add(name + "key_bias", {groups, features}, 0.5);
  maker->Add(name + "query_weight", {groups, features, head_dim}, 1.0);
  maker->Add(name + "query_bias", {heads, features}, 0.5);
}

}  // namespace t2r::testing
