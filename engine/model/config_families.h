// The fields of config.json that belong to one family of models.
#pragma once

#include "engine/model/config.h"
#include "engine/model/json_fields.h"

namespace t2r {

enum class Family : uint8_t { kLlama, kQwen2, kMistral, kGpt2 };

// Which family `architectures` and `model_type` name; records UNIMPLEMENTED for any other.
Family ReadFamily(JsonFields& fields);

// Refuses every key that is known to change a model's mathematics in a way the forward passes do
// not follow, unless its value is one that changes nothing.
void RefuseUnsupportedKeys(JsonFields& fields, Family family);

// Sizes, biases, norms, positions and the head of the family, defaults as in HF transformers.
void ReadLlamaFields(JsonFields& fields, Family family, ModelConfig* config);
void ReadGpt2Fields(JsonFields& fields, ModelConfig* config);

}  // namespace t2r
