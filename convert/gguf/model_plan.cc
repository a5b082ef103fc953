#include "convert/gguf/model_plan.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "convert/error.h"
#include "convert/gguf/gguf_cursor.h"
#include "convert/gguf/metadata.h"
#include "convert/gguf/rope_scaling.h"

namespace t2r::convert {
namespace {

using Json = nlohmann::ordered_json;

// Far above any model there is, and small enough that products of a few of them fit 64 bits.
constexpr int64_t kMaxWidth = 1 << 22;
constexpr int64_t kMaxLayers = 4096;
constexpr int64_t kMaxHeads = 1 << 14;
constexpr int64_t kMaxHeadDim = 1 << 14;
constexpr int64_t kMaxPositions = int64_t{1} << 40;
constexpr int64_t kMaxTokenId = 1 << 26;

struct Family {
  const char* name;  // general.architecture
  const char* hf_class;
  bool interleaved;  // rows of q and k are in llama.cpp's order
  bool qkv_bias;     // biases of q, k and v (and not of the output) always
  bool qk_norm;      // RMS norms of each head's q and k
};
constexpr Family kFamilies[] = {
    {"llama", "LlamaForCausalLM", true, false, false},
    {"qwen2", "Qwen2ForCausalLM", false, true, false},
    {"qwen3", "Qwen3ForCausalLM", false, false, true},
};

// Keys (after "ARCHITECTURE.") of mathematics that these three classes do not have, with the number
// that changes nothing.
struct Neutral {
  const char* key;
  double value;
};
constexpr Neutral kNeutral[] = {
    {"expert_count", 0},
    {"logit_scale", 1},
    {"residual_scale", 1},
    {"embedding_scale", 1},
    {"use_parallel_residual", 0},
    {"attention.causal", 1},
    {"attention.clamp_kqv", 0},
    {"attention.max_alibi_bias", 0},
    {"attention.sliding_window", 0},
    {"attn_logit_softcapping", 0},
    {"final_logit_softcapping", 0},
    {"nextn_predict_layers", 0},
    {"pooling_type", 0},
};

struct Sizes {
  int64_t layers, hidden, inner, heads, kv_heads, head_dim, positions, vocabulary;
  double norm_eps;
};

std::string ShapeText(const std::vector<int64_t>& shape) {
  std::string text;
  for (const int64_t size : shape) text += (text.empty() ? "[" : ", ") + std::to_string(size);
  return text + "]";
}

const Family& FamilyOf(const GgufMetadata& metadata) {
  const std::string name = metadata.String("general.architecture");
  std::string names;
  for (const Family& family : kFamilies) {
    if (name == family.name) return family;
    names += (names.empty() ? "" : ", ") + std::string(family.name);
  }
  throw ConvertError("general.architecture is " + Printable(name) + "; supported are " + names);
}

// Parts of a model, adapters and projectors are files of their own.
void RefuseOtherFiles(const GgufMetadata& metadata) {
  const std::string type = metadata.String("general.type", "model");
  if (type != "model") {
    throw ConvertError("general.type is " + Printable(type) + "; only models are imported");
  }
  const int64_t parts = metadata.Integer("split.count", 0, INT64_MAX, 1);
  if (parts > 1) {
    throw ConvertError("split.count is " + std::to_string(parts) +
                       ": the file is one part of a model; join the parts first (llama.cpp's "
                       "llama-gguf-split --merge does)");
  }
}

void RefuseOtherMathematics(const GgufMetadata& metadata, const std::string& prefix) {
  for (const Neutral& neutral : kNeutral) {
    const auto value = metadata.AnyNumber(prefix + neutral.key);
    if (value.has_value() && *value != neutral.value) {
      throw ConvertError(prefix + neutral.key + " is " + Json(*value).dump() +
                         ", which is not supported");
    }
  }
  // The order of q's and k's rows that this name means is the one that llama.cpp reads.
  const std::string layout = metadata.String(prefix + "tensor_data_layout", "Meta AI original pth");
  if (layout != "Meta AI original pth") {
    throw ConvertError(prefix + "tensor_data_layout is " + Printable(layout) +
                       ", which is not supported");
  }
}

Sizes ReadSizes(const GgufMetadata& metadata, const std::string& prefix) {
  Sizes sizes = {};
  sizes.layers = metadata.Integer(prefix + "block_count", 1, kMaxLayers);
  sizes.hidden = metadata.Integer(prefix + "embedding_length", 1, kMaxWidth);
  sizes.inner = metadata.LayersInteger(prefix + "feed_forward_length", 1, kMaxWidth);
  sizes.heads = metadata.LayersInteger(prefix + "attention.head_count", 1, kMaxHeads);
  sizes.kv_heads =
      metadata.LayersInteger(prefix + "attention.head_count_kv", 1, kMaxHeads, sizes.heads);
  if (sizes.heads % sizes.kv_heads != 0) {
    throw ConvertError(prefix + "attention.head_count_kv is " + std::to_string(sizes.kv_heads) +
                       ", which does not divide attention.head_count " +
                       std::to_string(sizes.heads));
  }
  if (!metadata.Has(prefix + "attention.key_length") && sizes.hidden % sizes.heads != 0) {
    throw ConvertError(prefix + "attention.key_length is missing, and attention.head_count " +
                       std::to_string(sizes.heads) + " does not divide embedding_length " +
                       std::to_string(sizes.hidden));
  }
  sizes.head_dim = metadata.Integer(prefix + "attention.key_length", 1, kMaxHeadDim,
                                    std::max(int64_t{1}, sizes.hidden / sizes.heads));
  for (const char* key : {"attention.value_length", "rope.dimension_count"}) {
    const int64_t size = metadata.Integer(prefix + key, 1, kMaxHeadDim, sizes.head_dim);
    if (size != sizes.head_dim) {
      throw ConvertError(prefix + key + " is " + std::to_string(size) +
                         ", and a head's keys have " + std::to_string(sizes.head_dim) +
                         "; only equal sizes are supported");
    }
  }
  if (sizes.head_dim % 2 != 0) {
    throw ConvertError(prefix + "attention.key_length: heads have " +
                       std::to_string(sizes.head_dim) + " values; RoPE needs an even number");
  }
  sizes.positions = metadata.Integer(prefix + "context_length", 1, kMaxPositions);
  sizes.norm_eps = metadata.Number(prefix + "attention.layer_norm_rms_epsilon", 0, 1);
  return sizes;
}

// Takes tensors by name and remembers which were taken.
class Tensors {
 public:
  Tensors(const GgufFile& file, ModelPlan* plan) : file_(file), plan_(plan) {}

