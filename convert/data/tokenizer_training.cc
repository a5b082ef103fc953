#include "convert/data/tokenizer_training.h"

#include <dlfcn.h>

#include <filesystem>
#include <stdexcept>

namespace t2r::convert {
namespace {

using TrainFunction = int (*)(const char*, size_t, int, char**, size_t*);
using FreeFunction = void (*)(const char*);

void* LoadModule() {
  const std::filesystem::path beside =
      std::filesystem::read_symlink("/proc/self/exe").parent_path();
  std::string reason;
  for (const auto& folder : {beside, beside.parent_path()}) {
    const std::string path = (folder / "libt2r_tokenizer_training.so").string();
    if (!std::filesystem::exists(path)) continue;
    if (void* module = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND)) return module;
    reason = dlerror();
  }
  throw std::invalid_argument(
      "training a tokenizer needs libt2r_tokenizer_training.so beside "
      "t2r-convert: " +
      (reason.empty() ? "not found" : reason));
}

}  // namespace

std::string TrainTokenizer(const std::vector<std::string>& documents, int vocab_size) {
  if (vocab_size < 260) {
    throw std::invalid_argument(
        "--train-tokenizer needs at least 260 pieces: 256 bytes and 3 control pieces come first; "
        "got " +
        std::to_string(vocab_size));
  }
  std::string text;
  for (const std::string& document : documents) text += document + "\n";
  void* module = LoadModule();
  const auto train = reinterpret_cast<TrainFunction>(dlsym(module, "t2r_train_tokenizer"));
  const auto release = reinterpret_cast<FreeFunction>(dlsym(module, "t2r_free"));
  if (train == nullptr || release == nullptr) {
    throw std::invalid_argument("libt2r_tokenizer_training.so is of another version");
  }
  char* result = nullptr;
  size_t size = 0;
  const int failed = train(text.data(), text.size(), vocab_size, &result, &size);
  std::string bytes(result, size);
  release(result);
  if (failed != 0) throw std::invalid_argument("training the tokenizer: " + bytes);
  return bytes;
}

}  // namespace t2r::convert
