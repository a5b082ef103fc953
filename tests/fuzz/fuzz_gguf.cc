// Any bytes as a GGUF file: a clean error, or a plan whose every block can be dequantised and whose
// tokenizer encodes.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "convert/error.h"
#include "convert/gguf/gguf_file.h"
#include "convert/gguf/model_plan.h"
#include "convert/gguf/tokenizer_plan.h"
#include "engine/tokenizer/hf/hf_tokenizer.h"
#include "testing/gguf_bytes.h"

namespace {

using t2r::testing::GgufBytes;

// A model of one layer of width 2, with a vocabulary of either kind.
GgufBytes Seed(const std::string& architecture, bool sentencepiece) {
  GgufBytes bytes;
  const std::string prefix = architecture + ".";
  bytes.String("general.architecture", architecture).Uint32(prefix + "block_count", 1);
  bytes.Uint32(prefix + "context_length", 8).Uint32(prefix + "embedding_length", 2);
  bytes.Uint32(prefix + "feed_forward_length", 3).Uint32(prefix + "attention.head_count", 1);
  bytes.Float32(prefix + "attention.layer_norm_rms_epsilon", 1e-5F);
  bytes.String(prefix + "rope.scaling.type", "linear").Float32(prefix + "rope.scaling.factor", 2);
  bytes.String("tokenizer.ggml.model", sentencepiece ? "llama" : "gpt2");
  bytes.String("tokenizer.ggml.pre", "qwen2").Bool("tokenizer.ggml.add_bos_token", true);
  bytes.Uint32("tokenizer.ggml.bos_token_id", 3).Uint32("tokenizer.ggml.eos_token_id", 3);
  bytes.Strings("tokenizer.ggml.tokens", {"a", "b", "ab", "<s>"});
  bytes.Int32s("tokenizer.ggml.token_type", {1, 1, 1, 3});
  bytes.Float32s("tokenizer.ggml.scores", {-1, -2, -3, 0});
  bytes.Strings("tokenizer.ggml.merges", {"a b"});
  bytes.String("tokenizer.chat_template", "{{ x }}");
  bytes.FloatTensor("token_embd.weight", {4, 2}, std::vector<float>(8, 1));
  bytes.FloatTensor("output_norm.weight", {2}, {1, 1});
  for (const char* name : {"attn_q", "attn_k", "attn_v", "attn_output"}) {
    bytes.FloatTensor("blk.0." + std::string(name) + ".weight", {2, 2}, {1, 2, 3, 4});
    if (architecture == "qwen2" && std::string(name) != "attn_output") {
      bytes.FloatTensor("blk.0." + std::string(name) + ".bias", {2}, {1, 2});
    }
  }
  std::vector<std::string> norms = {"attn_norm", "ffn_norm"};
  if (architecture == "qwen3") norms.insert(norms.end(), {"attn_q_norm", "attn_k_norm"});
  for (const std::string& name : norms) {
    bytes.FloatTensor("blk.0." + name + ".weight", {2}, {1, 1});
  }
  bytes.FloatTensor("blk.0.ffn_gate.weight", {3, 2}, std::vector<float>(6, 1));
  bytes.FloatTensor("blk.0.ffn_up.weight", {3, 2}, std::vector<float>(6, 1));
  return bytes.FloatTensor("blk.0.ffn_down.weight", {2, 3}, std::vector<float>(6, 1));
}

}  // namespace

std::vector<std::string> FuzzSeeds() {
  std::vector<std::string> seeds;
  for (const char* architecture : {"llama", "qwen2", "qwen3"}) {
    for (const bool sentencepiece : {false, true}) {
      seeds.push_back(Seed(architecture, sentencepiece).Bytes());
    }
  }
  // Every type, in tensors that no model has.
  GgufBytes types;
  for (uint32_t number = 0; number < 31; ++number) {
    const t2r::convert::GgufTensorType* type = t2r::convert::FindGgufTensorType(number);
    if (type == nullptr) continue;
    types.Tensor(type->name, {type->block_values}, number,
                 std::string(static_cast<size_t>(type->block_bytes), '\x35'));
  }
  seeds.push_back(types.Bytes());
  return seeds;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // Its own allocation, so that reads beyond the end are seen.
  const std::string bytes(reinterpret_cast<const char*>(data), size);
  try {
    const auto file = t2r::convert::GgufFile::Parse(bytes);
    for (const auto& [name, tensor] : file.tensors()) {
      const auto* const blocks = reinterpret_cast<const uint8_t*>(tensor.data.data());
      const auto block_bytes = static_cast<size_t>(tensor.type->block_bytes);
      std::vector<float> values(static_cast<size_t>(tensor.type->block_values));
      for (size_t i = 0; i < tensor.data.size(); i += block_bytes) {
        tensor.type->dequantize(blocks + i, values.data());
      }
    }
    const auto plan = t2r::convert::PlanModel(file, t2r::DType::kFloat32);
    const auto tokenizer = t2r::convert::PlanTokenizer(file, "", plan.vocabulary);
    if (tokenizer.tokenizer_json.empty()) return 0;
    // What was written must be what the engine reads.
    const auto config = t2r::TokenizerConfig::Parse(tokenizer.tokenizer_config_json, std::nullopt);
    if (!config.ok()) std::abort();
    const auto loaded = t2r::ParseTokenizerJson(tokenizer.tokenizer_json, *config);
    if (!loaded.ok()) std::abort();
    const auto ids = (*loaded)->Encode("ab <s>it's caf\xC3\xA9 ", true);
    if (ids.ok()) (*loaded)->Decode(*ids);
  } catch (const t2r::convert::ConvertError& error) {
    if (error.what()[0] == '\0') std::abort();
  }
  return 0;
}