  const GgufTensor* Find(const std::string& name) const {
    const auto found = file_.tensors().find(name);
    return found == file_.tensors().end() ? nullptr : &found->second;
  }

  // Plans the tensor `name`, which must have `shape`, as `hf_name`.
  void Take(const std::string& name, const std::string& hf_name, const std::vector<int64_t>& shape,
            int64_t interleaved_heads = 0) {
    const GgufTensor* tensor = Find(name);
    if (tensor == nullptr) throw ConvertError("tensor " + name + " is missing");
    if (tensor->shape != shape) {
      throw ConvertError("tensor " + name + " has shape " + ShapeText(tensor->shape) +
                         ", the metadata ask for " + ShapeText(shape));
    }
    if (interleaved_heads > 0 && shape.size() == 1 && tensor->type->block_values > 1) {
      throw ConvertError("tensor " + name + " is a quantised bias, which is not supported");
    }
    taken_.insert(name);
    plan_->tensors.push_back({hf_name, shape, tensor, interleaved_heads});
  }
  void Ignore(const std::string& name) { taken_.insert(name); }

  void RefuseOthers(const std::string& architecture) const {
    for (const auto& [name, tensor] : file_.tensors()) {
      if (!taken_.contains(name)) {
        throw ConvertError("tensor " + Printable(name) + " has no place in a " + architecture +
                           " model");
      }
    }
  }

