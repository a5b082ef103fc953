#include "convert/data/corpus.h"

#include <algorithm>
#include <charconv>
#include <random>
#include <sstream>
#include <string_view>

#include "convert/data/files.h"
#include "convert/error.h"

namespace t2r::convert {
namespace {

std::string_view Strip(std::string_view text) {
  constexpr std::string_view kSpace = " \t\r\n\v\f";
  const size_t begin = text.find_first_not_of(kSpace);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kSpace) + 1 - begin);
}

std::vector<int32_t> Encode(const std::string& document, const std::string& path,
                            const ModelConfig& config, const Tokenizer& tokenizer) {
  auto encoded = tokenizer.Encode(document, /*add_special_tokens=*/true);
  if (!encoded.ok()) {
    throw ConvertError(path + ": document \"" + document.substr(0, 24) +
                       "...\": " + std::string(encoded.status().message()));
  }
  std::vector<int32_t> ids = *std::move(encoded);
  for (const int32_t id : ids) {
    if (id < 0 || id >= config.vocab_size) {
      throw ConvertError(path + ": the tokenizer gives id " + std::to_string(id) +
                         ", outside the model's vocabulary of " +
                         std::to_string(config.vocab_size));
    }
  }
  return ids;
}

// The id that options.bos puts before documents; nullopt: none.
std::optional<int32_t> ForcedBos(const CorpusOptions& options, const ModelConfig& config,
                                 const Tokenizer* tokenizer) {
  if (!options.bos) return std::nullopt;
  if (tokenizer != nullptr && !options.ids) {
    if (tokenizer->adds_bos()) return std::nullopt;
    if (tokenizer->bos_id().has_value()) return tokenizer->bos_id();
  }
  if (config.bos_token_id.has_value()) return config.bos_token_id;
  throw ConvertError("--bos: neither the tokenizer nor config.json names a BOS token");
}

// Fisher-Yates by our own rule: std::shuffle differs between standard libraries.
template <typename T>
void Shuffle(std::vector<T>* items, std::mt19937_64* random) {
  for (size_t i = items->size(); i > 1; --i) {
    std::swap((*items)[i - 1], (*items)[(*random)() % i]);
  }
}

}  // namespace

std::vector<int32_t> ParseIds(const std::string& text, const std::string& path, int vocab_size) {
  std::vector<int32_t> ids;
  std::istringstream words(text);
  for (std::string word; words >> word;) {
    int32_t id = 0;
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), id);
    if (error != std::errc() || end != word.data() + word.size()) {
      throw ConvertError(path + ": '" + word + "' is not a token id (the file is read as ids)");
    }
    if (id < 0 || id >= vocab_size) {
      throw ConvertError(path + ": token id " + word + " is outside the vocabulary of " +
                         std::to_string(vocab_size));
    }
    ids.push_back(id);
  }
  return ids;
}

std::vector<std::string> SplitDocuments(const std::string& text, const std::string& separator) {
  std::vector<std::string> documents;
  std::string current;
  const auto flush = [&] {
    const std::string_view stripped = Strip(current);
    if (!stripped.empty()) documents.emplace_back(stripped);
    current.clear();
  };
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (line.ends_with('\r')) line.pop_back();
    if (!separator.empty() && Strip(line) == separator) {
      flush();
    } else {
      current += line + "\n";
    }
  }
  flush();
  return documents;
}

