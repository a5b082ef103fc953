#include "convert/model/networks.h"

#include <torch/torch.h>

#include "convert/error.h"
#include "engine/model/architectures.h"
#include "engine/model/rope.h"

namespace t2r::convert {

using torch::Tensor;

namespace {

constexpr std::pair<const Architecture*, Network> kNetworks[] = {
    {&kLlamaArchitecture, LlamaHidden},
    {&kGpt2Architecture, Gpt2Hidden},
    {&kGptNeoxArchitecture, GptNeoxHidden},
    {&kMarianArchitecture, MarianHidden},
};

}  // namespace

Network NetworkOf(const Architecture& architecture) {
  for (const auto& [known, network] : kNetworks) {
    if (known == &architecture) return network;
  }
  throw ConvertError(std::string("models of the architecture ") + architecture.name +
                     " cannot be trained");
}

Tensor Activate(ActivationKind kind, const Tensor& x) {
  switch (kind) {
    case ActivationKind::kGeluTanh:
      return torch::gelu(x, "tanh");
    case ActivationKind::kGelu:
      return torch::gelu(x);
    case ActivationKind::kRelu:
      return torch::relu(x);
    case ActivationKind::kSilu:
      return torch::silu(x);
  }
  throw ConvertError("unknown activation");
}

Tensor Layers::Value(const std::string& name) const {
  const Tensor& value = parameters_.Get(name);
  if (lora_scale_ == 0 || !parameters_.Has(name + ".lora_a")) return value;
  return torch::addmm(value, parameters_.Get(name + ".lora_b"), parameters_.Get(name + ".lora_a"),
                      1.0, lora_scale_);
}

Tensor Layers::Linear(const std::string& name, const Tensor& x) const {
  const std::string bias = name + ".bias";
  const Tensor weight = Value(name + ".weight");
  if (products_ != torch::kFloat32) {
    const Tensor out = torch::linear(x.to(products_), weight.to(products_)).to(torch::kFloat32);
    return parameters_.Has(bias) ? out + parameters_.Get(bias) : out;
  }
  return torch::linear(x, weight, parameters_.Has(bias) ? parameters_.Get(bias) : Tensor());
}

Tensor Layers::RmsNorm(const std::string& name, const Tensor& x) const {
  const Tensor inverse = (x.square().mean({-1}, /*keepdim=*/true) + config_.norm_eps).rsqrt();
  return x * inverse * parameters_.Get(name + ".weight");
}

Tensor Layers::LayerNorm(const std::string& name, const Tensor& x) const {
  return torch::layer_norm(x, {x.size(-1)}, parameters_.Get(name + ".weight"),
                           parameters_.Get(name + ".bias"), config_.norm_eps);
}

Tensor Layers::Conv1d(const std::string& name, const Tensor& x) const {
  const Tensor weight = Value(name + ".weight");
  return torch::addmm(parameters_.Get(name + ".bias"), x.reshape({-1, weight.size(0)}), weight)
      .view({x.size(0), x.size(1), weight.size(1)});
}

std::pair<Tensor, Tensor> Layers::RopeTable(int64_t length, int64_t last) const {
  const Tensor positions = torch::arange(length, torch::kFloat64).clamp_max(last);
  const Tensor angles =
      torch::outer(positions, inverse_frequencies_).view({length, 1, 1, config_.rotary_dim / 2});
  const double factor = RopeFactor(config_);
  const auto to = [&](const Tensor& x) {
    return (x * factor).to(torch::kFloat32).to(parameters_.device());
  };
  return {to(angles.cos()), to(angles.sin())};
}

Tensor Layers::Rope(const Tensor& x, const std::pair<Tensor, Tensor>& table) const {
  const int64_t half = config_.rotary_dim / 2;
  const Tensor a = x.narrow(-1, 0, half), b = x.narrow(-1, half, half);
  const auto& [cos, sin] = table;
  return torch::cat(
      {a * cos - b * sin, b * cos + a * sin, x.narrow(-1, 2 * half, x.size(-1) - 2 * half)}, -1);
}

}  // namespace t2r::convert