 private:
  const GgufFile& file_;
  ModelPlan* plan_;
  std::set<std::string, std::less<>> taken_;
};

// Which optional biases a model has: what layer 0 has, every layer must have.
struct Biases {
  bool qkv, output, mlp;
};

Biases FindBiases(const Family& family, const Tensors& tensors) {
  const auto has = [&](const char* name) {
    return tensors.Find("blk.0." + std::string(name) + ".bias") != nullptr;
  };
  Biases biases = {has("attn_q"), has("attn_output"), has("ffn_down")};
  if (family.qkv_bias) {
    biases.qkv = true;
    biases.output = biases.mlp = false;
  } else if (family.qk_norm) {
    biases = {};
  } else if (biases.qkv != biases.output) {
    throw ConvertError(std::string("tensor blk.0.") + (biases.qkv ? "attn_output" : "attn_q") +
                       ".bias is missing; a llama model has biases of q, k, v and the output, or "
                       "none of them");
  }
  return biases;
}

void TakeLayer(const Family& family, const Sizes& sizes, const Biases& biases, int64_t layer,
               Tensors* tensors) {
  const std::string from = "blk." + std::to_string(layer) + ".";
  const std::string to = "model.layers." + std::to_string(layer) + ".";
  const int64_t query = sizes.heads * sizes.head_dim;
  const int64_t key = sizes.kv_heads * sizes.head_dim;
  const auto linear = [&](const std::string& name, const std::string& hf_name, int64_t out,
                          int64_t in, bool bias, int64_t heads = 0) {
    tensors->Take(from + name + ".weight", to + hf_name + ".weight", {out, in}, heads);
    if (bias) tensors->Take(from + name + ".bias", to + hf_name + ".bias", {out}, heads);
  };
  tensors->Take(from + "attn_norm.weight", to + "input_layernorm.weight", {sizes.hidden});
  linear("attn_q", "self_attn.q_proj", query, sizes.hidden, biases.qkv,
         family.interleaved ? sizes.heads : 0);
  linear("attn_k", "self_attn.k_proj", key, sizes.hidden, biases.qkv,
         family.interleaved ? sizes.kv_heads : 0);
  linear("attn_v", "self_attn.v_proj", key, sizes.hidden, biases.qkv);
  linear("attn_output", "self_attn.o_proj", sizes.hidden, query, biases.output);
  if (family.qk_norm) {
    tensors->Take(from + "attn_q_norm.weight", to + "self_attn.q_norm.weight", {sizes.head_dim});
    tensors->Take(from + "attn_k_norm.weight", to + "self_attn.k_norm.weight", {sizes.head_dim});
  }
  tensors->Take(from + "ffn_norm.weight", to + "post_attention_layernorm.weight", {sizes.hidden});
  linear("ffn_gate", "mlp.gate_proj", sizes.inner, sizes.hidden, biases.mlp);
  linear("ffn_up", "mlp.up_proj", sizes.inner, sizes.hidden, biases.mlp);
  linear("ffn_down", "mlp.down_proj", sizes.hidden, sizes.inner, biases.mlp);
}

// The ids that end a text: of a turn and of a message too, where the file names them.
std::vector<int64_t> EndTokens(const GgufMetadata& metadata) {
  std::vector<int64_t> ids;
  for (const char* key : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                          "tokenizer.ggml.eom_token_id"}) {
    if (!metadata.Has(key)) continue;
    const int64_t id = metadata.Integer(key, 0, kMaxTokenId);
    if (std::find(ids.begin(), ids.end(), id) == ids.end()) ids.push_back(id);
  }
  return ids;
}

Json IdOrIds(const std::vector<int64_t>& ids) { return ids.size() == 1 ? Json(ids[0]) : Json(ids); }

void AddTokenIds(const GgufMetadata& metadata, Json* json) {
  if (metadata.Has("tokenizer.ggml.bos_token_id")) {
    (*json)["bos_token_id"] = metadata.Integer("tokenizer.ggml.bos_token_id", 0, kMaxTokenId);
  }
  const std::vector<int64_t> ends = EndTokens(metadata);
  if (!ends.empty()) (*json)["eos_token_id"] = IdOrIds(ends);
  if (metadata.Has("tokenizer.ggml.padding_token_id")) {
    (*json)["pad_token_id"] = metadata.Integer("tokenizer.ggml.padding_token_id", 0, kMaxTokenId);
  }
}

std::string ConfigJson(const Family& family, const Sizes& sizes, const Biases& biases, bool tied,
                       const Json& rope_scaling, const GgufMetadata& metadata, DType dtype) {
  Json json;
  json["architectures"] = {family.hf_class};
  json["model_type"] = family.name;
  json["vocab_size"] = sizes.vocabulary;
  json["hidden_size"] = sizes.hidden;
  json["intermediate_size"] = sizes.inner;
  json["num_hidden_layers"] = sizes.layers;
  json["num_attention_heads"] = sizes.heads;
  json["num_key_value_heads"] = sizes.kv_heads;
  json["head_dim"] = sizes.head_dim;
  json["hidden_act"] = "silu";
  json["max_position_embeddings"] = sizes.positions;
  json["rms_norm_eps"] = sizes.norm_eps;
  json["rope_theta"] =
      metadata.Number(std::string(family.name) + ".rope.freq_base", 1e-6, 1e30, 10000.0);
  if (!rope_scaling.is_null()) json["rope_scaling"] = rope_scaling;
  json["tie_word_embeddings"] = tied;
  if (!family.qkv_bias) json["attention_bias"] = biases.qkv;
  if (family.interleaved) json["mlp_bias"] = biases.mlp;
  if (!family.interleaved) json["use_sliding_window"] = false;
  AddTokenIds(metadata, &json);
  json["torch_dtype"] = NameOf(dtype);
  return json.dump(2) + "\n";
}

// How the file's maker asks for it to be sampled, beside the ids.
std::string GenerationConfigJson(const GgufMetadata& metadata) {
  Json json = Json::object();
  AddTokenIds(metadata, &json);
  const std::string prefix = "general.sampling.";
  const std::pair<const char*, const char*> kNumbers[] = {{"temp", "temperature"},
                                                          {"top_p", "top_p"},
                                                          {"min_p", "min_p"},
                                                          {"penalty_repeat", "repetition_penalty"}};
  for (const auto& [key, name] : kNumbers) {
    if (metadata.Has(prefix + key)) json[name] = metadata.Number(prefix + key, 0, 1e6);
  }
  if (metadata.Has(prefix + "top_k")) {
    json["top_k"] = metadata.Integer(prefix + "top_k", 0, INT32_MAX);
  }
  if (json.contains("temperature")) json["do_sample"] = json["temperature"] > 0;
  return json.dump(2) + "\n";
}

}  // namespace

