#include "convert/gguf/tensor_type.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "convert/gguf/write_tensors.h"
#include "engine/ops/dtype.h"

namespace t2r::convert {
namespace {

std::vector<uint8_t> FromHex(const std::string& text) {
  std::vector<uint8_t> bytes;
  for (size_t i = 0; i < text.size(); i += 2) {
    bytes.push_back(static_cast<uint8_t>(std::stoi(text.substr(i, 2), nullptr, 16)));
  }
  return bytes;
}

uint32_t BitsAt(const std::vector<uint8_t>& bytes, size_t i) {
  return bytes[4 * i] | static_cast<uint32_t>(bytes[4 * i + 1]) << 8 |
         static_cast<uint32_t>(bytes[4 * i + 2]) << 16 |
         static_cast<uint32_t>(bytes[4 * i + 3]) << 24;
}

// Bit for bit what the Python package gguf gives, for every type.
TEST(GgufTensorTypeTest, DequantisesAsTheReferenceDoes) {
  std::ifstream file(T2R_SOURCE_DIR "/tests/convert/testdata/gguf/blocks.json");
  const auto goldens = nlohmann::json::parse(file);
  EXPECT_EQ(goldens.size(), 11U);
  std::set<std::string> seen;
  for (uint32_t number = 0; number < 64; ++number) {
    const GgufTensorType* type = FindGgufTensorType(number);
    if (type == nullptr) continue;
    ASSERT_TRUE(goldens.contains(type->name)) << type->name;
    seen.insert(type->name);
    const std::vector<uint8_t> blocks = FromHex(goldens[type->name]["blocks"]);
    const std::vector<uint8_t> expected = FromHex(goldens[type->name]["values"]);
    const size_t count = blocks.size() / static_cast<size_t>(type->block_bytes);
    ASSERT_EQ(count * static_cast<size_t>(type->block_bytes), blocks.size()) << type->name;
    std::vector<float> values(count * static_cast<size_t>(type->block_values));
    ASSERT_EQ(values.size() * 4, expected.size()) << type->name;
    for (size_t i = 0; i < count; ++i) {
      type->dequantize(blocks.data() + i * static_cast<size_t>(type->block_bytes),
                       values.data() + i * static_cast<size_t>(type->block_values));
    }
    for (size_t i = 0; i < values.size(); ++i) {
      ASSERT_EQ(std::bit_cast<uint32_t>(values[i]), BitsAt(expected, i)) << type->name << " " << i;
    }
  }
  EXPECT_EQ(seen.size(), 11U);
}

TEST(GgufTensorTypeTest, NamesTypes) {
  EXPECT_EQ(GgufTensorTypeName(3), "Q4_1 (3)");
  EXPECT_EQ(GgufTensorTypeName(23), "IQ4_XS (23)");
  EXPECT_EQ(GgufTensorTypeName(1000), "1000");
}

// Every half comes back; between two neighbours the nearer one, of two equally near the even one.
TEST(FloatToFloat16Test, RoundsToNearestEven) {
  for (uint32_t bits = 0; bits < 0x7c00; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const float value = Float16ToFloat(half);
    ASSERT_EQ(FloatToFloat16(value), half);
    ASSERT_EQ(FloatToFloat16(-value), half | 0x8000);
    // The next half's value, were the largest's 65536.
    const double next = bits == 0x7bff ? 65536.0 : Float16ToFloat(static_cast<uint16_t>(bits + 1));
    const auto middle = static_cast<float>((static_cast<double>(value) + next) / 2);
    ASSERT_EQ(FloatToFloat16(middle), bits % 2 == 0 ? bits : bits + 1);
    ASSERT_EQ(FloatToFloat16(std::nextafter(middle, 0.0F)), bits);
    ASSERT_EQ(FloatToFloat16(std::nextafter(middle, 1e9F)), bits + 1);
  }
  EXPECT_EQ(FloatToFloat16(std::numeric_limits<float>::infinity()), 0x7c00);
  EXPECT_EQ(FloatToFloat16(-1e30F), 0xfc00);
  EXPECT_EQ(FloatToFloat16(std::numeric_limits<float>::denorm_min()), 0);
  EXPECT_TRUE(std::isnan(Float16ToFloat(FloatToFloat16(NAN))));
}

}  // namespace
}  // namespace t2r::convert
