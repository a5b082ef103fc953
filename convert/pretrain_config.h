// config.json of a model from scratch.
#pragma once

#include <string>

#include "convert/commands.h"

namespace t2r::convert {

// vocab_size is the target's where the model is an encoder-decoder. Throws ConvertError where the
// flags do not make a model.
std::string PretrainConfigJson(const PretrainFlags& flags, int vocab_size, int source_vocab_size,
                               bool has_tokenizer);

}  // namespace t2r::convert
