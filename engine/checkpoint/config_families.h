// The fields of config.json that belong to one family of models.
#pragma once

#include <span>
#include <string_view>

#include "engine/io/json.h"
#include "engine/model/config.h"

namespace t2r {

// One kind of config.json, by HF's names.
struct ConfigFamily {
  const char* architecture;  // an entry of `architectures`
  const char* model_type;
  // Sizes, biases, norms, positions and the head, defaults as in HF transformers; refuses what the
  // forward pass does not follow.
  void (*read)(JsonFields& fields, ModelConfig* config);
};

// Far above any model there is, and small enough that products of a few of them fit 64 bits.
inline constexpr int64_t kMaxWidth = 1 << 20;
inline constexpr int64_t kMaxInner = 1 << 22;
inline constexpr int64_t kMaxLayers = 4096;
inline constexpr int64_t kMaxHeads = 1 << 14;
inline constexpr int64_t kMaxHeadDim = 1 << 14;
inline constexpr int64_t kMaxVocabulary = 1 << 26;
inline constexpr int64_t kMaxPositions = int64_t{1} << 40;
inline constexpr int64_t kMaxStoredPositions = 1 << 26;

// The family that `architectures` and `model_type` name; null, with an error recorded, for any
// other.
const ConfigFamily* FindFamily(JsonFields& fields);

// The readers of the families.
void ReadLlama(JsonFields& fields, ModelConfig* config);
void ReadQwen2(JsonFields& fields, ModelConfig* config);
void ReadQwen3(JsonFields& fields, ModelConfig* config);
void ReadMistral(JsonFields& fields, ModelConfig* config);
void ReadPhi3(JsonFields& fields, ModelConfig* config);
void ReadGpt2(JsonFields& fields, ModelConfig* config);
void ReadGptNeox(JsonFields& fields, ModelConfig* config);
// Encoder-decoders of the Marian kind, with encoder_decoder but for its cross_layer_types.
void ReadMarian(JsonFields& fields, ModelConfig* config);

// What readers share.
// Refuses every key that is known to change a model's mathematics in a way the forward passes do
// not follow, unless its value is one that changes nothing or the family's reader `read`s it.
void RefuseUnsupportedKeys(JsonFields& fields, bool encoder_decoder = false,
                           std::span<const std::string_view> read = {});
void RefuseSlidingWindow(JsonFields& fields);
// Positions of a window, and floats of one layer's state of one session.
inline constexpr int64_t kMaxWindow = 1 << 20;
inline constexpr int64_t kMaxStateFloats = int64_t{1} << 30;
// How a family's files speak of rotary positions.
struct RopeDialect {
  const char* part_key = nullptr;  // of the part of a head that turns; null: whole heads only
  double part = 1.0;               // where that is absent
  // original_max_position_embeddings where it is absent; 0: max_position_embeddings.
  int64_t original = 0;
  bool longrope_names = false;  // longrope was once called su, or yarn
};
// rope_scaling, and rotary_dim. rope_theta beside it, head_dim and max_position_embeddings must
// have been read.
void ReadRope(JsonFields& fields, const RopeDialect& dialect, ModelConfig* config);
// heads_key: what config.json calls the number of heads.
void CheckHeads(JsonFields& fields, const char* heads_key, ModelConfig* config);
// Refuses forced_bos_token_id, which both configuration files may hold.
void RefuseForcedStart(JsonFields& fields);

}  // namespace t2r
