#include "convert/model/parameters.h"

#include <torch/torch.h>

#include <stdexcept>
#include <utility>

namespace t2r::convert {
namespace {

int64_t Elements(const ParameterSpec& spec) {
  int64_t n = 1;
  for (const int64_t d : spec.shape) n *= d;
  return n;
}

int64_t TotalElements(const std::vector<ParameterSpec>& specs) {
  int64_t total = 0;
  for (const auto& spec : specs) total += Elements(spec);
  return total;
}

}  // namespace

Parameters::Parameters(std::vector<ParameterSpec> specs, torch::Device device)
    : Parameters(specs, torch::zeros({TotalElements(specs)},
                                     torch::TensorOptions(torch::kFloat32).device(device))) {}

Parameters Parameters::Replica(const Parameters& values) { return {values.specs_, values.flat_}; }

Parameters::Parameters(std::vector<ParameterSpec> specs, torch::Tensor flat)
    : specs_(std::move(specs)), flat_(std::move(flat)), flat_grad_(torch::zeros_like(flat_)) {
  int64_t offset = 0;
  for (const auto& spec : specs_) {
    const int64_t n = Elements(spec);
    torch::Tensor value = flat_.narrow(0, offset, n).view(spec.shape).detach();
    if (!spec.frozen) {
      value.set_requires_grad(true);
      value.mutable_grad() = flat_grad_.narrow(0, offset, n).view(spec.shape);
    }
    by_name_.emplace(spec.name, std::move(value));
    offset += n;
  }
}

const torch::Tensor& Parameters::Get(std::string_view name) const {
  const auto it = by_name_.find(name);
  if (it == by_name_.end()) throw std::out_of_range("no parameter " + std::string(name));
  return it->second;
}

std::vector<Range> LearningRanges(const Parameters& parameters) {
  std::vector<Range> ranges;
  int64_t at = 0;
  for (const auto& spec : parameters.specs()) {
    const int64_t count = Elements(spec);
    if (!spec.frozen) {
      if (ranges.empty() || ranges.back().begin + ranges.back().count != at) {
        ranges.push_back({at, 0});
      }
      ranges.back().count += count;
    }
    at += count;
  }
  return ranges;
}

}  // namespace t2r::convert
