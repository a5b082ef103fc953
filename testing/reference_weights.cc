// Configurations and random weights of the reference models.
#include <cmath>
#include <sstream>
#include <utility>

#include "testing/reference_model.h"
#include "testing/weight_maker.h"

namespace t2r::testing {
namespace {

void AddGpt2Layer(const ModelSpec& spec, const std::string& name, WeightMaker* maker) {
  const double scale = 1.0 / std::sqrt(static_cast<double>(spec.hidden));
  for (const char* norm : {"ln_1", "ln_2"}) {
    maker->Add(name + norm + ".weight", {spec.hidden}, 0.1, 1.0);
    maker->Add(name + norm + ".bias", {spec.hidden}, 0.1);
  }
  maker->Add(name + "attn.c_attn.weight", {spec.hidden, 3 * spec.hidden}, scale);
  maker->Add(name + "attn.c_attn.bias", {3 * spec.hidden}, 0.1);
  maker->Add(name + "attn.c_proj.weight", {spec.hidden, spec.hidden}, scale);
  maker->Add(name + "attn.c_proj.bias", {spec.hidden}, 0.1);
  maker->Add(name + "mlp.c_fc.weight", {spec.hidden, spec.inner}, scale);
  maker->Add(name + "mlp.c_fc.bias", {spec.inner}, 0.1);
  maker->Add(name + "mlp.c_proj.weight", {spec.inner, spec.hidden}, scale);
  maker->Add(name + "mlp.c_proj.bias", {spec.hidden}, 0.1);
}

void AddGptNeoxLayer(const ModelSpec& spec, const std::string& name, WeightMaker* maker) {
  const double scale = 1.0 / std::sqrt(static_cast<double>(spec.hidden));
  const auto linear = [&](const std::string& part, int outputs, int inputs, bool bias) {
    maker->Add(name + part + ".weight", {outputs, inputs}, scale);
    if (bias) maker->Add(name + part + ".bias", {outputs}, 0.1);
  };
  for (const char* norm : {"input_layernorm", "post_attention_layernorm"}) {
    maker->Add(name + norm + ".weight", {spec.hidden}, 0.1, 1.0);
    maker->Add(name + norm + ".bias", {spec.hidden}, 0.1);
  }
  linear("attention.query_key_value", 3 * spec.hidden, spec.hidden, spec.attention_bias);
  linear("attention.dense", spec.hidden, spec.hidden, spec.attention_bias);
  linear("mlp.dense_h_to_4h", spec.inner, spec.hidden, true);
  linear("mlp.dense_4h_to_h", spec.hidden, spec.inner, true);
}

void AddLlamaLayer(const ModelSpec& spec, const std::string& name, WeightMaker* maker) {
  const int queries = spec.heads * spec.head_dim;
  const int keys = spec.groups * spec.head_dim;
  const double scale = 1.0 / std::sqrt(static_cast<double>(spec.hidden));
  const auto linear = [&](const std::string& part, int outputs, int inputs, bool bias) {
    maker->Add(name + part + ".weight", {outputs, inputs}, scale);
    if (bias) maker->Add(name + part + ".bias", {outputs}, 0.1);
  };
  const bool qkv_bias = spec.attention_bias || spec.qwen2;
  maker->Add(name + "input_layernorm.weight", {spec.hidden}, 0.1, 1.0);
  maker->Add(name + "post_attention_layernorm.weight", {spec.hidden}, 0.1, 1.0);
  if (spec.phi3) {
    linear("self_attn.qkv_proj", queries + 2 * keys, spec.hidden, false);
  } else {
    linear("self_attn.q_proj", queries, spec.hidden, qkv_bias);
    linear("self_attn.k_proj", keys, spec.hidden, qkv_bias);
    linear("self_attn.v_proj", keys, spec.hidden, qkv_bias);
  }
  linear("self_attn.o_proj", spec.hidden, queries, spec.attention_bias);
  if (spec.qwen3) {
    maker->Add(name + "self_attn.q_norm.weight", {spec.head_dim}, 0.2, 1.0);
    maker->Add(name + "self_attn.k_norm.weight", {spec.head_dim}, 0.2, 1.0);
  }
  if (spec.phi3) {
    linear("mlp.gate_up_proj", 2 * spec.inner, spec.hidden, false);
  } else {
    linear("mlp.gate_proj", spec.inner, spec.hidden, spec.mlp_bias);
    linear("mlp.up_proj", spec.inner, spec.hidden, spec.mlp_bias);
  }
  linear("mlp.down_proj", spec.hidden, spec.inner, spec.mlp_bias);
}

const char* ClassOf(const ModelSpec& spec) {
  if (spec.neox) return "GPTNeoXForCausalLM";
  if (spec.phi3) return "Phi3ForCausalLM";
  if (spec.qwen2) return "Qwen2ForCausalLM";
  if (spec.sliding_window > 0) return "MistralForCausalLM";
  return spec.qwen3 ? "Qwen3ForCausalLM" : "LlamaForCausalLM";
}

void AddRopeScaling(const ModelSpec& spec, std::ostream& json) {
  json << ", \"rope_scaling\": {\"rope_type\": \"" << spec.rope_type << "\", \"factor\": 4.0";
  if (spec.rope_type != "dynamic") {
    json << ", \"original_max_position_embeddings\": " << spec.positions / 4;
  }
  const int pairs = static_cast<int>(spec.head_dim * spec.rotary) / 2;
  const auto list = [&](const char* name, double first, double step) {
    json << ", \"" << name << "\": [";
    for (int i = 0; i < pairs; ++i) json << (i == 0 ? "" : ", ") << first + step * i;
    json << "]";
  };
  if (spec.rope_type == "longrope") {
    list("short_factor", 1, 0.125);
    list("long_factor", 2, 0.5);
  }
  json << "}";
}

}  // namespace

Tensors RandomWeights(const ModelSpec& spec, uint64_t seed) {
  WeightMaker maker(seed);
  const std::string prefix = spec.prefix ? spec.root() : "";
  maker.Add(prefix + spec.table(), {spec.vocab, spec.hidden}, 0.7);
  if (spec.gpt2) maker.Add(prefix + "wpe.weight", {spec.positions, spec.hidden}, 0.3);
  for (int i = 0; i < spec.layers; ++i) {
    const std::string name = prefix + spec.layer_list() + std::to_string(i) + ".";
    if (spec.gpt2) {
      AddGpt2Layer(spec, name, &maker);
    } else if (spec.neox) {
      AddGptNeoxLayer(spec, name, &maker);
    } else {
      AddLlamaLayer(spec, name, &maker);
    }
    if (spec.is_linear(i)) {
      const std::string map = name + spec.attention() + "feature_map.";
      const int features = spec.feature_count(i);
      const bool codebook = spec.map == "codebook";
      if (codebook) {
        AddCodebook(spec.heads, spec.groups, features, spec.head_dim, map, &maker);
      } else {
        AddFeatureMap(spec.map, spec.groups, features, spec.head_dim, map, &maker);
      }
      if (spec.windows(i) > 0 && !codebook && spec.map != "none") {
        maker.Add(map + "far_bias", {spec.heads}, 0.5, spec.map == "rfa" ? -6 : -1);
      }
      if (spec.decay) {
        maker.Add(map + "log_decay", {spec.groups}, 0.02, -0.1);
      }
    }
  }
  const std::string last = prefix + spec.last_norm();
  if (spec.layer_norms()) maker.Add(last + ".bias", {spec.hidden}, 0.1);
  maker.Add(last + ".weight", {spec.hidden}, 0.1, 1.0);
  if (!spec.tied) maker.Add(spec.head(), {spec.vocab, spec.hidden}, 0.3);
  return maker.tensors;
}

std::string ConfigOf(const ModelSpec& spec) {
  std::ostringstream json;
  json.precision(17);
  const char* const yes_no[] = {"false", "true"};
  if (spec.gpt2) {
    json << R"({"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2")"
         << ", \"n_embd\": " << spec.hidden << ", \"n_inner\": " << spec.inner
         << ", \"n_layer\": " << spec.layers << ", \"n_head\": " << spec.heads
         << ", \"n_positions\": " << spec.positions
         << ", \"layer_norm_epsilon\": " << spec.norm_eps;
  } else {
    json << "{\"architectures\": [\"" << ClassOf(spec) << "\"], \"hidden_size\": " << spec.hidden
         << ", \"intermediate_size\": " << spec.inner << ", \"num_hidden_layers\": " << spec.layers
         << ", \"num_attention_heads\": " << spec.heads
         << ", \"max_position_embeddings\": " << spec.positions;
    if (!spec.qwen2) json << ", \"attention_bias\": " << yes_no[spec.attention_bias];
    if (spec.neox) {
      json << ", \"rotary_emb_base\": " << spec.theta << ", \"layer_norm_eps\": " << spec.norm_eps
           << ", \"rotary_pct\": " << spec.rotary << ", \"hidden_act\": \"" << spec.activation
           << "\", \"use_parallel_residual\": " << yes_no[spec.parallel];
    } else {
      json << ", \"num_key_value_heads\": " << spec.groups << ", \"head_dim\": " << spec.head_dim
           << ", \"rope_theta\": " << spec.theta << ", \"rms_norm_eps\": " << spec.norm_eps
           << ", \"mlp_bias\": " << yes_no[spec.mlp_bias];
    }
    if (spec.phi3) json << ", \"partial_rotary_factor\": " << spec.rotary;
    if (spec.rope_length > 0) json << ", \"rope_length\": " << spec.rope_length;
    if (!spec.rope_type.empty()) AddRopeScaling(spec, json);
    if (spec.llama3_factor > 0) {
      json << R"(, "rope_scaling": {"rope_type": "llama3", "low_freq_factor": 1.0,)"
           << R"( "high_freq_factor": 4.0, "original_max_position_embeddings": 32, "factor": )"
           << spec.llama3_factor << "}";
    } else if (spec.linear_factor > 0) {
      json << R"(, "rope_scaling": {"type": "linear", "factor": )" << spec.linear_factor << "}";
    }
  }
  json << ", \"vocab_size\": " << spec.vocab << ", \"tie_word_embeddings\": " << yes_no[spec.tied];
  const auto sizes = [&](const char* key, const std::vector<int>& list, int one) {
    json << ", \"" << key << "\": ";
    if (list.empty()) {
      json << one;
      return;
    }
    for (size_t i = 0; i < list.size(); ++i) json << (i == 0 ? "[" : ", ") << list[i];
    json << "]";
  };
  if (spec.sliding_window > 0) {
    json << ", \"sliding_window\": " << spec.sliding_window;
    if (spec.qwen2) {
      json << ", \"use_sliding_window\": true, \"max_window_layers\": " << spec.first_sliding;
    }
  } else if (!spec.linear.empty()) {
    json << ", \"layer_types\": [";
    for (int i = 0; i < spec.layers; ++i) {
      json << (i == 0 ? "" : ", ")
           << (spec.is_linear(i) ? "\"linear_attention\"" : "\"full_attention\"");
    }
    json << "], \"linear_attention\": {\"feature_map\": \"" << spec.map << "\", \"normalizer\": \""
         << spec.normalizer << "\", \"eps\": " << spec.eps
         << ", \"query_scale\": " << spec.query_scale;
    sizes("feature_size", spec.feature_list, spec.map == "none" ? 0 : spec.features);
    if (spec.window > 0 || !spec.window_list.empty()) {
      sizes("window", spec.window_list, spec.window);
      sizes("sinks", spec.sink_list, spec.sinks);
      sizes("fold", spec.fold_list, spec.fold);
    }
    json << ", \"rope_features\": " << yes_no[spec.rope_features];
    if (spec.sink_position >= 0) json << ", \"sink_position\": " << spec.sink_position;
    json << "}";
  }
  json << "}";
  return json.str();
}

}  // namespace t2r::testing
