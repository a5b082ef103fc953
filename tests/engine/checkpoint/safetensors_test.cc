#include "engine/checkpoint/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstring>
#include <filesystem>

#include "engine/checkpoint/safetensors_writer.h"
#include "testing/model_directory.h"

namespace t2r::testing {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// A file's bytes: length, header, data of `data_bytes` bytes 0, 1, 2, ….
std::string FileOf(const std::string& header, size_t data_bytes) {
  std::string bytes(8, '\0');
  for (int i = 0; i < 8; ++i) bytes[i] = static_cast<char>(header.size() >> (8 * i));
  bytes += header;
  for (size_t i = 0; i < data_bytes; ++i) bytes += static_cast<char>(i);
  return bytes;
}

std::string ErrorOf(const std::string& bytes) {
  const auto files = SafetensorsDirectory::Parse(bytes);
  EXPECT_EQ(files.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(files.status().message());
}

TEST(SafetensorsTest, ReadsWhatItWrites) {
  const std::vector<float> wide = {1, -2, 3.5F};
  const std::vector<uint16_t> narrow = {0x3f80, 0xc000};
  const std::vector<uint16_t> half = {0x3c00};
  const TemporaryDirectory directory;
  const std::string path = directory.path() + "/out.safetensors";
  const absl::Status written =
      WriteSafetensors(path, {{"half", {half.data(), DType::kFloat16, {1}}},
                              {"narrow", {narrow.data(), DType::kBFloat16, {1, 2}}},
                              {"wide", {wide.data(), DType::kFloat32, {3}}},
                              {"empty", {nullptr, DType::kFloat32, {0, 4}}}});
  ASSERT_TRUE(written.ok()) << written;
  struct stat info = {};
  EXPECT_NE(stat((path + ".tmp").c_str(), &info), 0);
  const auto files = SafetensorsDirectory::OpenFile(path);
  ASSERT_TRUE(files.ok()) << files.status();
  EXPECT_EQ((*files)->tensors().size(), 4U);
  const HostTensor* tensor = (*files)->Find("wide");
  ASSERT_NE(tensor, nullptr);
  EXPECT_THAT(tensor->shape, ElementsAre(3));
  EXPECT_EQ(std::memcmp(tensor->data, wide.data(), 12), 0);
  tensor = (*files)->Find("narrow");
  ASSERT_NE(tensor, nullptr);
  EXPECT_EQ(tensor->dtype, DType::kBFloat16);
  EXPECT_THAT(tensor->shape, ElementsAre(1, 2));
  EXPECT_EQ(std::memcmp(tensor->data, narrow.data(), 4), 0);
  EXPECT_EQ((*files)->Find("half")->dtype, DType::kFloat16);
  EXPECT_EQ((*files)->Find("absent"), nullptr);
}

TEST(SafetensorsTest, WritingNowhereIsAnError) {
  const absl::Status status = WriteSafetensors("/nonexistent/x.safetensors", {});
  EXPECT_FALSE(status.ok());
  EXPECT_THAT(std::string(status.message()), HasSubstr("/nonexistent/x.safetensors"));
}

TEST(SafetensorsWriterTest, WritesPiecesWhereverTensorsEnd) {
  const TemporaryDirectory directory;
  const std::string path = directory.path() + "/out.safetensors";
  const std::vector<float> values = {1, -2, 3.5F, 4};
  {
    auto writer = SafetensorsWriter::Create(
        path, {{"a", DType::kFloat32, {3}}, {"b", DType::kFloat32, {1, 1}}});
    ASSERT_TRUE(writer.ok()) << writer.status();
    const auto* const bytes = reinterpret_cast<const char*>(values.data());
    EXPECT_TRUE((*writer)->Write(bytes, 5).ok());
    EXPECT_TRUE((*writer)->Write(bytes + 5, 11).ok());
    EXPECT_THAT(std::string((*writer)->Write(bytes, 1).message()), HasSubstr("more data than"));
    struct stat info = {};
    EXPECT_NE(stat(path.c_str(), &info), 0);
    const absl::Status finished = (*writer)->Finish();
    EXPECT_TRUE(finished.ok()) << finished;
  }
  const auto files = SafetensorsDirectory::OpenFile(path);
  ASSERT_TRUE(files.ok()) << files.status();
  EXPECT_EQ(std::memcmp((*files)->Find("a")->data, values.data(), 12), 0);
  EXPECT_EQ(std::memcmp((*files)->Find("b")->data, values.data() + 3, 4), 0);
}

TEST(SafetensorsWriterTest, LeavesNothingUnlessWhole) {
  const TemporaryDirectory directory;
  const std::string path = directory.path() + "/out.safetensors";
  {
    auto writer = SafetensorsWriter::Create(path, {{"a", DType::kBFloat16, {2}}});
    ASSERT_TRUE(writer.ok()) << writer.status();
    EXPECT_TRUE((*writer)->Write("abc", 3).ok());
    const absl::Status finished = (*writer)->Finish();
    EXPECT_EQ(finished.code(), absl::StatusCode::kInternal);
    EXPECT_THAT(std::string(finished.message()), HasSubstr("1 bytes of data are missing"));
  }
  EXPECT_TRUE(std::filesystem::is_empty(directory.path()));
}

TEST(SafetensorsTest, UnalignedDataAndUnknownTypes) {
  // The float starts at an odd byte of the file.
  const std::string bytes =
      FileOf(R"({"byte":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
             R"("f":{"dtype":"F32","shape":[1],"data_offsets":[1,5]},)"
             R"("later":{"dtype":"F4_NEW","shape":[9],"data_offsets":[5,6]}})",
             6);
  const auto files = SafetensorsDirectory::Parse(bytes);
  ASSERT_TRUE(files.ok()) << files.status();
  EXPECT_THAT((*files)->unsupported(), ElementsAre("byte", "later"));
  const HostTensor* tensor = (*files)->Find("f");
  ASSERT_NE(tensor, nullptr);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(tensor->data) % 4, 0U);
  EXPECT_EQ(std::memcmp(tensor->data, "\1\2\3\4", 4), 0);
}

TEST(SafetensorsTest, BrokenHeadersAreNamed) {
  EXPECT_THAT(ErrorOf(""), HasSubstr("0 bytes"));
  EXPECT_THAT(ErrorOf(std::string(8, '\xff')), HasSubstr("header"));
  EXPECT_THAT(ErrorOf(FileOf("{", 0)), HasSubstr("JSON"));
  EXPECT_THAT(ErrorOf(FileOf("[]", 0)), HasSubstr("array"));
  EXPECT_THAT(ErrorOf(FileOf("{} {}", 0)), HasSubstr("JSON"));
  EXPECT_THAT(ErrorOf(FileOf(std::string(100000, '['), 0)), HasSubstr("array"));
  EXPECT_THAT(ErrorOf(FileOf("{\"a\":" + std::string(100000, '['), 0)), HasSubstr("tensor a"));
  const auto entry = [](const std::string& fields) {
    return FileOf("{\"a\":{" + fields + "}}", 8);
  };
  EXPECT_THAT(ErrorOf(entry(R"("shape":[2],"data_offsets":[0,8])")), HasSubstr("dtype"));
  EXPECT_THAT(ErrorOf(entry(R"("dtype":"F32","data_offsets":[0,8])")), HasSubstr("shape"));
  EXPECT_THAT(ErrorOf(entry(R"("dtype":"F32","shape":[2])")), HasSubstr("data_offsets"));
  EXPECT_THAT(ErrorOf(entry(R"("dtype":"F32","shape":[2],"data_offsets":[0])")),
              HasSubstr("data_offsets"));
  EXPECT_THAT(ErrorOf(entry(R"("dtype":"F32","shape":[-2],"data_offsets":[0,8])")),
              AllOf(HasSubstr("tensor a"), HasSubstr("negative")));
  EXPECT_THAT(ErrorOf(entry(R"("dtype":"F32","shape":[2],"data_offsets":[0,8.0])")),
              HasSubstr("fraction"));
  EXPECT_THAT(ErrorOf(entry(R"("dtype":"F32","shape":[3],"data_offsets":[0,12])")),
              AllOf(HasSubstr("tensor a"), HasSubstr("truncated")));
  EXPECT_THAT(ErrorOf(entry(R"("dtype":"F32","shape":[2],"data_offsets":[8,0])")),
              HasSubstr("tensor a"));
  EXPECT_THAT(ErrorOf(entry(R"("dtype":"F32","shape":[3],"data_offsets":[0,8])")),
              HasSubstr("12 bytes"));
  EXPECT_THAT(
      ErrorOf(entry(R"("dtype":"F32","shape":[4294967296,4294967296,4],"data_offsets":[0,8])")),
      HasSubstr("too large"));
  EXPECT_THAT(ErrorOf(entry(R"("dtype":"F32","shape":[18446744073709551615],)"
                            R"("data_offsets":[0,8])")),
              HasSubstr("out of range"));
}

TEST(SafetensorsTest, DuplicatesAndOverlapsAreRefused) {
  EXPECT_THAT(ErrorOf(FileOf(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                             R"("a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
                             8)),
              AllOf(HasSubstr("tensor a"), HasSubstr("more than once")));
  EXPECT_THAT(ErrorOf(FileOf(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                             R"("b":{"dtype":"F32","shape":[1],"data_offsets":[2,6]}})",
                             8)),
              HasSubstr("share data"));
}

TEST(SafetensorsTest, MetadataIsSkipped) {
  const std::string bytes = FileOf(R"({"__metadata__":{"format":"pt","x":"y"},)"
                                   R"("a":{"shape":[1],"data_offsets":[0,4],"dtype":"F32"}}   )",
                                   4);
  const auto files = SafetensorsDirectory::Parse(bytes);
  ASSERT_TRUE(files.ok()) << files.status();
  EXPECT_EQ((*files)->tensors().size(), 1U);
}

}  // namespace
}  // namespace t2r::testing
