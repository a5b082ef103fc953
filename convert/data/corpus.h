// Training and evaluation text: documents, or pairs of a source and its target, tokenised and cut
// into windows.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engine/model/config.h"
#include "engine/tokenizer/tokenizer.h"

namespace t2r::convert {

struct CorpusOptions {
  // A line that separates documents. Empty: the whole file is one document.
  std::string separator;
  // The file holds token ids, separated by white space, instead of text.
  bool ids = false;
  // A BOS first where the tokenizer (or a file of ids) puts none: its bos_id, or else the config's.
  bool bos = false;
  int64_t documents = 0;                // the first so many; 0: all
  int64_t max_tokens_per_document = 0;  // cut to so many, BOS included; 0: uncut
};

struct Corpus {
  // Each with what the tokenizer puts around a text (of a pair: the decoder's start token, then the
  // target), at least two ids.
  std::vector<std::vector<int32_t>> documents;
  std::vector<std::vector<int32_t>> sources;  // pairs only: each document's source, not empty
  std::optional<int32_t> bos;  // that documents were given; nullopt: none, or ids as they are
  int64_t tokens = 0;          // of all documents, sources left out
  int64_t skipped = 0;  // documents with nothing to predict (fewer than two ids); pairs with an
                        // empty side or a side that is too long
  bool pairs() const { return !sources.empty(); }
};

// Splits text into documents, white space stripped from both ends of each; empty ones are dropped.
// A line ends with "\n" or "\r\n"; both are read as "\n".
std::vector<std::string> SplitDocuments(const std::string& text, const std::string& separator);

// Each document is tokenised as one text, with BOS first where the tokenizer adds one, as the
// service and transformers do it, or where options.bos asks for it. `tokenizer` may be null with
// ids. Throws ConvertError: no file, invalid UTF-8 (with its byte offset), no documents, an id
// outside the vocabulary, options.bos where neither tokenizer nor config names a BOS.
Corpus LoadCorpus(const std::string& path, const CorpusOptions& options, const ModelConfig& config,
                  const Tokenizer* tokenizer);

// Pairs: the two sides of line i of a file with a tab between them or, where `targets` is not
// empty, line i of two files. Sources are tokenised as sources, targets as targets, each with what
// its model puts around it; ids are taken as they are. Pairs with a side of more than `longest`
// tokens are skipped. Throws ConvertError as LoadCorpus does, and where lines do not pair up.
Corpus LoadParallelCorpus(const std::string& path, const std::string& targets,
                          const CorpusOptions& options, int64_t longest, const ModelConfig& config,
                          const Tokenizer* tokenizer);

// The lines of such a file or files: (source, target).
std::vector<std::pair<std::string, std::string>> ReadPairs(const std::string& path,
                                                           const std::string& targets);

// Token ids, separated by white space. Throws ConvertError naming `path`.
std::vector<int32_t> ParseIds(const std::string& text, const std::string& path, int vocab_size);

// One sequence a row: all documents one after the other, cut into rows of `tokens` ids (the last
// may be shorter; a single id is left out). For lengths that no single document has.
Corpus Concatenated(const Corpus& corpus, int64_t tokens);

// Part of a document: predicts ids[start + 1 … start + length] from ids[start … start + length -
// 1].
struct Window {
  int32_t document = 0;
  int64_t start = 0;
  int64_t length = 0;         // ≥ 1
  int64_t source_length = 0;  // pairs: tokens of its source
  // The first so many predictions do not count: an earlier window makes them, with more behind them
  // or as much.
  int64_t context = 0;  // < length
};

// Cuts every document from its start into windows of at most `size` predictions. Each token is
// predicted exactly once; a document's first window starts with its BOS, the others go on where the
// one before ended. A pair is one window, whatever its length.
std::vector<Window> CutWindows(const Corpus& corpus, int64_t size);

// A batch: rows of windows, all at most `length` long.
struct BatchPlan {
  std::vector<Window> windows;
  int64_t length =
      0;  // longest window; of documents rounded up to a multiple of 32 within the size
  int64_t source_length = 0;  // longest source
};

// The batches of one epoch: all windows once, in an order that depends on (seed, epoch) only.
// Windows of similar length share a batch, and a batch has at most `batch_tokens` positions,
// padding and sources included (but at least one window).
std::vector<BatchPlan> PlanEpoch(const std::vector<Window>& windows, int64_t window_size,
                                 int64_t batch_tokens, uint64_t seed, int64_t epoch);

}  // namespace t2r::convert
