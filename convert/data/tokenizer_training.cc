#include "convert/data/tokenizer_training.h"

#include "convert/error.h"
#include "engine/io/shared_library.h"

namespace t2r::convert {
namespace {

constexpr char kFileName[] = "libt2r_tokenizer_training.so";

using TrainFunction = int(const char*, size_t, int, char**, size_t*);
using FreeFunction = void(const char*);

}  // namespace

std::string TrainTokenizer(const std::vector<std::string>& documents, int vocab_size) {
  if (vocab_size < 260) {
    throw ConvertError(
        "--train-tokenizer needs at least 260 pieces: 256 bytes and 3 control pieces come first; "
        "got " +
        std::to_string(vocab_size));
  }
  std::string text;
  for (const std::string& document : documents) text += document + "\n";
  if (text.find_first_not_of('\n') == std::string::npos) {
    throw ConvertError("training the tokenizer: the text is empty");
  }
  const std::string path = FileBesideProgram(kFileName);
  if (path.empty()) {
    throw ConvertError(std::string("training a tokenizer needs ") + kFileName +
                       " beside t2r-convert: there is none");
  }
  const SharedLibrary module(path, SymbolScope::kDeep);
  if (!module.loaded()) throw ConvertError("training a tokenizer: " + module.error());
  auto* const train = module.Find<TrainFunction>("t2r_train_tokenizer");
  auto* const release = module.Find<FreeFunction>("t2r_free");
  if (train == nullptr || release == nullptr) {
    throw ConvertError(path + " is of another version");
  }
  char* result = nullptr;
  size_t size = 0;
  const int failed = train(text.data(), text.size(), vocab_size, &result, &size);
  std::string bytes = result == nullptr ? "out of memory" : std::string(result, size);
  release(result);
  if (failed != 0) throw ConvertError("training the tokenizer: " + bytes);
  return bytes;
}

}  // namespace t2r::convert
