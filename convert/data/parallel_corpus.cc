#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "convert/data/corpus.h"
#include "convert/data/files.h"
#include "convert/error.h"

namespace t2r::convert {
namespace {

std::vector<int32_t> Encoded(const std::string& text, const std::string& where, bool target,
                             const CorpusOptions& options, int vocab_size,
                             const Tokenizer* tokenizer) {
  if (options.ids) return ParseIds(text, where, vocab_size);
  auto encoded = target ? tokenizer->EncodeTarget(text, /*add_special_tokens=*/true)
                        : tokenizer->Encode(text, /*add_special_tokens=*/true);
  if (!encoded.ok()) throw ConvertError(where + ": " + std::string(encoded.status().message()));
  for (const int32_t id : *encoded) {
    if (id < 0 || id >= vocab_size) {
      throw ConvertError(where + ": the tokenizer gives id " + std::to_string(id) +
                         ", outside the vocabulary of " + std::to_string(vocab_size));
    }
  }
  return *std::move(encoded);
}

}  // namespace

std::vector<std::pair<std::string, std::string>> ReadPairs(const std::string& path,
                                                           const std::string& targets) {
  std::vector<std::pair<std::string, std::string>> pairs;
  const std::vector<std::string> lines = ReadLines(path);
  if (!targets.empty()) {
    const std::vector<std::string> others = ReadLines(targets);
    if (lines.size() != others.size()) {
      throw ConvertError(path + " has " + std::to_string(lines.size()) + " lines and " + targets +
                         " has " + std::to_string(others.size()) +
                         ": line i of one is the translation of line i of the other");
    }
    for (size_t i = 0; i < lines.size(); ++i) pairs.emplace_back(lines[i], others[i]);
    return pairs;
  }
  for (size_t i = 0; i < lines.size(); ++i) {
    const size_t tab = lines[i].find('\t');
    if (tab == std::string::npos || lines[i].find('\t', tab + 1) != std::string::npos) {
      throw ConvertError(path + ": line " + std::to_string(i + 1) +
                         " must be a source and its target with one tab between them");
    }
    pairs.emplace_back(lines[i].substr(0, tab), lines[i].substr(tab + 1));
  }
  return pairs;
}

Corpus LoadParallelCorpus(const std::string& path, const std::string& targets,
                          const CorpusOptions& options, int64_t longest, const ModelConfig& config,
                          const Tokenizer* tokenizer) {
  if (tokenizer == nullptr && !options.ids) {
    throw ConvertError("the model directory has no tokenizer: give files of token ids and --ids");
  }
  const auto& both = config.encoder_decoder.value();
  auto pairs = ReadPairs(path, targets);
  if (options.documents > 0 && static_cast<size_t>(options.documents) < pairs.size()) {
    pairs.resize(static_cast<size_t>(options.documents));
  }
  Corpus corpus;
  for (size_t i = 0; i < pairs.size(); ++i) {
    const std::string line = ": line " + std::to_string(i + 1);
    std::vector<int32_t> source =
        Encoded(pairs[i].first, path + line, false, options, both.source_vocab_size, tokenizer);
    std::vector<int32_t> target =
        Encoded(pairs[i].second, (targets.empty() ? path : targets) + line, true, options,
                config.vocab_size, tokenizer);
    if (source.empty() || pairs[i].second.empty() ||
        static_cast<int64_t>(std::max(source.size(), target.size())) > longest) {
      ++corpus.skipped;
      continue;
    }
    target.insert(target.begin(), both.decoder_start_token_id);
    corpus.tokens += static_cast<int64_t>(target.size());
    corpus.documents.push_back(std::move(target));
    corpus.sources.push_back(std::move(source));
  }
  if (corpus.documents.empty()) {
    throw ConvertError(path + ": no pair has two sides of 1 to " + std::to_string(longest) +
                       " tokens");
  }
  return corpus;
}

}  // namespace t2r::convert
