// Any bytes as one of the files of a Marian tokenizer; the first byte says which.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "engine/tokenizer/sentencepiece/marian_tokenizer.h"
#include "testing/small_sentencepiece.h"

namespace {

t2r::MarianFiles Files() {
  t2r::MarianFiles files;
  files.source_spm = t2r::testing::SmallModel({.byte_fallback = false});
  files.target_spm = files.source_spm;
  files.vocab_json = R"({"</s>": 0, "<unk>": 1, "a": 2, ">>fra<<": 3, "once": 7})";
  return files;
}

}  // namespace

std::vector<std::string> FuzzSeeds() {
  const t2r::MarianFiles files = Files();
  return {"0" + files.vocab_json, "1" + files.vocab_json, "2" + files.source_spm,
          "3" + files.target_spm, R"(4{"source_append_eos": false})"};
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string text(reinterpret_cast<const char*>(data) + 1, size - 1);
  t2r::MarianFiles files = Files();
  switch (data[0] % 5) {
    case '0' % 5:
      files.vocab_json = text;
      break;
    case '1' % 5:
      files.target_vocab_json = text;
      break;
    case '2' % 5:
      files.source_spm = text;
      break;
    case '3' % 5:
      files.target_spm = text;
      break;
    default:
      files.config_json = text;
  }
  const auto tokenizer = t2r::MarianTokenizer::Parse(files, {});
  if (!tokenizer.ok()) {
    if (tokenizer.status().message().empty()) std::abort();
    return 0;
  }
  const auto ids = (*tokenizer)->Encode(">>fra<< once upon caf\xC3\xA9  a\n", true);
  if (ids.ok()) (*tokenizer)->Decode(*ids);
  return 0;
}
