// Trains a SentencePiece tokenizer for a model from scratch.
#pragma once

#include <string>
#include <vector>

namespace t2r::convert {

// BPE with byte fallback: any text has ids. Ids: 0 unknown, 1 BOS, 2 EOS, 3 to 258 the bytes, then
// the pieces. Text is taken as it is (no normalisation); digits are split; line ends are byte
// tokens. Returns a tokenizer.model's bytes. Throws ConvertError where `vocab_size` is below 260
// or more than the text can give, where the text is empty, and where the module below is not there.
//
// Debian's libsentencepiece brings and exports a protobuf of its own, older than the one LibTorch
// links: in one symbol scope the two break each other. So the trainer sits in a module beside the
// executable, libt2r_tokenizer_training.so, loaded into a scope of its own.
std::string TrainTokenizer(const std::vector<std::string>& documents, int vocab_size);

}  // namespace t2r::convert
