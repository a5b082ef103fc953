#include "convert/gguf/pre_tokenizer.h"

#include "convert/error.h"
#include "convert/gguf/gguf_cursor.h"

namespace t2r::convert {
namespace {

using Json = nlohmann::ordered_json;

// Patterns as the tokenizer.json files of the models have them. A name stands for a pattern, so
// models that were trained with the same one share it.
constexpr const char* kLlama3Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|)"
    R"( ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kQwen2Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|)"
    R"( ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kTekkenPattern =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|)"
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|)"
    R"(\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

enum class Kind {
  kGpt2,    // GPT-2's pattern
  kDigits,  // each digit alone, then GPT-2's pattern
  kLlama3,
  kQwen2,     // its pattern after NFC
  kQwen2Raw,  // its pattern alone
  kTekken,
};

struct Named {
  const char* name;
  Kind kind;
};
constexpr Named kNames[] = {
    {"smollm", Kind::kDigits},    {"starcoder", Kind::kDigits},
    {"refact", Kind::kDigits},    {"command-r", Kind::kDigits},
    {"llama-bpe", Kind::kLlama3}, {"llama3", Kind::kLlama3},
    {"llama-v3", Kind::kLlama3},  {"smaug-bpe", Kind::kLlama3},
    {"qwen2", Kind::kQwen2},      {"deepseek-r1-qwen", Kind::kQwen2Raw},
    {"tekken", Kind::kTekken},    {"gpt-2", Kind::kGpt2},
};

Json ByteLevel(bool use_regex) {
  return {{"type", "ByteLevel"},
          {"add_prefix_space", false},
          {"trim_offsets", true},
          {"use_regex", use_regex}};
}

Json Sequence(const Json& first, const Json& second) {
  return {{"type", "Sequence"}, {"pretokenizers", Json::array({first, second})}};
}

Json SplitBy(const char* pattern) {
  const Json split = {{"type", "Split"},
                      {"pattern", {{"Regex", pattern}}},
                      {"behavior", "Isolated"},
                      {"invert", false}};
  return Sequence(split, ByteLevel(false));
}

GgufPreTokenizer Make(Kind kind) {
  GgufPreTokenizer made;
  switch (kind) {
    case Kind::kGpt2:
      made.pre_tokenizer = ByteLevel(true);
      break;
    case Kind::kDigits:
      made.pre_tokenizer =
          Sequence({{"type", "Digits"}, {"individual_digits", true}}, ByteLevel(true));
      break;
    case Kind::kLlama3:
      made.pre_tokenizer = SplitBy(kLlama3Pattern);
      made.ignore_merges = made.adds_bos = true;
      break;
    case Kind::kQwen2:
      made.normalizer = {{"type", "NFC"}};
      [[fallthrough]];
    case Kind::kQwen2Raw:
      made.pre_tokenizer = SplitBy(kQwen2Pattern);
      break;
    case Kind::kTekken:
      made.pre_tokenizer = SplitBy(kTekkenPattern);
      made.ignore_merges = made.adds_bos = true;
      break;
  }
  return made;
}

}  // namespace

GgufPreTokenizer FindGgufPreTokenizer(const std::string& name) {
  for (const Named& named : kNames) {
    if (name == named.name) return Make(named.kind);
  }
  throw ConvertError("tokenizer.ggml.pre is " + Printable(name) + "; supported are " +
                     GgufPreTokenizerNames());
}

std::string GgufPreTokenizerNames() {
  std::string names;
  for (const Named& named : kNames) names += (names.empty() ? "" : ", ") + std::string(named.name);
  return names;
}

}  // namespace t2r::convert
