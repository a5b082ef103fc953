#include "server/wire_errors.h"

#include <google/protobuf/wire_format_lite.h>

#include "absl/strings/str_cat.h"
#include "engine/text/utf8.h"

namespace t2r::server {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::internal::WireFormatLite;

// As deep as Protobuf's parser goes.
constexpr int kMaxDepth = 100;

// A position in the whole message, and where the message that is being walked ends.
struct Walk {
  std::string_view bytes;
  size_t at = 0;
};

absl::Status Fault(const std::string& path, size_t byte, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat(
      path.empty() ? "the request" : path, ": ", what, " at byte ", byte,
      " of the message; it is not a Protobuf message as t2r/v1/generation.proto says"));
}

// False when the varint does not end before `end` or is longer than ten bytes.
bool ReadVarint(Walk* walk, size_t end, uint64_t* value) {
  *value = 0;
  for (int shift = 0; shift < 70 && walk->at < end; shift += 7) {
    const auto byte = static_cast<unsigned char>(walk->bytes[walk->at++]);
    if (shift < 64) *value |= static_cast<uint64_t>(byte & 0x7f) << shift;
    if (byte < 0x80) return true;
  }
  return false;
}

class Walker {
 public:
  explicit Walker(std::string_view bytes) : walk_{bytes} {}

  absl::Status Message(const Descriptor& type, const std::string& path, size_t end, int depth) {
    while (walk_.at < end) {
      const size_t start = walk_.at;
      uint64_t tag = 0;
      if (!ReadVarint(&walk_, end, &tag)) return Fault(path, start, "a tag that does not end");
      const auto number = static_cast<int64_t>(tag >> 3);
      if (number == 0 || tag > UINT32_MAX) return Fault(path, start, "a tag that is none");
      const FieldDescriptor* field = type.FindFieldByNumber(static_cast<int>(number));
      std::string name = path;
      if (field != nullptr) {
        absl::StrAppend(&name, path.empty() ? "" : ".", field->name());
      } else {
        absl::StrAppend(&name, path.empty() ? "" : ".", "field ", number);
      }
      const absl::Status status =
          Value(static_cast<int>(tag & 7), number, field, name, start, end, depth);
      if (!status.ok()) return status;
    }
    return absl::OkStatus();
  }

 private:
  absl::Status Value(int wire_type, int64_t number, const FieldDescriptor* field,
                     const std::string& name, size_t start, size_t end, int depth) {
    uint64_t value = 0;
    switch (wire_type) {
      case WireFormatLite::WIRETYPE_VARINT:
        if (ReadVarint(&walk_, end, &value)) return absl::OkStatus();
        return Fault(name, start, "a number that does not end");
      case WireFormatLite::WIRETYPE_FIXED64:
        return Skip(8, name, start, end);
      case WireFormatLite::WIRETYPE_FIXED32:
        return Skip(4, name, start, end);
      case WireFormatLite::WIRETYPE_LENGTH_DELIMITED:
        if (!ReadVarint(&walk_, end, &value)) {
          return Fault(name, start, "a length that does not end");
        }
        if (value > end - walk_.at) {
          return Fault(name, start,
                       absl::StrCat("a value of ", value, " bytes, of which ", end - walk_.at,
                                    " are there,"));
        }
        return Delimited(field, name, walk_.at + value, depth);
      case WireFormatLite::WIRETYPE_START_GROUP:
        return Group(number, name, start, end, depth);
      default:
        return Fault(name, start, "a wire type that is none");
    }
  }

  absl::Status Skip(size_t count, const std::string& name, size_t start, size_t end) {
    if (end - walk_.at < count) return Fault(name, start, "a number that is cut off");
    walk_.at += count;
    return absl::OkStatus();
  }

  absl::Status Delimited(const FieldDescriptor* field, const std::string& name, size_t end,
                         int depth) {
    const size_t start = walk_.at;
    if (field != nullptr && field->type() == FieldDescriptor::TYPE_STRING) {
      const size_t invalid = FindInvalidUtf8(walk_.bytes.substr(start, end - start));
      if (invalid != std::string_view::npos) {
        return absl::InvalidArgumentError(
            absl::StrCat(name, ": not valid UTF-8 at byte ", invalid, " of the text"));
      }
    } else if (field != nullptr && field->type() == FieldDescriptor::TYPE_MESSAGE) {
      if (depth == kMaxDepth) return Fault(name, start, "a message nested too deep");
      return Message(*field->message_type(), name, end, depth + 1);
    } else if (field != nullptr && field->is_packable()) {
      while (walk_.at < end) {
        const size_t element = walk_.at;
        const absl::Status status =
            Value(WireFormatLite::WireTypeForFieldType(
                      static_cast<WireFormatLite::FieldType>(field->type())),
                  field->number(), nullptr, name, element, end, depth);
        if (!status.ok()) return status;
      }
    }
    walk_.at = end;
    return absl::OkStatus();
  }

  // A group is a field that this API has none of: skipped to its end tag.
  absl::Status Group(int64_t number, const std::string& name, size_t start, size_t end, int depth) {
    if (depth == kMaxDepth) return Fault(name, start, "a group nested too deep");
    while (walk_.at < end) {
      const size_t inner = walk_.at;
      uint64_t tag = 0;
      if (!ReadVarint(&walk_, end, &tag) || tag >> 3 == 0 || tag > UINT32_MAX) {
        return Fault(name, inner, "a tag that is none");
      }
      if ((tag & 7) == WireFormatLite::WIRETYPE_END_GROUP) {
        if (static_cast<int64_t>(tag >> 3) == number) return absl::OkStatus();
        return Fault(name, inner, "the end of another group");
      }
      const absl::Status status = Value(static_cast<int>(tag & 7), static_cast<int64_t>(tag >> 3),
                                        nullptr, name, inner, end, depth + 1);
      if (!status.ok()) return status;
    }
    return Fault(name, start, "a group that does not end");
  }

  Walk walk_;
};

}  // namespace

absl::Status CheckWire(std::string_view bytes, const Descriptor& type) {
  return Walker(bytes).Message(type, "", bytes.size(), 0);
}

}  // namespace t2r::server
