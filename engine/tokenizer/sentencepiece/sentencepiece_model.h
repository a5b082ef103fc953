// What a SentencePiece model file holds, read and checked without libsentencepiece.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace t2r {

// The fields of ModelProto (sentencepiece_model.proto) that decoding and checking need.
struct SentencePieceModel {
  enum class Type : uint8_t {
    kNormal = 1,
    kUnknown = 2,
    kControl = 3,
    kUserDefined = 4,
    kUnused = 5,
    kByte = 6
  };
  struct Piece {
    std::string text;
    Type type = Type::kNormal;

    // What the piece adds to a text inside it: a byte piece its byte, any other its text with
    // spaces for U+2581. Control and unknown pieces are the caller's affair.
    std::string Bytes() const;
  };
  std::vector<Piece> pieces;
  std::string unknown_surface = " \xE2\x81\x87 ";  // what an unknown piece decodes to
  std::string bos_piece = "<s>", eos_piece = "</s>";
  bool add_dummy_prefix = true;
  bool remove_extra_whitespaces = true;

  // The control piece of this name.
  std::optional<int32_t> FindControl(const std::string& name) const;

  // libsentencepiece trusts its input; so that a hostile file cannot make it read out of bounds,
  // this checks types, scores and the compiled normalisation tables too. INVALID_ARGUMENT or, for
  // a denormaliser or spaces as suffixes, UNIMPLEMENTED; errors begin with `file`.
  static absl::StatusOr<SentencePieceModel> Parse(std::string_view bytes,
                                                  const std::string& file = "tokenizer.model");
};

}  // namespace t2r
