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

// A product of factors rounded to a narrow type, its result and all gradients float32. What is
// rounded is kept for the backward pass, and the weight's gradient is added to the parameter's own
// as it comes out of the product: autograd would widen it into a tensor of its own first.
class NarrowLinear : public torch::autograd::Function<NarrowLinear> {
 public:
  // x [..., inputs] and the same rounded, weight [outputs, inputs]: a parameter.
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& x,
                        const Tensor& narrow, const Tensor& weight) {
    const Tensor narrow_weight = weight.to(narrow.dtype());
    context->save_for_backward({narrow, narrow_weight, weight});
    context->saved_data["x"] = x.requires_grad();
    return torch::linear(narrow, narrow_weight).to(torch::kFloat32);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const Tensor &narrow = saved[0], &narrow_weight = saved[1], &weight = saved[2];
    const Tensor dy = gradients[0].reshape({-1, weight.size(0)}).to(narrow.dtype());
    Tensor dx;
    if (context->saved_data["x"].toBool()) {
      dx = torch::mm(dy, narrow_weight).to(torch::kFloat32).view(narrow.sizes());
    }
    if (weight.requires_grad()) {
      Tensor sum = weight.grad();
      sum.add_(torch::mm(dy.t(), narrow.reshape({-1, weight.size(1)})));
    }
    return {dx, Tensor(), Tensor()};
  }
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
  const std::string matrix = name + ".weight";
  const Tensor weight = parameters_.Get(matrix);
  const Tensor bias = parameters_.Has(name + ".bias") ? parameters_.Get(name + ".bias") : Tensor();
  Tensor out;
  if (products_ != torch::kFloat32) {
    if (!x.is_same(wide_)) {  // q, k and v read the same, as gate and up do
      wide_ = x;
      narrow_ = x.detach().to(products_);
    }
    out = NarrowLinear::apply(x, narrow_, weight);
    if (bias.defined()) out = out + bias;
  } else {
    out = torch::linear(x, weight, bias);
  }
  if (lora_scale_ == 0 || !parameters_.Has(matrix + ".lora_a")) return out;
  // Beside the product, not within the weight: a gradient by the whole weight is never formed.
  return out + torch::linear(torch::linear(x, parameters_.Get(matrix + ".lora_a")),
                             parameters_.Get(matrix + ".lora_b")) *
                   lora_scale_;
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
