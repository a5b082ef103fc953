#include "convert/gguf/tokenizer_plan.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>
#include <vector>

#include "convert/error.h"
#include "convert/gguf/gguf_cursor.h"
#include "convert/gguf/metadata.h"
#include "convert/gguf/pre_tokenizer.h"
#include "convert/gguf/vocabulary.h"

namespace t2r::convert {
namespace {

using Json = nlohmann::ordered_json;

// What SentencePiece writes for a space: U+2581.
constexpr const char* kSpace = "\xE2\x96\x81";
constexpr const char* kTemplatePrefix = "tokenizer.chat_template.";

// The ids that a file gives a meaning. For SentencePiece vocabularies those that it leaves out are
// 1, 2 and 0, as llama.cpp has them.
struct SpecialIds {
  std::optional<int32_t> bos, eos, unknown, padding;
  std::vector<int32_t> ends;  // of turns and messages
};

std::optional<int32_t> IdOf(const GgufMetadata& metadata, const GgufVocabulary& vocabulary,
                            const char* name, std::optional<int32_t> absent = std::nullopt) {
  const std::string key = std::string("tokenizer.ggml.") + name + "_token_id";
  if (!metadata.Has(key)) {
    return absent.has_value() && static_cast<size_t>(*absent) < vocabulary.size() ? absent
                                                                                  : std::nullopt;
  }
  const auto last = static_cast<int64_t>(vocabulary.size()) - 1;
  return static_cast<int32_t>(metadata.Integer(key, 0, last));
}

SpecialIds ReadSpecialIds(const GgufMetadata& metadata, const GgufVocabulary& vocabulary,
                          bool sentencepiece) {
  const auto absent = [&](int32_t id) {
    return sentencepiece ? std::optional<int32_t>(id) : std::nullopt;
  };
  SpecialIds ids;
  ids.bos = IdOf(metadata, vocabulary, "bos", absent(1));
  ids.eos = IdOf(metadata, vocabulary, "eos", absent(2));
  ids.unknown = IdOf(metadata, vocabulary, "unknown", absent(0));
  ids.padding = IdOf(metadata, vocabulary, "padding");
  for (const char* name : {"eot", "eom"}) {
    if (const auto id = IdOf(metadata, vocabulary, name)) ids.ends.push_back(*id);
  }
  return ids;
}

// Tokens that are found in a text before it is cut: control tokens, which are special, and user
// defined ones. The ids that begin and end texts are special whatever their type.
Json AddedTokens(const GgufVocabulary& vocabulary, const SpecialIds& ids) {
  Json added = Json::array();
  for (size_t i = 0; i < vocabulary.size(); ++i) {
    const auto id = static_cast<int32_t>(i);
    const GgufTokenType type = vocabulary.type(i);
    const bool special = type == GgufTokenType::kControl || type == GgufTokenType::kUnknown ||
                         id == ids.bos || id == ids.eos ||
                         std::find(ids.ends.begin(), ids.ends.end(), id) != ids.ends.end();
    if (!special && type != GgufTokenType::kUserDefined) continue;
    added.push_back({{"id", id},
                     {"content", vocabulary.token(i)},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", special}});
  }
  return added;
}

Json PostProcessor(const GgufVocabulary& vocabulary, std::optional<int32_t> first,
                   std::optional<int32_t> last) {
  if (!first.has_value() && !last.has_value()) return nullptr;
  Json single = Json::array();
  Json pair = Json::array();
  Json tokens = Json::object();
  const auto add = [&](int32_t id, int type_id) {
    const std::string token(vocabulary.token(static_cast<size_t>(id)));
    const Json piece = {{"SpecialToken", {{"id", token}, {"type_id", type_id}}}};
    if (type_id == 0) single.push_back(piece);
    pair.push_back(piece);
    tokens[token] = {{"id", token}, {"ids", Json::array({id})}, {"tokens", Json::array({token})}};
  };
  for (int type_id = 0; type_id < 2; ++type_id) {
    const Json text = {{"Sequence", {{"id", type_id == 0 ? "A" : "B"}, {"type_id", type_id}}}};
    if (first.has_value()) add(*first, type_id);
    if (type_id == 0) single.push_back(text);
    pair.push_back(text);
    if (last.has_value()) add(*last, type_id);
  }
  return {{"type", "TemplateProcessing"},
          {"single", single},
          {"pair", pair},
          {"special_tokens", tokens}};
}

Json Replacement(const char* from, const char* to) {
  return {{"type", "Replace"}, {"pattern", {{"String", from}}}, {"content", to}};
}

// {"": 0, …} in the order of ids. Appended, since looking each key up first would take quadratic
// time; the vocabulary has no token twice.
Json VocabularyJson(const GgufVocabulary& vocabulary) {
  Json::object_t object;
  object.reserve(vocabulary.size());
  for (size_t id = 0; id < vocabulary.size(); ++id) {
    if (!vocabulary.IsPadding(id)) {
      object.push_back({std::string(vocabulary.token(id)), static_cast<int32_t>(id)});
    }
  }
  return object;
}

Json MergesJson(const std::vector<GgufMerge>& merges) {
  Json list = Json::array();
  for (const auto& [left, right] : merges) {
    list.push_back(std::string(left) + " " + std::string(right));
  }
  return list;
}

Json ChatTemplate(const GgufMetadata& metadata, const GgufFile& file) {
  Json templates = Json::array();
  for (auto it = file.metadata().lower_bound(kTemplatePrefix);
       it != file.metadata().end() && it->first.starts_with(kTemplatePrefix); ++it) {
    const std::string name(it->first.substr(std::string_view(kTemplatePrefix).size()));
    templates.push_back({{"name", Printable(name)}, {"template", metadata.String(it->first)}});
  }
  if (!metadata.Has("tokenizer.chat_template")) return templates.empty() ? Json() : templates;
  const std::string text = metadata.String("tokenizer.chat_template");
  if (templates.empty()) return text;
  const Json first = {{"name", "default"}, {"template", text}};
  templates.insert(templates.begin(), first);
  return templates;
}

std::string ConfigJson(const GgufMetadata& metadata, const GgufFile& file,
                       const GgufVocabulary& vocabulary, const SpecialIds& ids, Json json) {
  const auto set = [&](const char* key, std::optional<int32_t> id) {
    if (id.has_value()) json[key] = vocabulary.token(static_cast<size_t>(*id));
  };
  set("bos_token", ids.bos);
  set("eos_token", ids.eos);
  set("unk_token", ids.unknown);
  set("pad_token", ids.padding);
  json["clean_up_tokenization_spaces"] = false;
  const Json chat_template = ChatTemplate(metadata, file);
  if (!chat_template.is_null()) json["chat_template"] = chat_template;
  return json.dump(2) + "\n";
}

// The parts of tokenizer.json that the two kinds of vocabularies differ in.
struct Parts {
  Json normalizer, pre_tokenizer, decoder, model;
  bool adds_bos = false;  // where the file does not say
};

Parts ByteLevelParts(const GgufFile& file, const GgufVocabulary& vocabulary,
                     const std::string& pre) {
  const GgufPreTokenizer found = FindGgufPreTokenizer(pre);
  Parts parts;
  parts.normalizer = found.normalizer;
  parts.pre_tokenizer = found.pre_tokenizer;
  parts.decoder = {{"type", "ByteLevel"},
                   {"add_prefix_space", true},
                   {"trim_offsets", true},
                   {"use_regex", true}};
  parts.model = {{"type", "BPE"},
                 {"dropout", nullptr},
                 {"unk_token", nullptr},
                 {"continuing_subword_prefix", nullptr},
                 {"end_of_word_suffix", nullptr},
                 {"fuse_unk", false},
                 {"byte_fallback", false},
                 {"ignore_merges", found.ignore_merges},
                 {"vocab", VocabularyJson(vocabulary)},
                 {"merges", MergesJson(ReadGgufMerges(file, vocabulary))}};
  parts.adds_bos = found.adds_bos;
  return parts;
}

Parts SentencePieceParts(const GgufFile& file, const GgufVocabulary& vocabulary,
                         const SpecialIds& ids, bool space_first) {
  Parts parts;
  parts.normalizer = Replacement(" ", kSpace);
  Json decoders =
      Json::array({Replacement(kSpace, " "), {{"type", "ByteFallback"}}, {{"type", "Fuse"}}});
  if (space_first) {
    parts.normalizer = {{"type", "Sequence"},
                        {"normalizers", Json::array({{{"type", "Prepend"}, {"prepend", kSpace}},
                                                     Replacement(" ", kSpace)})}};
    decoders.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  }
  parts.decoder = {{"type", "Sequence"}, {"decoders", decoders}};
  Json unknown;
  if (ids.unknown.has_value()) unknown = vocabulary.token(static_cast<size_t>(*ids.unknown));
  parts.model = {{"type", "BPE"},
                 {"dropout", nullptr},
                 {"unk_token", unknown},
                 {"continuing_subword_prefix", nullptr},
                 {"end_of_word_suffix", nullptr},
                 {"fuse_unk", true},
                 {"byte_fallback", true},
                 {"ignore_merges", false},
                 {"vocab", VocabularyJson(vocabulary)},
                 {"merges", MergesJson(MergesFromScores(file, vocabulary))}};
  parts.adds_bos = true;
  return parts;
}

// The id, if it is to be added to texts; one that the file does not name cannot be.
std::optional<int32_t> Added(const GgufMetadata& metadata, const char* key, bool absent,
                             std::optional<int32_t> id, const char* id_key) {
  if (!metadata.Bool(key, absent)) return std::nullopt;
  if (!id.has_value()) {
    throw ConvertError(std::string(id_key) + " is missing, and texts are to have that token");
  }
  return id;
}

}  // namespace

TokenizerPlan PlanTokenizer(const GgufFile& file, const std::string& pre_tokenizer,
                            int64_t vocabulary_limit) {
  const GgufMetadata metadata(file);
  const std::string kind = metadata.String("tokenizer.ggml.model", "none");
  if (kind == "none" || kind == "no_vocab") return {"none", "", ""};
  if (kind != "gpt2" && kind != "llama") {
    throw ConvertError("tokenizer.ggml.model is " + Printable(kind) +
                       "; supported are gpt2 and llama");
  }
  const bool sentencepiece = kind == "llama";
  const GgufVocabulary vocabulary(file, vocabulary_limit);
  const SpecialIds ids = ReadSpecialIds(metadata, vocabulary, sentencepiece);
  std::string pre;
  Parts parts;
  const bool space_first = metadata.Bool("tokenizer.ggml.add_space_prefix", sentencepiece);
  if (sentencepiece) {
    if (metadata.Has("tokenizer.ggml.precompiled_charsmap")) {
      throw ConvertError("tokenizer.ggml.precompiled_charsmap is set, which is not supported");
    }
    parts = SentencePieceParts(file, vocabulary, ids, space_first);
  } else {
    if (space_first) {
      throw ConvertError(
          "tokenizer.ggml.add_space_prefix is true, which is not supported for gpt2");
    }
    if (pre_tokenizer.empty() && !metadata.Has("tokenizer.ggml.pre")) {
      throw ConvertError(
          "tokenizer.ggml.pre is missing: say with --pre-tokenizer how the model's texts "
          "are cut (" +
          GgufPreTokenizerNames() + ")");
    }
    pre = pre_tokenizer.empty() ? metadata.String("tokenizer.ggml.pre") : pre_tokenizer;
    parts = ByteLevelParts(file, vocabulary, pre);
  }
  const auto first = Added(metadata, "tokenizer.ggml.add_bos_token", parts.adds_bos, ids.bos,
                           "tokenizer.ggml.bos_token_id");
  const auto last = Added(metadata, "tokenizer.ggml.add_eos_token", false, ids.eos,
                          "tokenizer.ggml.eos_token_id");
  const Json json = {{"version", "1.0"},
                     {"truncation", nullptr},
                     {"padding", nullptr},
                     {"added_tokens", AddedTokens(vocabulary, ids)},
                     {"normalizer", std::move(parts.normalizer)},
                     {"pre_tokenizer", std::move(parts.pre_tokenizer)},
                     {"post_processor", PostProcessor(vocabulary, first, last)},
                     {"decoder", std::move(parts.decoder)},
                     {"model", std::move(parts.model)}};
  // HF's class that takes tokenizer.json as it is; those of families rebuild parts of it.
  const Json config = {{"tokenizer_class", "PreTrainedTokenizerFast"},
                       {"add_bos_token", first.has_value()},
                       {"add_eos_token", last.has_value()}};
  TokenizerPlan plan;
  plan.kind = pre.empty() ? kind : kind + ", " + pre;
  plan.tokenizer_json = json.dump(1) + "\n";
  plan.tokenizer_config_json = ConfigJson(metadata, file, vocabulary, ids, config);
  return plan;
}

}  // namespace t2r::convert
