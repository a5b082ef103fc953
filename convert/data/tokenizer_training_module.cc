// The module that TrainTokenizer loads (tokenizer_training.h says why it is one). C interface.
#include <sentencepiece_trainer.h>

#include <cstring>
#include <exception>
#include <new>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace {

// Feeds lines from memory.
class Lines : public sentencepiece::SentenceIterator {
 public:
  explicit Lines(const std::vector<std::string>& lines) : lines_(lines) {}
  bool done() const override { return next_ >= lines_.size(); }
  void Next() override { ++next_; }
  const std::string& value() const override { return lines_[next_]; }
  sentencepiece::util::Status status() const override { return {}; }

 private:
  const std::vector<std::string>& lines_;
  size_t next_ = 0;
};

char* Copy(const std::string& text, size_t* size) {
  char* copy = new char[text.size()];
  std::memcpy(copy, text.data(), text.size());
  *size = text.size();
  return copy;
}

// The bytes of a model of `vocab_size` pieces. Throws when the trainer refuses.
std::string Train(const char* text, size_t text_size, int vocab_size) {
  std::vector<std::string> lines;
  std::istringstream in(std::string(text, text_size));
  for (std::string line; std::getline(in, line);) {
    if (!line.empty()) lines.push_back(line);
  }
  Lines iterator(lines);
  std::string model;
  const std::unordered_map<std::string, std::string> options = {
      {"model_type", "bpe"},
      {"vocab_size", std::to_string(vocab_size)},
      {"byte_fallback", "true"},
      {"split_digits", "true"},
      {"character_coverage", "0.9999"},
      {"normalization_rule_name", "identity"},
      {"remove_extra_whitespaces", "false"},
      {"max_sentence_length", "1000000"},
      {"num_threads", "1"},
      {"minloglevel", "2"},
      {"unk_id", "0"},
      {"bos_id", "1"},
      {"eos_id", "2"},
      {"pad_id", "-1"}};
  const auto status = sentencepiece::SentencePieceTrainer::Train(options, &iterator, &model);
  if (!status.ok()) throw std::runtime_error(status.ToString());
  return model;
}

}  // namespace

// Trains on `text` line by line. Returns 0 and the model's bytes, or 1 and a message, null when
// there is no memory for one; the caller gives `result` back to t2r_free. Nothing is thrown across
// the interface.
extern "C" int t2r_train_tokenizer(const char* text, size_t text_size, int vocab_size,
                                   char** result, size_t* result_size) {
  *result = nullptr;
  try {
    *result = Copy(Train(text, text_size, vocab_size), result_size);
    return 0;
  } catch (const std::exception& error) {
    const std::string_view what = error.what();
    *result = new (std::nothrow) char[what.size()];
    if (*result != nullptr) std::memcpy(*result, what.data(), what.size());
    *result_size = what.size();
  }
  return 1;
}

extern "C" void t2r_free(const char* result) { delete[] result; }
