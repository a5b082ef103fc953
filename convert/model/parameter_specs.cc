#include "convert/model/parameter_specs.h"

#include <utility>

#include "convert/error.h"

namespace t2r::convert {
namespace {

class SpecList {
 public:
  explicit SpecList(const ModelConfig& config) : config_(config) {}

  void Table(std::string name, int64_t rows, int64_t columns) {
    Add(std::move(name), {rows, columns});
  }
  void Positions(std::string name, bool learned) {
    Add(std::move(name), {config_.max_position_embeddings, config_.hidden_size});
    specs_.back().computed = specs_.back().frozen = !learned;
  }
  // No weight: zero where the file has none.
  void Buffer(std::string name, int64_t rows, int64_t columns) {
    Add(std::move(name), {rows, columns});
    specs_.back().computed = specs_.back().frozen = true;
  }
  void Vector(std::string name, int64_t size) { Add(std::move(name), {size}); }
  void Matrix(std::string name, int64_t rows, int64_t columns) {
    Add(std::move(name), {rows, columns});
    specs_.back().decay = true;
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
  void FeatureMap(const AttentionSite& site) {
    if (!IsLinear(config_, site)) return;
    const auto& linear = config_.linear_attention.value();
    const std::string prefix = AttentionPrefix(config_, site) + "feature_map.";
    const LinearSizes sizes = linear.sizes(site.layer, site.cross);
    const int64_t groups = config_.kv_heads, d = config_.head_dim, k = sizes.features;
    const auto add = [this](std::string name, std::vector<int64_t> shape) {
      Add(std::move(name), std::move(shape));
      specs_.back().feature_map = true;
    };
    switch (linear.feature_map) {
      case FeatureMapKind::kT2r:
        add(prefix + "weight", {groups, k, d});
        add(prefix + "bias", {groups, k});
        break;
      case FeatureMapKind::kElu:
        break;
      case FeatureMapKind::kRfa:
        add(prefix + "projection", {groups, k / 2, d});
        break;
      case FeatureMapKind::kHedgehog:
        add(prefix + "weight", {groups, k / 2, d});
        break;
      case FeatureMapKind::kCodebook:
        add(prefix + "key_weight", {groups, k, d});
        add(prefix + "key_bias", {groups, k});
        add(prefix + "query_weight", {groups, k, d});
        add(prefix + "query_bias", {config_.heads, k});
        break;
      case FeatureMapKind::kNone:
        break;
    }
    const bool codebook = linear.feature_map == FeatureMapKind::kCodebook;
    const bool map = linear.feature_map != FeatureMapKind::kNone;
    if (sizes.window > 0 && map && !codebook) add(prefix + "far_bias", {config_.heads});
    if (!site.cross && map && (sizes.window > 0 || codebook)) {
      add(prefix + "log_decay", {groups});
      specs_.back().computed = specs_.back().frozen = true;
    }
  }
  std::vector<ParameterSpec> Take() { return std::move(specs_); }

 private:
  void Add(std::string name, std::vector<int64_t> shape) {
    ParameterSpec spec;
    spec.name = std::move(name);
    spec.shape = std::move(shape);
    specs_.push_back(std::move(spec));
  }

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
    list.FeatureMap({i, false});
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
  list.Positions("transformer.wpe.weight", /*learned=*/true);
  for (int i = 0; i < c.layers; ++i) {
    const std::string layer = "transformer.h." + std::to_string(i) + ".";
    list.Norm(layer + "ln_1", true);
    list.Conv1d(layer + "attn.c_attn", c.hidden_size, 3 * inner);
    list.Conv1d(layer + "attn.c_proj", inner, c.hidden_size);
    list.FeatureMap({i, false});
    list.Norm(layer + "ln_2", true);
    list.Conv1d(layer + "mlp.c_fc", c.hidden_size, c.intermediate_size);
    list.Conv1d(layer + "mlp.c_proj", c.intermediate_size, c.hidden_size);
  }
  list.Norm("transformer.ln_f", true);
  if (!c.tie_word_embeddings) list.Table("lm_head.weight", c.vocab_size, c.hidden_size);
  return list.Take();
}

// What one side of a Marian model has: embeddings, layers (cross attention only in the decoder).
void MarianSide(const ModelConfig& c, const std::string& side, int layers, int64_t inner,
                SpecList* list) {
  const bool decoder = side == "decoder";
  const auto& both = c.encoder_decoder.value();
  const std::string model = "model." + side + ".";
  if (!both.share_embeddings) {
    list->Table(model + "embed_tokens.weight", decoder ? c.vocab_size : both.source_vocab_size,
                c.hidden_size);
  }
  list->Positions(model + "embed_positions.weight", both.learned_positions);
  const auto attention = [&](const std::string& name) {
    for (const char* part : {"q_proj", "k_proj", "v_proj", "out_proj"}) {
      list->Linear(name + part, c.hidden_size, c.hidden_size, true);
    }
  };
  for (int i = 0; i < layers; ++i) {
    const std::string layer = model + "layers." + std::to_string(i) + ".";
    attention(layer + "self_attn.");
    if (decoder) list->FeatureMap({i, false});
    list->Norm(layer + "self_attn_layer_norm", true);
    if (decoder) {
      attention(layer + "encoder_attn.");
      list->FeatureMap({i, true});
      list->Norm(layer + "encoder_attn_layer_norm", true);
    }
    list->Linear(layer + "fc1", inner, c.hidden_size, true);
    list->Linear(layer + "fc2", c.hidden_size, inner, true);
    list->Norm(layer + "final_layer_norm", true);
  }
  if (both.final_norm) list->Norm(model + "layer_norm", true);
}

std::vector<ParameterSpec> MarianSpecs(const ModelConfig& c) {
  SpecList list(c);
  const auto& both = c.encoder_decoder.value();
  if (both.share_embeddings) list.Table("model.shared.weight", c.vocab_size, c.hidden_size);
  MarianSide(c, "encoder", both.encoder_layers, both.encoder_intermediate_size, &list);
  MarianSide(c, "decoder", c.layers, c.intermediate_size, &list);
  if (!c.tie_word_embeddings) list.Table("lm_head.weight", c.vocab_size, c.hidden_size);
  list.Buffer("final_logits_bias", 1, c.vocab_size);
  return list.Take();
}

}  // namespace

std::vector<AttentionSite> AttentionSites(const ModelConfig& config) {
  std::vector<AttentionSite> sites;
  for (int i = 0; i < config.layers; ++i) sites.push_back({i, false});
  if (config.encoder_decoder.has_value()) {
    for (int i = 0; i < config.layers; ++i) sites.push_back({i, true});
  }
  return sites;
}

bool IsLinear(const ModelConfig& config, const AttentionSite& site) {
  const auto& types =
      site.cross ? config.encoder_decoder.value().cross_layer_types : config.layer_types;
  return types[static_cast<size_t>(site.layer)] == LayerType::kLinearAttention;
}

std::string Describe(const AttentionSite& site) {
  return (site.cross ? "cross attention of layer " : "layer ") + std::to_string(site.layer);
}

std::string AttentionPrefix(const ModelConfig& config, const AttentionSite& site) {
  const std::string i = std::to_string(site.layer);
  switch (config.architecture) {
    case Architecture::kLlama:
      return "model.layers." + i + ".self_attn.";
    case Architecture::kGpt2:
      return "transformer.h." + i + ".attn.";
    case Architecture::kMarian:
      return "model.decoder.layers." + i + (site.cross ? ".encoder_attn." : ".self_attn.");
  }
  throw ConvertError("unknown architecture");
}

std::vector<ParameterSpec> ParameterSpecs(const ModelConfig& config) {
  switch (config.architecture) {
    case Architecture::kLlama:
      return LlamaSpecs(config);
    case Architecture::kGpt2:
      return Gpt2Specs(config);
    case Architecture::kMarian:
      return MarianSpecs(config);
  }
  throw ConvertError("unknown architecture");
}

bool IsLogDecay(const ParameterSpec& spec) { return spec.name.ends_with(".log_decay"); }

std::vector<ParameterSpec> Trainable(std::vector<ParameterSpec> specs,
                                     const TrainableOptions& options) {
  const size_t given = specs.size();
  for (size_t i = 0; i < given; ++i) {
    const bool encoder = specs[i].name.starts_with("model.encoder.");
    specs[i].frozen |= options.freeze_encoder && encoder;
    if (IsLogDecay(specs[i])) specs[i].frozen = !options.decay;
    if (!specs[i].feature_map && options.only != TrainOnly::kAll) {
      const bool attention = specs[i].name.find("attn.") != std::string::npos;
      specs[i].frozen |= options.only == TrainOnly::kNew || !attention;
    }
    if (options.lora_rank == 0) continue;
    if (specs[i].decay && !specs[i].frozen) {
      for (const bool second : {false, true}) {
        ParameterSpec factor;
        factor.name = specs[i].name + (second ? ".lora_b" : ".lora_a");
        factor.shape = second ? std::vector<int64_t>{specs[i].shape[0], options.lora_rank}
                              : std::vector<int64_t>{options.lora_rank, specs[i].shape[1]};
        factor.lora = true;
        specs.push_back(std::move(factor));
      }
    }
    specs[i].frozen |= !specs[i].feature_map;
  }
  return specs;
}

}  // namespace t2r::convert
