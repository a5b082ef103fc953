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
using ::testing::Pair;

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
  EXPECT_THAT((*files)->unsupported(), ElementsAre(Pair("byte", "U8"), Pair("later", "F4_NEW")));
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

TEST(SafetensorsTest, BytesOfNoTensorAreRefused) {
  const std::string b = R"("b":{"dtype":"F32","shape":[1],"data_offsets":[8,12]})";
  EXPECT_THAT(ErrorOf(FileOf("{" + b + "}", 12)),
              AllOf(HasSubstr("tensor b"), HasSubstr("[0, 8)")));
  const std::string a = R"("a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]})";
  EXPECT_THAT(ErrorOf(FileOf("{" + a + "," + b + "}", 12)),
              AllOf(HasSubstr("tensor b"), HasSubstr("[4, 8)")));
  EXPECT_THAT(ErrorOf(FileOf("{" + a + "}", 5)), HasSubstr("the last 1 of the 5 bytes"));
  EXPECT_THAT(ErrorOf(FileOf("{}", 1)), HasSubstr("the last 1"));
}

TEST(SafetensorsTest, DoublesAreRoundedAndOtherTypesRefusedByName) {
  const double values[] = {0.1, -3.0, 1e-300};
  std::string bytes = FileOf(R"({"d":{"dtype":"F64","shape":[3],"data_offsets":[0,24]},)"
                             R"("e":{"dtype":"F8_E4M3","shape":[2],"data_offsets":[24,26]}})",
                             26);
  std::memcpy(bytes.data() + bytes.size() - 26, values, sizeof(values));
  const auto files = SafetensorsDirectory::Parse(bytes);
  ASSERT_TRUE(files.ok()) << files.status();
  const HostTensor* tensor = (*files)->Find("d");
  ASSERT_NE(tensor, nullptr);
  EXPECT_EQ(tensor->dtype, DType::kFloat32);
  const float rounded[] = {0.1F, -3.0F, 0.0F};
  EXPECT_EQ(std::memcmp(tensor->data, rounded, sizeof(rounded)), 0);
  try {
    (*files)->Find("e");
    ADD_FAILURE() << "found";
  } catch (const ModelError& error) {
    EXPECT_THAT(error.what(), AllOf(HasSubstr("tensor e"), HasSubstr("F8_E4M3")));
  }
}

std::string OpenError(const TemporaryDirectory& directory, absl::StatusCode code) {
  const auto files = SafetensorsDirectory::Open(directory.path());
  EXPECT_EQ(files.status().code(), code);
  return std::string(files.status().message());
}

TEST(SafetensorsTest, DirectoriesWithoutTheUsualFiles) {
  const std::string one = FileOf(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 4);
  {
    const TemporaryDirectory directory;
    directory.Write("model-00001-of-00001.safetensors", one);
    const auto files = SafetensorsDirectory::Open(directory.path());
    ASSERT_TRUE(files.ok()) << files.status();
    EXPECT_NE((*files)->Find("a"), nullptr);
  }
  {
    const TemporaryDirectory directory;
    directory.Write("model-00001-of-00002.safetensors", one);
    EXPECT_THAT(OpenError(directory, absl::StatusCode::kNotFound), HasSubstr("1 of 2 files"));
  }
  {
    const TemporaryDirectory directory;
    directory.Write("pytorch_model.bin", "x");
    EXPECT_THAT(OpenError(directory, absl::StatusCode::kNotFound),
                AllOf(HasSubstr("only pytorch_model.bin"), HasSubstr("safe_serialization")));
  }
  const std::string pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n";
  for (const char* name : {"model.safetensors", "model.safetensors.index.json"}) {
    const TemporaryDirectory directory;
    directory.Write(name, pointer);
    EXPECT_THAT(OpenError(directory, absl::StatusCode::kInvalidArgument),
                AllOf(HasSubstr(name), HasSubstr("git lfs pull")));
  }
}

TEST(SafetensorsTest, NoMetadataIsRead) {
  const auto files = SafetensorsDirectory::Parse(
      FileOf(R"({"__metadata__":null,"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 4));
  ASSERT_TRUE(files.ok()) << files.status();
  EXPECT_EQ((*files)->tensors().size(), 1U);
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
