// A model's trainable tensors under their file names, in one flat buffer.
//
// Every parameter is a leaf tensor that views a part of flat(), and its gradient views the same
// part of flat_grad(). So the optimizer, gradient clipping, checkpoints and sums over replicas each
// work on one tensor, however many parameters there are.
#pragma once

#include <torch/types.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "convert/model/parameter_specs.h"

namespace t2r::convert {

class Parameters {
 public:
  // All zero. float32, on `device`.
  Parameters(std::vector<ParameterSpec> specs, torch::Device device);
  // Shares the values of `values`, with gradients of its own: a replica for another thread.
  static Parameters Replica(const Parameters& values);

  // The tensor of this name; throws std::out_of_range where there is none.
  const torch::Tensor& Get(std::string_view name) const;
  bool Has(std::string_view name) const { return by_name_.find(name) != by_name_.end(); }

  const std::vector<ParameterSpec>& specs() const { return specs_; }
  // [count()], the values; in-place changes (without grad mode) change every parameter.
  const torch::Tensor& flat() const { return flat_; }
  // [count()], the gradients that backward() adds to.
  const torch::Tensor& flat_grad() const { return flat_grad_; }
  int64_t count() const { return flat_.numel(); }
  torch::Device device() const { return flat_.device(); }

 private:
  Parameters(std::vector<ParameterSpec> specs, torch::Tensor flat);

  std::vector<ParameterSpec> specs_;
  torch::Tensor flat_, flat_grad_;
  std::map<std::string, torch::Tensor, std::less<>> by_name_;
};

// Part of the flat buffers.
struct Range {
  int64_t begin = 0, count = 0;

  // The part-th of `parts` about equal parts, all of them together the whole.
  Range Part(size_t part, size_t parts) const {
    const auto at = [&](size_t i) {
      return count * static_cast<int64_t>(i) / static_cast<int64_t>(parts);
    };
    return {begin + at(part), at(part + 1) - at(part)};
  }
};

// What of the flat buffers learns, neighbours together.
std::vector<Range> LearningRanges(const Parameters& parameters);

}  // namespace t2r::convert
