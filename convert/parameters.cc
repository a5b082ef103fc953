#include "convert/parameters.h"

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

class SpecList {
 public:
  explicit SpecList(const ModelConfig& config) : config_(config) {}

  void Matrix(std::string name, int64_t rows, int64_t columns) {
    specs_.push_back({std::move(name), {rows, columns}, true, false});
  }
  void Table(std::string name, int64_t rows, int64_t columns) {
    specs_.push_back({std::move(name), {rows, columns}, false, false});
  }
  void Vector(std::string name, int64_t size) {
    specs_.push_back({std::move(name), {size}, false, false});
  }
  // A projection in the layout of torch's Linear, [out, in].
  void Linear(const std::string& name, int64_t out, int64_t in, bool bias) {
    Matrix(name + ".weight", out, in);
    if (bias) Vector(name + ".bias", out);
  }
  // A projection in the layout of GPT-2's Conv1D, [in, out].
  void Conv1d(const std::string& name, int64_t in, int64_t out) {
    Matrix(name + ".weight", in, out);
    Vector(name + ".bias", out);
  }
  void Norm(const std::string& name, bool bias) {
    Vector(name + ".weight", config_.hidden_size);
    if (bias) Vector(name + ".bias", config_.hidden_size);
  }
  void FeatureMap(int layer) {
    if (config_.layer_types[layer] != LayerType::kLinearAttention) return;
    const auto& linear = config_.linear_attention.value();
    const std::string prefix = AttentionPrefix(config_, layer) + "feature_map.";
    const int64_t groups = config_.kv_heads, d = config_.head_dim, k = linear.feature_size;
    switch (linear.feature_map) {
      case FeatureMapKind::kT2r:
        specs_.push_back({prefix + "weight", {groups, k, d}, false, true});
        specs_.push_back({prefix + "bias", {groups, k}, false, true});
        break;
      case FeatureMapKind::kElu:
        break;
      case FeatureMapKind::kRfa:
        specs_.push_back({prefix + "projection", {groups, k / 2, d}, false, true});
        break;
      case FeatureMapKind::kHedgehog:
        specs_.push_back({prefix + "weight", {groups, k / 2, d}, false, true});
        break;
    }
  }
  std::vector<ParameterSpec> Take() { return std::move(specs_); }

 private:
  const ModelConfig& config_;
  std::vector<ParameterSpec> specs_;
};

std::vector<ParameterSpec> LlamaSpecs(const ModelConfig& c) {
  SpecList list(c);
  const int64_t q = static_cast<int64_t>(c.heads) * c.head_dim;
  const int64_t kv = static_cast<int64_t>(c.kv_heads) * c.head_dim;
  list.Table("model.embed_tokens.weight", c.vocab_size, c.hidden_size);
  for (int i = 0; i < c.layers; ++i) {
    const std::string layer = "model.layers." + std::to_string(i) + ".";
    list.Norm(layer + "input_layernorm", false);
    list.Linear(layer + "self_attn.q_proj", q, c.hidden_size, c.qkv_bias);
    list.Linear(layer + "self_attn.k_proj", kv, c.hidden_size, c.qkv_bias);
    list.Linear(layer + "self_attn.v_proj", kv, c.hidden_size, c.qkv_bias);
    list.Linear(layer + "self_attn.o_proj", c.hidden_size, q, c.attention_out_bias);
    list.FeatureMap(i);
    list.Norm(layer + "post_attention_layernorm", false);
    list.Linear(layer + "mlp.gate_proj", c.intermediate_size, c.hidden_size, c.mlp_bias);
    list.Linear(layer + "mlp.up_proj", c.intermediate_size, c.hidden_size, c.mlp_bias);
    list.Linear(layer + "mlp.down_proj", c.hidden_size, c.intermediate_size, c.mlp_bias);
  }
  list.Norm("model.norm", false);
  if (!c.tie_word_embeddings) list.Table("lm_head.weight", c.vocab_size, c.hidden_size);
  return list.Take();
}

std::vector<ParameterSpec> Gpt2Specs(const ModelConfig& c) {
  SpecList list(c);
  const int64_t inner = static_cast<int64_t>(c.heads) * c.head_dim;
  list.Table("transformer.wte.weight", c.vocab_size, c.hidden_size);
  list.Table("transformer.wpe.weight", c.max_position_embeddings, c.hidden_size);
  for (int i = 0; i < c.layers; ++i) {
    const std::string layer = "transformer.h." + std::to_string(i) + ".";
    list.Norm(layer + "ln_1", true);
    list.Conv1d(layer + "attn.c_attn", c.hidden_size, 3 * inner);
    list.Conv1d(layer + "attn.c_proj", inner, c.hidden_size);
    list.FeatureMap(i);
    list.Norm(layer + "ln_2", true);
    list.Conv1d(layer + "mlp.c_fc", c.hidden_size, c.intermediate_size);
    list.Conv1d(layer + "mlp.c_proj", c.intermediate_size, c.hidden_size);
  }
  list.Norm("transformer.ln_f", true);
  if (!c.tie_word_embeddings) list.Table("lm_head.weight", c.vocab_size, c.hidden_size);
  return list.Take();
}

}  // namespace

std::string AttentionPrefix(const ModelConfig& config, int layer) {
  const std::string i = std::to_string(layer);
  return config.architecture == Architecture::kLlama ? "model.layers." + i + ".self_attn."
                                                     : "transformer.h." + i + ".attn.";
}

std::vector<ParameterSpec> ParameterSpecs(const ModelConfig& config) {
  return config.architecture == Architecture::kLlama ? LlamaSpecs(config) : Gpt2Specs(config);
}

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
    value.set_requires_grad(true);
    value.mutable_grad() = flat_grad_.narrow(0, offset, n).view(spec.shape);
    by_name_.emplace(spec.name, std::move(value));
    offset += n;
  }
}

const torch::Tensor& Parameters::Get(std::string_view name) const {
  const auto it = by_name_.find(name);
  if (it == by_name_.end()) throw std::out_of_range("no parameter " + std::string(name));
  return it->second;
}

torch::Tensor Parameters::DecayMask() const {
  torch::Tensor mask = torch::zeros_like(flat_);
  int64_t offset = 0;
  for (const auto& spec : specs_) {
    const int64_t n = Elements(spec);
    if (spec.decay) mask.narrow(0, offset, n).fill_(1.0);
    offset += n;
  }
  return mask;
}

}  // namespace t2r::convert