ModelPlan PlanModel(const GgufFile& file, DType dtype) {
  const GgufMetadata metadata(file);
  ModelPlan plan;
  Tensors tensors(file, &plan);
  RefuseOtherFiles(metadata);
  const Family& family = FamilyOf(metadata);
  plan.architecture = family.name;
  const std::string prefix = plan.architecture + ".";
  RefuseOtherMathematics(metadata, prefix);
  Sizes sizes = ReadSizes(metadata, prefix);

  const GgufTensor* embedding = tensors.Find("token_embd.weight");
  if (embedding != nullptr) sizes.vocabulary = embedding->shape[0];
  plan.vocabulary = sizes.vocabulary;
  tensors.Take("token_embd.weight", "model.embed_tokens.weight", {sizes.vocabulary, sizes.hidden});
  const Biases biases = FindBiases(family, tensors);
  for (int64_t i = 0; i < sizes.layers; ++i) TakeLayer(family, sizes, biases, i, &tensors);
  tensors.Take("output_norm.weight", "model.norm.weight", {sizes.hidden});
  const bool tied = tensors.Find("output.weight") == nullptr;
  if (!tied) tensors.Take("output.weight", "lm_head.weight", {sizes.vocabulary, sizes.hidden});
  const GgufTensor* factors = tensors.Find("rope_freqs.weight");
  tensors.Ignore("rope_freqs.weight");
  tensors.RefuseOthers(plan.architecture);

  const RopeSettings rope = {metadata.Number(prefix + "rope.freq_base", 1e-6, 1e30, 10000.0),
                             sizes.head_dim};
  const Json scaling = RopeScalingJson(metadata, prefix, rope, factors);
  plan.config_json = ConfigJson(family, sizes, biases, tied, scaling, metadata, dtype);
  plan.generation_config_json = GenerationConfigJson(metadata);
  std::sort(plan.tensors.begin(), plan.tensors.end(),
            [](const PlannedTensor& a, const PlannedTensor& b) {
              return a.source->data.data() < b.source->data.data();
            });
  return plan;
}

}  // namespace t2r::convert
