// The fields of config.json that belong to one family of models.
#pragma once

#include "engine/io/json.h"
#include "engine/model/config.h"

namespace t2r {

enum class Family : uint8_t { kLlama, kQwen2, kMistral, kGpt2, kMarian };

// Far above any model there is, and small enough that products of a few of them fit 64 bits.
inline constexpr int64_t kMaxWidth = 1 << 20;
inline constexpr int64_t kMaxInner = 1 << 22;
inline constexpr int64_t kMaxLayers = 4096;
inline constexpr int64_t kMaxHeads = 1 << 14;
inline constexpr int64_t kMaxHeadDim = 1 << 14;
inline constexpr int64_t kMaxVocabulary = 1 << 26;
inline constexpr int64_t kMaxPositions = int64_t{1} << 40;
inline constexpr int64_t kMaxStoredPositions = 1 << 26;
// Positions of a window, and floats of one layer's state of one session.
inline constexpr int64_t kMaxWindow = 1 << 20;
inline constexpr int64_t kMaxStateFloats = int64_t{1} << 30;

// Which family `architectures` and `model_type` name; records UNIMPLEMENTED for any other.
Family ReadFamily(JsonFields& fields);

// Refuses every key that is known to change a model's mathematics in a way the forward passes do
// not follow, unless its value is one that changes nothing.
void RefuseUnsupportedKeys(JsonFields& fields, Family family);

// Sizes, biases, norms, positions and the head of the family, defaults as in HF transformers.
void ReadLlamaFields(JsonFields& fields, Family family, ModelConfig* config);
void ReadGpt2Fields(JsonFields& fields, ModelConfig* config);
// Encoder-decoders of the Marian kind, with encoder_decoder but for its cross_layer_types; refuses
// the keys of that family that ask for something else.
void ReadMarianFields(JsonFields& fields, ModelConfig* config);
// Refuses forced_bos_token_id, which both configuration files may hold.
void RefuseForcedStart(JsonFields& fields);

}  // namespace t2r
