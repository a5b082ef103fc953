// Writes GGUF files for tests, in memory. Written from the format's description and sharing nothing
// with the reader.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

namespace t2r::testing {

// Numbers as the format has them: little-endian, strings with a 64-bit length before them.
class LittleEndianBytes {
 public:
  LittleEndianBytes& Number(uint64_t value, int bytes) {
    for (int i = 0; i < bytes; ++i) text_.push_back(static_cast<char>(value >> (8 * i)));
    return *this;
  }
  LittleEndianBytes& Float(float value) { return Number(std::bit_cast<uint32_t>(value), 4); }
  LittleEndianBytes& String(const std::string& value) {
    Number(value.size(), 8);
    text_ += value;
    return *this;
  }
  LittleEndianBytes& Raw(const std::string& bytes) {
    text_ += bytes;
    return *this;
  }
  const std::string& text() const { return text_; }

 private:
  std::string text_;
};

class GgufBytes {
 public:
  // A key with a value of this type (the format's number) and these bytes.
  GgufBytes& Key(const std::string& name, uint32_t type, const std::string& value) {
    keys_.push_back({name, LittleEndianBytes().String(name).Number(type, 4).Raw(value).text(), ""});
    return *this;
  }
  GgufBytes& Uint32(const std::string& name, uint32_t value) {
    return Key(name, 4, LittleEndianBytes().Number(value, 4).text());
  }
  GgufBytes& Float32(const std::string& name, float value) {
    return Key(name, 6, LittleEndianBytes().Float(value).text());
  }
  GgufBytes& Bool(const std::string& name, bool value) {
    return Key(name, 7, std::string(1, value ? '\1' : '\0'));
  }
  GgufBytes& String(const std::string& name, const std::string& value) {
    return Key(name, 8, LittleEndianBytes().String(value).text());
  }
  GgufBytes& Strings(const std::string& name, const std::vector<std::string>& values) {
    LittleEndianBytes bytes;
    bytes.Number(8, 4).Number(values.size(), 8);
    for (const std::string& value : values) bytes.String(value);
    return Key(name, 9, bytes.text());
  }
  GgufBytes& Int32s(const std::string& name, const std::vector<int32_t>& values) {
    LittleEndianBytes bytes;
    bytes.Number(5, 4).Number(values.size(), 8);
    for (const int32_t value : values) bytes.Number(static_cast<uint32_t>(value), 4);
    return Key(name, 9, bytes.text());
  }
  GgufBytes& Float32s(const std::string& name, const std::vector<float>& values) {
    LittleEndianBytes bytes;
    bytes.Number(6, 4).Number(values.size(), 8);
    for (const float value : values) bytes.Float(value);
    return Key(name, 9, bytes.text());
  }
  // Takes a key away again.
  GgufBytes& Drop(const std::string& name) {
    std::erase_if(keys_, [&](const Entry& key) { return key.name == name; });
    return *this;
  }
  // Shape as HF has it, the slowest dimension first; type by the format's number.
  GgufBytes& Tensor(const std::string& name, const std::vector<int64_t>& shape, uint32_t type,
                    const std::string& data) {
    LittleEndianBytes bytes;
    bytes.String(name).Number(shape.size(), 4);
    for (size_t i = shape.size(); i > 0; --i) bytes.Number(static_cast<uint64_t>(shape[i - 1]), 8);
    bytes.Number(type, 4);
    tensors_.push_back({name, bytes.text(), data});
    return *this;
  }
  GgufBytes& FloatTensor(const std::string& name, const std::vector<int64_t>& shape,
                         const std::vector<float>& values) {
    LittleEndianBytes bytes;
    for (const float value : values) bytes.Float(value);
    return Tensor(name, shape, 0, bytes.text());
  }
  GgufBytes& DropTensor(const std::string& name) {
    std::erase_if(tensors_, [&](const Entry& tensor) { return tensor.name == name; });
    return *this;
  }

  // The file. The header's size is that of its text before the data, in bytes.
  std::string Bytes(uint32_t version = 3, size_t alignment = 32) const {
    LittleEndianBytes bytes;
    bytes.Raw("GGUF").Number(version, 4).Number(tensors_.size(), 8).Number(keys_.size(), 8);
    for (const Entry& key : keys_) bytes.Raw(key.head);
    std::string data;
    for (const Entry& tensor : tensors_) {
      data.resize((data.size() + alignment - 1) / alignment * alignment);
      bytes.Raw(tensor.head).Number(data.size(), 8);
      data += tensor.data;
    }
    std::string file = bytes.text();
    if (!data.empty()) file.resize((file.size() + alignment - 1) / alignment * alignment);
    return file + data;
  }

 private:
  struct Entry {
    std::string name, head, data;
  };
  std::vector<Entry> keys_, tensors_;
};

}  // namespace t2r::testing
