#include "testing/random_model.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/checkpoint/safetensors.h"
#include "engine/engine.h"
#include "engine/model/tensors.h"
#include "engine/ops/enum_names.h"
#include "testing/shapes.h"

namespace t2r::bench {
namespace {

int FeatureSize(const Shape& shape, const RandomModelOptions& options) {
  if (options.feature_map == "none") return 0;
  return options.feature_map == "elu" ? shape.head_dim : options.feature_size;
}

bool IsLinear(const RandomModelOptions& options, int layer) {
  return (options.feature_map != "none" || options.window > 0) &&
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
  const auto map = Parse<FeatureMapKind>(options.feature_map);
  if (!map.has_value()) {
    return absl::InvalidArgumentError(
        absl::StrCat("feature map \"", options.feature_map,
                     "\" is not known; there are t2r, elu, rfa, hedgehog, codebook and none"));
  }
  const bool halves = options.feature_map == "rfa" || options.feature_map == "hedgehog";
  if (options.feature_size < 1 || (halves && options.feature_size % 2 != 0)) {
    return absl::InvalidArgumentError(absl::StrCat("feature size is ", options.feature_size, "; ",
                                                   options.feature_map, " needs a positive",
                                                   halves ? " even" : "", " one"));
  }
  if (options.window < 0 || options.sinks < 0 || options.fold < 1 ||
      (options.window == 0 && (options.sinks > 0 || options.fold > 1))) {
    return absl::InvalidArgumentError("sinks and fold need a window, and are at least 0 and 1");
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
  if (options.feature_map == "none" && options.window == 0) return config;
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
  if (options.window > 0) {
    config["linear_attention"].update(
        {{"window", options.window}, {"sinks", options.sinks}, {"fold", options.fold}});
  }
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

// Values of the size that training leaves, so that nothing overflows or dies out.
void Draw(const TensorSpec& tensor, const ModelConfig& config, Weights* weights) {
  const auto add = [&](double deviation, double mean = 0) {
    weights->Add(tensor.name, tensor.shape, deviation, mean);
  };
  switch (tensor.role) {
    case TensorRole::kEmbedding:
    case TensorRole::kSourceEmbedding:
      return add(0.05);
    case TensorRole::kPositions:
      return add(0.02);
    case TensorRole::kHead:
    case TensorRole::kProjection: {
      const int64_t inputs = tensor.shape[tensor.transposed ? 0 : 1];
      return add(1 / std::sqrt(static_cast<double>(inputs)));
    }
    case TensorRole::kNormWeight:
      return add(0.1, 1);
    case TensorRole::kBias:
    case TensorRole::kLogitBias:
      return add(0.1);
    case TensorRole::kFeatureMap: {
      const FeatureMapKind map = config.linear_attention->feature_map;
      const bool rfa = map == FeatureMapKind::kRfa;
      if (tensor.name.ends_with(".far_bias")) return add(0.1, rfa ? -6 : -1);
      if (tensor.shape.size() != 3) return add(0.1);
      const bool unit = rfa || map == FeatureMapKind::kCodebook;
      return add(unit ? 1 : 1 / std::sqrt(static_cast<double>(config.head_dim)));
    }
  }
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
  const std::string json = Config(shape, options).dump(1);
  std::ofstream file(directory + "/config.json");
  file << json << "\n";
  file.close();
  if (!file) return absl::InvalidArgumentError("cannot write " + directory + "/config.json");
  const auto config = ParseModelConfig(json, "");
  if (!config.ok()) return config.status();
  Weights weights(options.dtype, options.seed);
  for (const TensorSpec& tensor : TensorsOf(*config)) {
    if (!tensor.optional) Draw(tensor, *config, &weights);
  }
  return WriteSafetensors(directory + "/model.safetensors", weights.tensors());
}

}  // namespace t2r::bench
