#include "testing/random_model.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/checkpoint/safetensors.h"
#include "testing/shapes.h"

namespace t2r::bench {
namespace {

int FeatureSize(const Shape& shape, const RandomModelOptions& options) {
  return options.feature_map == "elu" ? shape.head_dim : options.feature_size;
}

bool IsLinear(const RandomModelOptions& options, int layer) {
  return options.feature_map != "none" &&
         std::find(options.keep_full.begin(), options.keep_full.end(), layer) ==
             options.keep_full.end();
}

absl::Status Check(const RandomModelOptions& options) {
  const Shape* shape = FindShape(options.shape);
  if (shape == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat("shape \"", options.shape,
                                                   "\" is not known; there are ",
                                                   absl::StrJoin(ShapeNames(), ", ")));
  }
  static const std::set<std::string> kMaps = {"t2r", "elu", "rfa", "hedgehog", "none"};
  if (kMaps.count(options.feature_map) == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("feature map \"", options.feature_map,
                     "\" is not known; there are t2r, elu, rfa, hedgehog and none"));
  }
  const bool halves = options.feature_map == "rfa" || options.feature_map == "hedgehog";
  if (options.feature_size < 1 || (halves && options.feature_size % 2 != 0)) {
    return absl::InvalidArgumentError(absl::StrCat("feature size is ", options.feature_size, "; ",
                                                   options.feature_map, " needs a positive",
                                                   halves ? " even" : "", " one"));
  }
  for (const int layer : options.keep_full) {
    if (layer < 0 || layer >= shape->layers) {
      return absl::InvalidArgumentError(absl::StrCat("there is no layer ", layer, " to keep; ",
                                                     options.shape, " has ", shape->layers));
    }
  }
  if (options.dtype == DType::kFloat16) {
    return absl::InvalidArgumentError("dtype must be float32 or bfloat16");
  }
  return absl::OkStatus();
}

nlohmann::ordered_json Config(const Shape& shape, const RandomModelOptions& options) {
  nlohmann::ordered_json config;
  if (shape.gpt2()) {
    config = {{"architectures", {"GPT2LMHeadModel"}},
              {"model_type", "gpt2"},
              {"n_embd", shape.hidden},
              {"n_layer", shape.layers},
              {"n_head", shape.heads},
              {"n_inner", shape.inner},
              {"n_positions", shape.positions},
              {"layer_norm_epsilon", 1e-5},
              {"activation_function", "gelu_new"}};
  } else {
    config = {{"architectures", {"LlamaForCausalLM"}},
              {"model_type", "llama"},
              {"hidden_size", shape.hidden},
              {"num_hidden_layers", shape.layers},
              {"num_attention_heads", shape.heads},
              {"num_key_value_heads", shape.kv_heads},
              {"head_dim", shape.head_dim},
              {"intermediate_size", shape.inner},
              {"max_position_embeddings", shape.positions},
              {"rms_norm_eps", 1e-5},
              {"rope_theta", shape.rope_theta},
              {"hidden_act", "silu"}};
    if (shape.llama3_rope) {
      config["rope_scaling"] = {{"rope_type", "llama3"},
                                {"factor", 32.0},
                                {"low_freq_factor", 1.0},
                                {"high_freq_factor", 4.0},
                                {"original_max_position_embeddings", 8192}};
    }
  }
  config["vocab_size"] = shape.vocab;
  config["tie_word_embeddings"] = shape.tied;
  config["torch_dtype"] = NameOf(options.dtype);
  if (options.feature_map == "none") return config;
  auto types = nlohmann::ordered_json::array();
  for (int layer = 0; layer < shape.layers; ++layer) {
    types.push_back(IsLinear(options, layer) ? "linear_attention" : "full_attention");
  }
  config["layer_types"] = types;
  const bool elu = options.feature_map == "elu";
  config["linear_attention"] = {{"feature_map", options.feature_map},
                                {"feature_size", FeatureSize(shape, options)},
                                {"normalizer", elu ? "add" : "clamp"},
                                {"eps", elu ? 1e-6 : 1e-2},
                                {"query_scale", 1 / std::sqrt(double{1} * shape.head_dim)}};
  return config;
}

// Draws named tensors and keeps their bytes.
class Weights {
 public:
  Weights(DType dtype, uint64_t seed) : dtype_(dtype), seed_(seed) {}

  // Independent values around `mean`.
  void Add(const std::string& name, std::vector<int64_t> shape, double deviation, double mean = 0) {
    HostTensor tensor{nullptr, dtype_, std::move(shape)};
    const int64_t count = tensor.elements();
    std::vector<char>& bytes = bytes_[name];
    bytes.resize(count * SizeOf(dtype_));
    uint64_t state = seed_;
    for (const char c : name) state = state * 0x100000001b3ULL + static_cast<unsigned char>(c);
    for (int64_t i = 0; i < count; ++i) {
      const auto value = static_cast<float>(mean + deviation * Draw(&state));
      if (dtype_ == DType::kBFloat16) {
        const uint16_t bits = FloatToBFloat16(value);
        std::memcpy(bytes.data() + 2 * i, &bits, 2);
      } else {
        std::memcpy(bytes.data() + 4 * i, &value, 4);
      }
    }
    tensor.data = bytes.data();
    tensors_[name] = std::move(tensor);
  }
  void Norm(const std::string& name, int width, bool bias) {
    Add(name + ".weight", {width}, 0.1, 1);
    if (bias) Add(name + ".bias", {width}, 0.1);
  }
  // [out, in], as Linear stores it.
  void Linear(const std::string& name, int out, int in) {
    Add(name + ".weight", {out, in}, 1 / std::sqrt(double{1} * in));
  }
  // [in, out] and a bias, as GPT-2's Conv1D stores it.
  void Conv1d(const std::string& name, int in, int out) {
    Add(name + ".weight", {in, out}, 1 / std::sqrt(double{1} * in));
    Add(name + ".bias", {out}, 0.1);
  }
  const std::map<std::string, HostTensor, std::less<>>& tensors() const { return tensors_; }