Corpus LoadCorpus(const std::string& path, const CorpusOptions& options, const ModelConfig& config,
                  const Tokenizer* tokenizer) {
  if (tokenizer == nullptr && !options.ids) {
    throw ConvertError("the model directory has no tokenizer: give files of token ids and --ids");
  }
  const std::string text = ReadFile(path);
  if (text.empty()) throw ConvertError(path + ": the file is empty");
  std::vector<std::string> documents = SplitDocuments(text, options.separator);
  if (documents.empty()) throw ConvertError(path + ": no documents, only white space");
  if (options.documents > 0 && static_cast<size_t>(options.documents) < documents.size()) {
    documents.resize(static_cast<size_t>(options.documents));
  }
  Corpus corpus;
  const std::optional<int32_t> bos = ForcedBos(options, config, tokenizer);
  corpus.bos = bos.has_value() || options.ids || !tokenizer->adds_bos() ? bos : tokenizer->bos_id();
  for (const std::string& document : documents) {
    std::vector<int32_t> ids = options.ids ? ParseIds(document, path, config.vocab_size)
                                           : Encode(document, path, config, *tokenizer);
    if (bos.has_value()) ids.insert(ids.begin(), *bos);
    const auto limit = static_cast<size_t>(options.max_tokens_per_document);
    if (limit > 0 && ids.size() > limit) ids.resize(limit);
    if (ids.size() < 2) {
      ++corpus.skipped;
      continue;
    }
    corpus.tokens += static_cast<int64_t>(ids.size());
    corpus.documents.push_back(std::move(ids));
  }
  if (corpus.documents.empty()) {
    throw ConvertError(path + ": no document has two tokens, so there is nothing to predict");
  }
  return corpus;
}

Corpus Concatenated(const Corpus& corpus, int64_t tokens) {
  Corpus rows;
  rows.bos = corpus.bos;
  std::vector<int32_t> row;
  const auto flush = [&] {
    if (row.size() > 1) {
      rows.tokens += static_cast<int64_t>(row.size());
      rows.documents.push_back(std::move(row));
    }
    row.clear();
  };
  for (const auto& document : corpus.documents) {
    for (const int32_t id : document) {
      row.push_back(id);
      if (static_cast<int64_t>(row.size()) == tokens) flush();
    }
  }
  flush();
  return rows;
}

std::vector<Window> CutWindows(const Corpus& corpus, int64_t size) {
  std::vector<Window> windows;
  for (size_t i = 0; i < corpus.sources.size(); ++i) {
    windows.push_back({static_cast<int32_t>(i), 0,
                       static_cast<int64_t>(corpus.documents[i].size()) - 1,
                       static_cast<int64_t>(corpus.sources[i].size())});
  }
  if (corpus.pairs()) return windows;
  for (size_t i = 0; i < corpus.documents.size(); ++i) {
    const int64_t predictions = static_cast<int64_t>(corpus.documents[i].size()) - 1;
    for (int64_t start = 0; start < predictions; start += size) {
      windows.push_back(
          {static_cast<int32_t>(i), start, std::min<int64_t>(size, predictions - start), 0});
    }
  }
  return windows;
}

std::vector<BatchPlan> PlanEpoch(const std::vector<Window>& windows, int64_t window_size,
                                 int64_t batch_tokens, uint64_t seed, int64_t epoch) {
  std::seed_seq sequence{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32),
                         static_cast<uint32_t>(epoch)};
  std::mt19937_64 random(sequence);
  std::vector<Window> order = windows;
  Shuffle(&order, &random);
  // Sort within pools, not over everything: batches differ from epoch to epoch.
  constexpr size_t kPoolWindows = 1024;
  std::vector<BatchPlan> batches;
  for (size_t begin = 0; begin < order.size(); begin += kPoolWindows) {
    const size_t end = std::min(order.size(), begin + kPoolWindows);
    std::stable_sort(
        order.begin() + static_cast<std::ptrdiff_t>(begin),
        order.begin() + static_cast<std::ptrdiff_t>(end), [](const Window& a, const Window& b) {
          return std::pair(a.length, a.source_length) > std::pair(b.length, b.source_length);
        });
    BatchPlan batch;
    for (size_t i = begin; i < end; ++i) {
      const Window& window = order[i];
      const int64_t source_length = std::max(batch.source_length, window.source_length);
      const auto rows = static_cast<int64_t>(batch.windows.size()) + 1;
      if (rows > 1 && rows * (batch.length + source_length) > batch_tokens) {
        batches.push_back(std::move(batch));
        batch = {};
      }
      if (batch.windows.empty()) {
        batch.length = window.source_length > 0
                           ? window.length
                           : std::min(window_size, (window.length + 31) / 32 * 32);
      }
      batch.source_length = std::max(batch.source_length, window.source_length);
      batch.windows.push_back(window);
    }
    batches.push_back(std::move(batch));
  }
  Shuffle(&batches, &random);
  return batches;
}

}  // namespace t2r::convert
