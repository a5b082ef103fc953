// Finds a directory's tokenizer.
#include <filesystem>
#include <functional>

#include "absl/strings/str_cat.h"
#include "engine/io/files.h"
#include "engine/io/json.h"
#include "engine/io/status_macros.h"
#include "engine/tokenizer/hf/hf_tokenizer.h"
#include "engine/tokenizer/sentencepiece/marian_tokenizer.h"
#include "engine/tokenizer/sentencepiece/sentencepiece_tokenizer.h"

namespace t2r {
namespace {

using OptionalText = std::optional<std::string>;

absl::Status WithDirectory(const std::string& directory, const absl::Status& status) {
  return {status.code(), absl::StrCat(directory, ": ", status.message())};
}

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadFiles(const std::string& directory) {
  const auto read = [&](const char* name) { return ReadOptionalFile(directory + "/" + name); };
  T2R_ASSIGN_OR_RETURN(const OptionalText json, read("tokenizer.json"));
  T2R_ASSIGN_OR_RETURN(const OptionalText sentencepiece, read("tokenizer.model"));
  T2R_ASSIGN_OR_RETURN(const OptionalText vocab, read("vocab.json"));
  T2R_ASSIGN_OR_RETURN(const OptionalText merges, read("merges.txt"));
  T2R_ASSIGN_OR_RETURN(OptionalText source, read("source.spm"));
  T2R_ASSIGN_OR_RETURN(OptionalText target, read("target.spm"));
  const bool marian = source.has_value() || target.has_value();
  if (marian && (!source || !target || !vocab)) {
    const char* missing = !source ? "source.spm" : !target ? "target.spm" : "vocab.json";
    return InvalidAt(missing,
                     absl::StrCat("is missing beside ", source ? "source.spm" : "target.spm"));
  }
  const bool gpt2 = vocab.has_value() && merges.has_value();
  if (!marian && !json && !sentencepiece && !gpt2) {
    if (vocab.has_value() || merges.has_value()) {
      return InvalidAt(
          vocab ? "vocab.json" : "merges.txt",
          vocab ? "merges.txt is missing beside it" : "vocab.json is missing beside it");
    }
    return std::unique_ptr<Tokenizer>();
  }
  T2R_ASSIGN_OR_RETURN(const OptionalText config_text, read("tokenizer_config.json"));
  T2R_ASSIGN_OR_RETURN(const OptionalText map_text, read("special_tokens_map.json"));
  T2R_ASSIGN_OR_RETURN(const OptionalText added, read("added_tokens.json"));
  T2R_ASSIGN_OR_RETURN(const TokenizerConfig config,
                       TokenizerConfig::Parse(config_text, map_text, added));
  if (marian) {
    MarianFiles files;
    files.source_spm = *std::move(source);
    files.target_spm = *std::move(target);
    files.vocab_json = *vocab;
    T2R_ASSIGN_OR_RETURN(files.target_vocab_json, read("target_vocab.json"));
    T2R_ASSIGN_OR_RETURN(files.config_json, read("config.json"));
    return MarianTokenizer::Parse(files, config);
  }

  // A file of an unsupported kind falls to the next; a broken one is an error.
  std::string reasons;
  const auto done = [&](const absl::StatusOr<std::unique_ptr<Tokenizer>>& result) {
    if (!absl::IsUnimplemented(result.status())) return true;
    absl::StrAppend(&reasons, reasons.empty() ? "" : "; ", result.status().message());
    return false;
  };
  if (json) {
    auto result = ParseTokenizerJson(*json, config);
    if (done(result)) return result;
  }
  if (sentencepiece) {
    auto result = SentencePieceTokenizer::Parse(*sentencepiece, config);
    if (done(result)) return result;
  }
  if (gpt2) {
    auto result = ParseGpt2Files(*vocab, *merges, config);
    if (done(result)) return result;
  }
  return absl::UnimplementedError(reasons);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(const std::string& directory) {
  std::error_code error;
  if (!std::filesystem::is_directory(directory, error)) {
    return absl::NotFoundError(absl::StrCat(directory, ": is not a directory"));
  }
  auto result = LoadFiles(directory);
  if (!result.ok()) return WithDirectory(directory, result.status());
  return result;
}

}  // namespace t2r
