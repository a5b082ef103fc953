#include "convert/gguf/gguf_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "convert/error.h"
#include "convert/gguf/metadata.h"
#include "testing/gguf_bytes.h"

namespace t2r::convert {
namespace {

using ::t2r::testing::GgufBytes;
using ::t2r::testing::LittleEndianBytes;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

GgufBytes Small() {
  GgufBytes file;
  file.String("general.architecture", "llama")
      .Uint32("a.number", 7)
      .Float32("a.share", 1e-5F)
      .Bool("a.flag", true)
      .Strings("a.words", {"one", "", "three"})
      .Int32s("a.numbers", {1, -2, 3})
      .Float32s("a.scores", {0.5F, -1});
  file.FloatTensor("x", {2, 3}, {1, 2, 3, 4, 5, 6});
  file.Tensor("y", {1, 32}, 8, std::string(34, '\1'));
  return file;
}

// A header of a file with one tensor that the numbers describe.
std::string OneTensor(uint32_t dimensions, const std::vector<uint64_t>& sizes, uint32_t type,
                      uint64_t offset, size_t data_bytes) {
  LittleEndianBytes bytes;
  bytes.Raw("GGUF").Number(3, 4).Number(1, 8).Number(0, 8).String("w").Number(dimensions, 4);
  for (const uint64_t size : sizes) bytes.Number(size, 8);
  bytes.Number(type, 4).Number(offset, 8);
  std::string file = bytes.text();
  file.resize((file.size() + 31) / 32 * 32 + data_bytes);
  return file;
}

void ExpectError(const std::string& bytes, const ::testing::Matcher<const std::string&>& message) {
  EXPECT_THAT([&] { GgufFile::Parse(bytes); }, ThrowsMessage<ConvertError>(message));
}

TEST(GgufFileTest, ReadsWhatIsThere) {
  for (const uint32_t version : {2, 3}) {
    const std::string bytes = Small().Bytes(version);
    const GgufFile file = GgufFile::Parse(bytes);
    EXPECT_EQ(file.metadata().size(), 7U);
    ASSERT_EQ(file.tensors().size(), 2U);
    const GgufTensor& x = file.tensors().at("x");
    EXPECT_THAT(x.shape, ElementsAre(2, 3));
    EXPECT_EQ(x.data,
              LittleEndianBytes().Float(1).Float(2).Float(3).Float(4).Float(5).Float(6).text());
    EXPECT_EQ(std::string(file.tensors().at("y").type->name), "Q8_0");
    EXPECT_EQ(file.tensors().at("y").data, std::string(34, '\1'));
  }
}

TEST(GgufFileTest, HonoursTheAlignment) {
  GgufBytes file = Small();
  file.Uint32("general.alignment", 128);
  const std::string bytes = file.Bytes(3, 128);
  EXPECT_EQ(GgufFile::Parse(bytes).tensors().at("y").data, std::string(34, '\1'));
  for (const uint32_t alignment : {0U, 24U, 1U << 21}) {
    GgufBytes bad;
    bad.Uint32("general.alignment", alignment);
    ExpectError(bad.Bytes(), HasSubstr("general.alignment is " + std::to_string(alignment)));
  }
  GgufBytes text;
  text.String("general.alignment", "32");
  ExpectError(text.Bytes(), HasSubstr("general.alignment must be a uint32, not string"));
}

TEST(GgufFileTest, RefusesOtherFiles) {
  ExpectError("", AllOf(HasSubstr("the magic number at offset 0"), HasSubstr("truncated")));
  ExpectError("PK\3\4PK\3\4", HasSubstr("not a GGUF file"));
  ExpectError(Small().Bytes(1), HasSubstr("version at offset 4: is 1; supported are 2 and 3"));
  ExpectError(Small().Bytes(3 << 24), HasSubstr("big-endian"));
}

// Every prefix of a file whose last bytes are a tensor's.
TEST(GgufFileTest, RefusesEveryTruncation) {
  const std::string bytes = Small().Bytes();
  for (size_t size = 0; size < bytes.size(); ++size) {
    // Its own allocation, so that sanitizers see reads beyond the end.
    const std::string cut(bytes, 0, size);
    EXPECT_THROW(GgufFile::Parse(cut), ConvertError) << size;
  }
}

TEST(GgufFileTest, RefusesCountsThatTheFileCannotHold) {
  const auto counts = [](uint64_t tensors, uint64_t keys) {
    return LittleEndianBytes().Raw("GGUF").Number(3, 4).Number(tensors, 8).Number(keys, 8).text();
  };
  ExpectError(counts(uint64_t{1} << 60, 0),
              HasSubstr("the number of tensors at offset 8: is 1152921504606846976"));
  ExpectError(counts(0, ~uint64_t{0}), HasSubstr("the number of metadata keys at offset 16"));
  GgufBytes array;
  array.Key("a", 9, LittleEndianBytes().Number(4, 4).Number(uint64_t{1} << 62, 8).text());
  ExpectError(array.Bytes(), HasSubstr("a's count at offset 41: is 4611686018427387904"));
  GgufBytes strings;
  strings.Key("a", 9, LittleEndianBytes().Number(8, 4).Number(uint64_t{1} << 61, 8).text());
  ExpectError(strings.Bytes(), HasSubstr("a's count"));
  GgufBytes text;
  text.Key("a", 8, LittleEndianBytes().Number(~uint64_t{0}, 8).text());
  ExpectError(text.Bytes(),
              AllOf(HasSubstr("a at offset"), HasSubstr("18446744073709551615 bytes")));
}

TEST(GgufFileTest, RefusesBadKeys) {
  ExpectError(Small().Uint32("a.number", 8).Bytes(), HasSubstr("repeats a.number"));
  GgufBytes empty;
  empty.Uint32("", 8);
  ExpectError(empty.Bytes(), HasSubstr("metadata key 0 at offset 32: is empty"));
  GgufBytes unknown;
  unknown.Key("a", 13, "\1");
  ExpectError(unknown.Bytes(), HasSubstr("a's type at offset 33: is 13, which is no type"));
  GgufBytes nested;
  nested.Key("a", 9,
             LittleEndianBytes().Number(9, 4).Number(1, 8).Number(4, 4).Number(0, 8).text());
  ExpectError(nested.Bytes(), HasSubstr("array of arrays"));
  GgufBytes flag;
  flag.Key("a", 7, "\2");
  ExpectError(flag.Bytes(), HasSubstr("neither false (0) nor true (1)"));
}

TEST(GgufFileTest, RefusesBadTensors) {
  const uint64_t kHuge = uint64_t{1} << 60;
  ExpectError(OneTensor(0, {}, 0, 0, 64), HasSubstr("number of dimensions at offset 33: is 0"));
  ExpectError(OneTensor(5, {1, 1, 1, 1, 1}, 0, 0, 64), HasSubstr("is 5; it must be 1 to 4"));
  ExpectError(OneTensor(2, {4, 0}, 0, 0, 64), HasSubstr("dimension 1 at offset 45: is 0"));
  ExpectError(OneTensor(1, {kHuge}, 0, 0, 64), HasSubstr("dimension 0"));
  // 2^62 · 4 = 2^64: nothing, in 64 bits.
  ExpectError(OneTensor(2, {uint64_t{1} << 31, uint64_t{1} << 31}, 0, 0, 64), HasSubstr("2^56"));
  ExpectError(OneTensor(1, {16}, 23, 0, 64),
              AllOf(HasSubstr("tensor w: type at offset 45: is IQ4_XS (23)"), HasSubstr("Q6_K")));
  ExpectError(OneTensor(1, {16}, 99, 0, 64), HasSubstr("is 99; supported"));
  ExpectError(OneTensor(1, {16}, 8, 0, 64), HasSubstr("blocks of 32 do not fill rows of 16"));
  ExpectError(OneTensor(1, {16}, 0, 16, 64), HasSubstr("not a multiple of the alignment 32"));
  ExpectError(OneTensor(1, {16}, 0, 32, 64), HasSubstr("lead beyond the file"));
  ExpectError(OneTensor(1, {16}, 0, ~uint64_t{31}, 64), HasSubstr("lead beyond the file"));
  ExpectError(OneTensor(1, {17}, 0, 0, 64), HasSubstr("truncated"));
  EXPECT_NO_THROW(GgufFile::Parse(OneTensor(1, {16}, 0, 0, 64)));
  ExpectError(Small().FloatTensor("x", {1}, {0}).Bytes(), HasSubstr("tensor x comes twice"));
}

TEST(GgufFileTest, RefusesOverlaps) {
  // The second tensor's offset follows its name, dimensions and type at the end of the header.
  GgufBytes file;
  file.FloatTensor("a", {16}, std::vector<float>(16, 1))
      .FloatTensor("b", {8}, std::vector<float>(8, 2));
  std::string bytes = file.Bytes();
  const size_t at = bytes.find("b") + 1 + 4 + 8 + 4;
  ASSERT_EQ(bytes[at], 64);
  bytes[at] = 32;
  ExpectError(bytes, HasSubstr("tensor b: offset 32 in the data overlaps tensor a"));
}

TEST(GgufMetadataTest, GivesTypedValues) {
  const std::string bytes = Small().Bytes();
  const GgufFile file = GgufFile::Parse(bytes);
  const GgufMetadata metadata(file);
  EXPECT_EQ(metadata.Integer("a.number", 0, 10), 7);
  EXPECT_EQ(metadata.Integer("absent", 0, 10, 3), 3);
  EXPECT_EQ(metadata.Number("a.share", 0, 1), 1e-5);  // not 9.999999747378752e-06
  EXPECT_TRUE(metadata.Bool("a.flag", false));
  EXPECT_TRUE(metadata.Bool("absent", true));
  EXPECT_EQ(metadata.String("general.architecture"), "llama");
  EXPECT_THAT(metadata.Strings("a.words"), ElementsAre("one", "", "three"));
  EXPECT_THAT(metadata.Integers("a.numbers"), ElementsAre(1, -2, 3));
  EXPECT_THAT(metadata.Floats("a.scores"), ElementsAre(0.5F, -1.0F));
  EXPECT_EQ(metadata.AnyNumber("a.flag"), 1.0);
  EXPECT_EQ(metadata.AnyNumber("absent"), std::nullopt);
}

TEST(GgufMetadataTest, ReadsEveryIntegerType) {
  GgufBytes bytes;
  bytes.Key("u8", 0, "\xFF")
      .Key("i8", 1, "\xFF")
      .Key("u16", 2, "\xFE\xFF")
      .Key("i16", 3, "\xFE\xFF");
  bytes.Key("u32", 4, "\xFD\xFF\xFF\xFF").Key("i32", 5, "\xFD\xFF\xFF\xFF");
  bytes.Key("u64", 10, std::string(8, '\xFF')).Key("i64", 11, std::string(8, '\xFF'));
  const std::string text = bytes.Bytes();
  const GgufFile file = GgufFile::Parse(text);
  const GgufMetadata metadata(file);
  const auto get = [&](const char* key) { return metadata.Integer(key, INT64_MIN, INT64_MAX - 1); };
  EXPECT_EQ(get("u8"), 255);
  EXPECT_EQ(get("i8"), -1);
  EXPECT_EQ(get("u16"), 65534);
  EXPECT_EQ(get("i16"), -2);
  EXPECT_EQ(get("u32"), 4294967293);
  EXPECT_EQ(get("i32"), -3);
  EXPECT_EQ(get("i64"), -1);
  EXPECT_THROW(get("u64"), ConvertError);
}

TEST(GgufMetadataTest, NamesWhatIsWrong) {
  GgufBytes bytes = Small();
  bytes.Float32("a.nan", NAN)
      .String("a.text", "a\xFF")
      .Float32s("a.nans", {1, NAN})
      .Int32s("a.layers", {2, 2, 4});
  const std::string text = bytes.Bytes();
  const GgufFile file = GgufFile::Parse(text);
  const GgufMetadata metadata(file);
  const auto message = [](const char* what) {
    return ThrowsMessage<ConvertError>(HasSubstr(what));
  };
  EXPECT_THAT([&] { metadata.Integer("absent", 0, 1); }, message("absent is missing"));
  EXPECT_THAT([&] { metadata.Integer("a.number", 0, 6); },
              message("a.number is 7; it must be from 0 to 6"));
  EXPECT_THAT([&] { metadata.Integer("a.flag", 0, 6); },
              message("a.flag must be an integer, not bool"));
  EXPECT_THAT([&] { metadata.Number("a.number", 0, 9); },
              message("must be a float32 or float64, not uint32"));
  EXPECT_THAT([&] { metadata.Number("a.nan", 0, 9); }, message("a.nan is nan"));
  EXPECT_THAT([&] { metadata.Bool("a.number", false); }, message("must be a bool"));
  EXPECT_THAT([&] { metadata.String("a.number"); }, message("must be a string"));
  EXPECT_THAT([&] { metadata.String("a.text"); }, message("a.text is not valid UTF-8 at byte 1"));
  EXPECT_THAT([&] { metadata.Strings("a.numbers"); }, message("must be an array of strings"));
  EXPECT_THAT([&] { metadata.Strings("a.number"); }, message("must be an array, not uint32"));
  EXPECT_THAT([&] { metadata.Integers("a.words"); }, message("must be an array of integers"));
  EXPECT_THAT([&] { metadata.Floats("a.numbers"); }, message("must be an array of float32"));
  EXPECT_THAT([&] { metadata.Floats("a.nans"); }, message("not finite at 1"));
  EXPECT_THAT([&] { metadata.LayersInteger("a.layers", 0, 9); },
              message("differs between layers (2 and 4)"));
}

}  // namespace
}  // namespace t2r::convert
