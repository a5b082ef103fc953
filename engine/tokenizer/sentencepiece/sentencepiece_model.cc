#include "engine/tokenizer/sentencepiece/sentencepiece_model.h"

#include <cmath>
#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "engine/io/status_macros.h"
#include "engine/text/utf8.h"
#include "engine/tokenizer/hf/bpe_model.h"
#include "engine/tokenizer/sentencepiece/wire_reader.h"

namespace t2r {
namespace {

using Kind = WireReader::Kind;
using Type = SentencePieceModel::Type;

absl::Status Invalid(const std::string& what) { return absl::InvalidArgumentError(what); }

uint32_t LittleEndian(std::string_view bytes, size_t at) {
  uint32_t value = 0;
  for (int i = 0; i < 4; ++i) {
    value |= static_cast<uint32_t>(static_cast<uint8_t>(bytes[at + i])) << (8 * i);
  }
  return value;
}

// A compiled normalisation table: the size of a double-array trie, the trie's 32-bit units, and
// zero-terminated strings that its leaves point into. A lookup at unit i goes on to unit
// (i ^ offset(i)) ^ byte and to the leaf at i ^ offset(i); all of these must exist.
absl::Status CheckCharsMap(std::string_view map) {
  if (map.empty()) return absl::OkStatus();
  const std::string bad = "normalizer_spec: precompiled_charsmap ";
  if (map.size() <= 4) return Invalid(bad + "is too short");
  const size_t trie_bytes = LittleEndian(map, 0);
  if (trie_bytes > map.size() - 4 || trie_bytes % 4 != 0 || trie_bytes < 1024) {
    return Invalid(absl::StrCat(bad, "has a trie of ", trie_bytes, " bytes in ", map.size()));
  }
  const std::string_view strings = map.substr(4 + trie_bytes);
  if (strings.empty() || strings.back() != '\0') {
    return Invalid(bad + "has no zero-terminated strings");
  }
  const size_t units = trie_bytes / 4;
  constexpr uint32_t kLeaf = 1u << 31;
  constexpr uint32_t kHasLeaf = 1u << 8;
  for (size_t i = 0; i < units; ++i) {
    const uint32_t unit = LittleEndian(map, 4 + 4 * i);
    if ((unit & kLeaf) != 0 && i != 0) continue;  // not gone on from; the root always is
    const size_t base = i ^ static_cast<size_t>((unit >> 10) << ((unit & 1u << 9) >> 6));
    if ((base | 0xFF) >= units) {
      return Invalid(absl::StrCat(bad, "points outside its trie at unit ", i));
    }
    if ((unit & kHasLeaf) == 0) continue;
    if ((LittleEndian(map, 4 + 4 * base) & ~kLeaf) >= strings.size()) {
      return Invalid(absl::StrCat(bad, "points outside its strings at unit ", i));
    }
  }
  return absl::OkStatus();
}

absl::Status ReadPiece(std::string_view message, SentencePieceModel* model) {
  const std::string where = absl::StrCat("pieces[", model->pieces.size(), "]: ");
  SentencePieceModel::Piece piece;
  WireReader reader(message);
  while (reader.Next()) {
    if (reader.Is(1, Kind::kBytes)) piece.text = std::string(reader.bytes);
    if (reader.Is(2, Kind::kFixed32) && !std::isfinite(reader.AsFloat())) {
      return Invalid(where + "the score is not finite");
    }
    if (reader.Is(3, Kind::kVarint)) {
      if (reader.number < 1 || reader.number > 6) {
        return Invalid(absl::StrCat(where, "type ", reader.number, " is unknown"));
      }
      piece.type = static_cast<Type>(reader.number);
    }
  }
  if (reader.failed()) return Invalid(where + "is not valid Protobuf");
  if (piece.text.empty()) return Invalid(where + "the piece is empty");
  if (FindInvalidUtf8(piece.text) != std::string_view::npos) {
    return Invalid(where + "the piece is not valid UTF-8");
  }
  if (piece.text.find('\0') != std::string::npos) {
    return Invalid(where + "the piece holds a zero byte");
  }
  if (model->pieces.size() >= static_cast<size_t>(kMaxTokenIds)) {
    return Invalid(absl::StrCat("more than ", kMaxTokenIds, " pieces"));
  }
  model->pieces.push_back(std::move(piece));
  return absl::OkStatus();
}

absl::Status ReadTrainerSpec(std::string_view message, SentencePieceModel* model) {
  WireReader reader(message);
  while (reader.Next()) {
    if (reader.Is(24, Kind::kVarint) && reader.number != 0) {
      return absl::UnimplementedError("trainer_spec: treat_whitespace_as_suffix is not supported");
    }
    if (reader.Is(44, Kind::kBytes)) model->unknown_surface = std::string(reader.bytes);
    if (reader.Is(46, Kind::kBytes)) model->bos_piece = std::string(reader.bytes);
    if (reader.Is(47, Kind::kBytes)) model->eos_piece = std::string(reader.bytes);
  }
  if (reader.failed()) return Invalid("trainer_spec is not valid Protobuf");
  return absl::OkStatus();
}

absl::Status ReadNormalizerSpec(std::string_view message, bool denormalizer,
                                SentencePieceModel* model) {
  WireReader reader(message);
  while (reader.Next()) {
    if (reader.Is(2, Kind::kBytes)) {
      if (denormalizer && !reader.bytes.empty()) {
        return absl::UnimplementedError("denormalizer_spec: precompiled_charsmap is not supported");
      }
      T2R_RETURN_IF_ERROR(CheckCharsMap(reader.bytes));
    }
    if (denormalizer) continue;
    if (reader.Is(3, Kind::kVarint)) model->add_dummy_prefix = reader.number != 0;
    if (reader.Is(4, Kind::kVarint)) model->remove_extra_whitespaces = reader.number != 0;
  }
  if (reader.failed()) return Invalid("normalizer_spec is not valid Protobuf");
  return absl::OkStatus();
}

absl::StatusOr<SentencePieceModel> ParseModel(std::string_view bytes) {
  SentencePieceModel model;
  WireReader reader(bytes);
  while (reader.Next()) {
    if (reader.kind != Kind::kBytes) continue;
    if (reader.field == 1) T2R_RETURN_IF_ERROR(ReadPiece(reader.bytes, &model));
    if (reader.field == 2) T2R_RETURN_IF_ERROR(ReadTrainerSpec(reader.bytes, &model));
    if (reader.field == 3 || reader.field == 5) {
      T2R_RETURN_IF_ERROR(ReadNormalizerSpec(reader.bytes, reader.field == 5, &model));
    }
  }
  if (reader.failed()) return Invalid("is not a SentencePiece model (not valid Protobuf)");
  if (model.pieces.empty()) return Invalid("is not a SentencePiece model (it has no pieces)");
  return model;
}

}  // namespace

std::optional<int32_t> SentencePieceModel::FindControl(const std::string& name) const {
  for (size_t id = 0; id < pieces.size(); ++id) {
    if (pieces[id].type == Type::kControl && pieces[id].text == name) {
      return static_cast<int32_t>(id);
    }
  }
  return std::nullopt;
}

std::string SentencePieceModel::Piece::Bytes() const {
  constexpr std::string_view kSpace = "\xE2\x96\x81";
  // "<0x41>"; the library has checked that byte pieces look like this.
  if (type == Type::kByte) {
    return std::string(1, static_cast<char>(std::strtoul(text.c_str() + 3, nullptr, 16)));
  }
  std::string bytes;
  for (std::string_view rest = text; !rest.empty();) {
    const bool space = rest.starts_with(kSpace);
    bytes.push_back(space ? ' ' : rest[0]);
    rest.remove_prefix(space ? kSpace.size() : 1);
  }
  return bytes;
}

absl::StatusOr<SentencePieceModel> SentencePieceModel::Parse(std::string_view bytes,
                                                             const std::string& file) {
  auto model = ParseModel(bytes);
  if (!model.ok()) {
    return absl::Status(model.status().code(), absl::StrCat(file, ": ", model.status().message()));
  }
  return model;
}

}  // namespace t2r
