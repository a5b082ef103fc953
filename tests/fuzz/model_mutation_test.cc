// Seeded mutations of valid files through the fuzzers' entries.
#include <gtest/gtest.h>

#include <random>
#include <string>

#include "engine/engine.h"
#include "testing/model_directory.h"
#include "testing/reference_model.h"
#include "tests/fuzz/model_fuzz.h"

namespace t2r::testing {
namespace {

constexpr const char* kTokens[] = {"-1",
                                   "1e309",
                                   "18446744073709551615",
                                   "9223372036854775807",
                                   "0",
                                   "null",
                                   "[]",
                                   "{}",
                                   "[[[[",
                                   "\"F32\"",
                                   "\"I64\"",
                                   "\"",
                                   ",",
                                   "4294967296",
                                   "true",
                                   "0.5",
                                   "1e-320",
                                   "\\u0000"};

// One to four random edits: bytes changed, inserted, removed, copied, or a telling token put in.
std::string Mutate(std::string text, std::mt19937& random) {
  const int edits = 1 + static_cast<int>(random() % 4);
  for (int i = 0; i < edits && !text.empty(); ++i) {
    const size_t at = random() % text.size();
    switch (random() % 6) {
      case 0:
        text[at] = static_cast<char>(random());
        break;
      case 1:
        text[at] = static_cast<char>(text[at] ^ (1 << random() % 8));
        break;
      case 2:
        text.erase(at, 1 + random() % 12);
        break;
      case 3:
        text.insert(at, text.substr(random() % text.size(), random() % 40));
        break;
      case 4:
        text.insert(at, kTokens[random() % std::size(kTokens)]);
        break;
      default: {  // a number becomes another
        const size_t digit = text.find_first_of("0123456789", at);
        if (digit == std::string::npos) break;
        const size_t end = text.find_first_not_of("0123456789", digit);
        text.replace(digit, end == std::string::npos ? end : end - digit,
                     kTokens[random() % std::size(kTokens)]);
      }
    }
  }
  return text;
}

void RunMutations(int (*fuzz)(const uint8_t*, size_t), const std::string& text, uint32_t seed,
                  int count) {
  const auto* const bytes = reinterpret_cast<const uint8_t*>(text.data());
  ASSERT_EQ(fuzz(bytes, text.size()), 0);
  std::mt19937 random(seed);
  for (int i = 0; i < count; ++i) {
    const std::string mutant = Mutate(text, random);
    ASSERT_EQ(fuzz(reinterpret_cast<const uint8_t*>(mutant.data()), mutant.size()), 0)
        << "mutation " << i << " of seed " << seed;
  }
}

TEST(MutationTest, Safetensors) {
  Tensors tensors;
  tensors["a.weight"] = {{2, 3}, {1, 2, 3, 4, 5, 6}};
  tensors["b"] = {{4}, {1, 2, 3, 4}};
  tensors["scalar"] = {{}, {7}};
  tensors["empty"] = {{0, 5}, {}};
  const TemporaryDirectory directory;
  WriteWeights(directory, tensors);
  RunMutations(FuzzSafetensors, directory.Read("model.safetensors"), 1, 4000);
}

TEST(MutationTest, Config) {
  ModelSpec spec;
  spec.layers = 4;
  spec.linear = {true, false, true, false};
  spec.llama3_factor = 8;
  RunMutations(FuzzConfig, ConfigOf(spec), 2, 3000);
  spec.gpt2 = true;
  RunMutations(FuzzConfig, ConfigOf(spec), 3, 2000);
}

TEST(MutationTest, MarianConfig) {
  RunMutations(
      FuzzConfig,
      R"({"architectures": ["MarianMTModel"], "d_model": 24, "encoder_layers": 2,)"
      R"( "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 4,)"
      R"( "encoder_ffn_dim": 40, "decoder_ffn_dim": 48, "activation_function": "swish",)"
      R"( "vocab_size": 31, "decoder_vocab_size": 19, "share_encoder_decoder_embeddings": false,)"
      R"( "decoder_start_token_id": 18, "pad_token_id": 18, "bad_words_ids": [[18]],)"
      R"( "layer_types": ["linear_attention", "full_attention"],)"
      R"( "cross_layer_types": ["full_attention", "linear_attention"],)"
      R"( "linear_attention": {"feature_map": "t2r", "feature_size": 8, "normalizer": "clamp",)"
      R"( "eps": 0.01, "query_scale": 0.5}})",
      4, 3000);
}

}  // namespace
}  // namespace t2r::testing
