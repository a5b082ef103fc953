#include "convert/gguf/tensor_type.h"

#include <bit>

#include "engine/ops/dtype.h"

namespace t2r::convert {
namespace {

// Block layouts and formulas below are those of ggml (ggml-common.h and ggml-quants.c describe
// them); all numbers are little-endian. d and m stand for a block's scale and minimum, both halves.

uint16_t Bits16(const uint8_t* bytes) {
  return static_cast<uint16_t>(bytes[0] | static_cast<unsigned>(bytes[1]) << 8);
}

uint32_t Bits32(const uint8_t* bytes) {
  return Bits16(bytes) | static_cast<uint32_t>(Bits16(bytes + 2)) << 16;
}

float Half(const uint8_t* bytes) { return Float16ToFloat(Bits16(bytes)); }

void FromF32(const uint8_t* block, float* values) { *values = std::bit_cast<float>(Bits32(block)); }

void FromF16(const uint8_t* block, float* values) { *values = Half(block); }

void FromBF16(const uint8_t* block, float* values) { *values = BFloat16ToFloat(Bits16(block)); }

// d; 32 signed bytes q. x = d·q.
void FromQ8_0(const uint8_t* block, float* values) {
  const float d = Half(block);
  for (int i = 0; i < 32; ++i)
    values[i] = d * static_cast<float>(static_cast<int8_t>(block[2 + i]));
}

// The 32 four-bit numbers of 16 bytes: the low halves are the first 16.
int Nibble(const uint8_t* bytes, int i) { return i < 16 ? bytes[i] & 0xF : bytes[i - 16] >> 4; }

// d; 32 nibbles q. x = d·(q − 8).
void FromQ4_0(const uint8_t* block, float* values) {
  const float d = Half(block);
  for (int i = 0; i < 32; ++i) values[i] = d * static_cast<float>(Nibble(block + 2, i) - 8);
}

// d; m; 32 nibbles q. x = d·q + m.
void FromQ4_1(const uint8_t* block, float* values) {
  const float d = Half(block);
  const float m = Half(block + 2);
  for (int i = 0; i < 32; ++i) values[i] = d * static_cast<float>(Nibble(block + 4, i)) + m;
}

// d; 32 fifth bits, number i's at bit i; 32 nibbles. x = d·(q − 16).
void FromQ5_0(const uint8_t* block, float* values) {
  const float d = Half(block);
  const uint32_t high = Bits32(block + 2);
  for (int i = 0; i < 32; ++i) {
    const int q = Nibble(block + 6, i) | static_cast<int>(high >> i & 1) << 4;
    values[i] = d * static_cast<float>(q - 16);
  }
}

// d; m; fifth bits and nibbles as above. x = d·q + m.
void FromQ5_1(const uint8_t* block, float* values) {
  const float d = Half(block);
  const float m = Half(block + 2);
  const uint32_t high = Bits32(block + 4);
  for (int i = 0; i < 32; ++i) {
    const int q = Nibble(block + 8, i) | static_cast<int>(high >> i & 1) << 4;
    values[i] = d * static_cast<float>(q) + m;
  }
}

// The scale and the minimum of one of the eight sub-blocks of a K block, six bits each in twelve
// bytes: of the first four the scales are the low bits of bytes 0 to 3 and the minima those of 4 to
// 7; of the last four the low four bits are in bytes 8 to 11 (scale below minimum) and the high two
// are the top bits of bytes 0 to 3 and 4 to 7.
struct SubBlock {
  float scale, minimum;
};
SubBlock UnpackSubBlock(const uint8_t* packed, int i) {
  if (i < 4) return {static_cast<float>(packed[i] & 63), static_cast<float>(packed[i + 4] & 63)};
  const int scale = (packed[i + 4] & 0xF) | packed[i - 4] >> 6 << 4;
  const int minimum = packed[i + 4] >> 4 | packed[i] >> 6 << 4;
  return {static_cast<float>(scale), static_cast<float>(minimum)};
}

// Q4_K and Q5_K. d; d of the minima; eight sub-blocks of 32 values; for Q5_K fifth bits, sub-block
// b's in bit b of 32 bytes; nibbles, 32 bytes for two sub-blocks, the even one's below.
// x = (d·scale)·q − d_min·minimum.
void FromK(const uint8_t* block, const uint8_t* high, const uint8_t* low, float* values) {
  const float d = Half(block);
  const float d_min = Half(block + 2);
  for (int b = 0; b < 8; ++b) {
    const SubBlock sub = UnpackSubBlock(block + 4, b);
    const float scale = d * sub.scale;
    const float minimum = d_min * sub.minimum;
    for (int i = 0; i < 32; ++i) {
      int q = low[b / 2 * 32 + i] >> (b % 2 * 4) & 0xF;
      if (high != nullptr) q |= (high[i] >> b & 1) << 4;
      values[b * 32 + i] = scale * static_cast<float>(q) - minimum;
    }
  }
}

void FromQ4_K(const uint8_t* block, float* values) { FromK(block, nullptr, block + 16, values); }

void FromQ5_K(const uint8_t* block, float* values) { FromK(block, block + 16, block + 48, values); }

// 128 bytes of low nibbles; 64 bytes of two high bits; 16 signed scales, one for 16 values; d.
// Each half of the block has 128 values in four groups of 32: group g has its nibbles in 32 bytes
// at 32·(g mod 2), below for g < 2, and its high bits at bit 2g of the half's 32 bytes.
// x = (d·scale)·(q − 32).
void FromQ6_K(const uint8_t* block, float* values) {
  const float d = Half(block + 208);
  for (int i = 0; i < 256; ++i) {
    const int half = i / 128;
    const int group = i % 128 / 32;
    const int low = block[half * 64 + group % 2 * 32 + i % 32] >> (group / 2 * 4) & 0xF;
    const int high = block[128 + half * 32 + i % 32] >> (2 * group) & 3;
    const auto scale = static_cast<float>(static_cast<int8_t>(block[192 + i / 16]));
    values[i] = d * scale * static_cast<float>((low | high << 4) - 32);
  }
}

constexpr GgufTensorType kTypes[] = {
    {0, "F32", 1, 4, FromF32},        {1, "F16", 1, 2, FromF16},
    {30, "BF16", 1, 2, FromBF16},     {8, "Q8_0", 32, 34, FromQ8_0},
    {2, "Q4_0", 32, 18, FromQ4_0},    {3, "Q4_1", 32, 20, FromQ4_1},
    {6, "Q5_0", 32, 22, FromQ5_0},    {7, "Q5_1", 32, 24, FromQ5_1},
    {12, "Q4_K", 256, 144, FromQ4_K}, {13, "Q5_K", 256, 176, FromQ5_K},
    {14, "Q6_K", 256, 210, FromQ6_K},
};

// Types that other programs write and this one does not read.
struct OtherType {
  uint32_t number;
  const char* name;
};
constexpr OtherType kOthers[] = {
    {4, "Q4_2"},      {5, "Q4_3"},      {9, "Q8_1"},      {10, "Q2_K"},    {11, "Q3_K"},
    {15, "Q8_K"},     {16, "IQ2_XXS"},  {17, "IQ2_XS"},   {18, "IQ3_XXS"}, {19, "IQ1_S"},
    {20, "IQ4_NL"},   {21, "IQ3_S"},    {22, "IQ2_S"},    {23, "IQ4_XS"},  {24, "I8"},
    {25, "I16"},      {26, "I32"},      {27, "I64"},      {28, "F64"},     {29, "IQ1_M"},
    {31, "Q4_0_4_4"}, {32, "Q4_0_4_8"}, {33, "Q4_0_8_8"}, {34, "TQ1_0"},   {35, "TQ2_0"},
    {39, "MXFP4"},    {40, "NVFP4"},
};

}  // namespace

const GgufTensorType* FindGgufTensorType(uint32_t number) {
  for (const GgufTensorType& type : kTypes) {
    if (type.number == number) return &type;
  }
  return nullptr;
}

std::string GgufTensorTypeName(uint32_t number) {
  const char* name = nullptr;
  if (const GgufTensorType* type = FindGgufTensorType(number)) name = type->name;
  for (const OtherType& other : kOthers) {
    if (other.number == number) name = other.name;
  }
  const std::string text = std::to_string(number);
  return name == nullptr ? text : std::string(name) + " (" + text + ")";
}

std::string GgufTensorTypeNames() {
  std::string names;
  for (const GgufTensorType& type : kTypes) {
    if (!names.empty()) names += ", ";
    names += type.name;
  }
  return names;
}

}  // namespace t2r::convert