 private:
  // Mean 0, variance 1, bell-shaped: the sum of four uniforms, all from one step of SplitMix64.
  static double Draw(uint64_t* state) {
    uint64_t z = (*state += 0x9e3779b97f4a7c15ULL);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    z ^= z >> 31;
    const uint64_t sum = (z & 0xffff) + ((z >> 16) & 0xffff) + ((z >> 32) & 0xffff) + (z >> 48);
    return (static_cast<double>(sum) - 131070.0) * (1.7320508075688772 / 65536);
  }

  DType dtype_;
  uint64_t seed_;
  std::map<std::string, std::vector<char>> bytes_;
  std::map<std::string, HostTensor, std::less<>> tensors_;
};

void AddFeatureMap(const Shape& shape, const RandomModelOptions& options, const std::string& prefix,
                   Weights* w) {
  const int64_t g = shape.kv_heads;
  const int64_t k = options.feature_size;
  const int64_t d = shape.head_dim;
  const double deviation = 1 / std::sqrt(static_cast<double>(d));
  if (options.feature_map == "t2r") {
    w->Add(prefix + ".weight", {g, k, d}, deviation);
    w->Add(prefix + ".bias", {g, k}, 0.1);
  } else if (options.feature_map == "hedgehog") {
    w->Add(prefix + ".weight", {g, k / 2, d}, deviation);
  } else if (options.feature_map == "rfa") {
    w->Add(prefix + ".projection", {g, k / 2, d}, 1);
  }
}

void AddLlama(const Shape& shape, const RandomModelOptions& options, Weights* w) {
  w->Add("model.embed_tokens.weight", {shape.vocab, shape.hidden}, 0.05);
  const int q = shape.heads * shape.head_dim;
  const int kv = shape.kv_heads * shape.head_dim;
  for (int i = 0; i < shape.layers; ++i) {
    const std::string layer = absl::StrCat("model.layers.", i);
    w->Norm(layer + ".input_layernorm", shape.hidden, false);
    w->Linear(layer + ".self_attn.q_proj", q, shape.hidden);
    w->Linear(layer + ".self_attn.k_proj", kv, shape.hidden);
    w->Linear(layer + ".self_attn.v_proj", kv, shape.hidden);
    w->Linear(layer + ".self_attn.o_proj", shape.hidden, q);
    if (IsLinear(options, i)) AddFeatureMap(shape, options, layer + ".self_attn.feature_map", w);
    w->Norm(layer + ".post_attention_layernorm", shape.hidden, false);
    w->Linear(layer + ".mlp.gate_proj", shape.inner, shape.hidden);
    w->Linear(layer + ".mlp.up_proj", shape.inner, shape.hidden);
    w->Linear(layer + ".mlp.down_proj", shape.hidden, shape.inner);
  }
  w->Norm("model.norm", shape.hidden, false);
  if (!shape.tied) w->Linear("lm_head", shape.vocab, shape.hidden);
}

void AddGpt2(const Shape& shape, const RandomModelOptions& options, Weights* w) {
  w->Add("transformer.wte.weight", {shape.vocab, shape.hidden}, 0.05);
  w->Add("transformer.wpe.weight", {shape.positions, shape.hidden}, 0.02);
  for (int i = 0; i < shape.layers; ++i) {
    const std::string layer = absl::StrCat("transformer.h.", i);
    w->Norm(layer + ".ln_1", shape.hidden, true);
    w->Conv1d(layer + ".attn.c_attn", shape.hidden, 3 * shape.hidden);
    w->Conv1d(layer + ".attn.c_proj", shape.hidden, shape.hidden);
    if (IsLinear(options, i)) AddFeatureMap(shape, options, layer + ".attn.feature_map", w);
    w->Norm(layer + ".ln_2", shape.hidden, true);
    w->Conv1d(layer + ".mlp.c_fc", shape.hidden, shape.inner);
    w->Conv1d(layer + ".mlp.c_proj", shape.inner, shape.hidden);
  }
  w->Norm("transformer.ln_f", shape.hidden, true);
}

}  // namespace

std::vector<std::string> ShapeNames() {
  std::vector<std::string> names;
  for (const Shape& shape : kShapes) names.emplace_back(shape.name);
  return names;
}

absl::Status WriteRandomModel(const RandomModelOptions& options, const std::string& directory) {
  if (absl::Status status = Check(options); !status.ok()) return status;
  const Shape& shape = *FindShape(options.shape);
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  std::ofstream config(directory + "/config.json");
  config << Config(shape, options).dump(1) << "\n";
  config.close();
  if (!config) return absl::InvalidArgumentError("cannot write " + directory + "/config.json");
  Weights weights(options.dtype, options.seed);
  if (shape.gpt2()) {
    AddGpt2(shape, options, &weights);
  } else {
    AddLlama(shape, options, &weights);
  }
  return WriteSafetensors(directory + "/model.safetensors", weights.tensors());
}

}  // namespace t2r::bench
