#include "engine/io/mapped_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "testing/model_directory.h"

namespace t2r::testing {
namespace {

using ::testing::HasSubstr;

TEST(MappedFileTest, HoldsTheFilesBytes) {
  const TemporaryDirectory directory;
  const std::string text("a\0b\n", 4);
  directory.Write("file", text);
  const auto file = MappedFile::Open(directory.path() + "/file");
  ASSERT_TRUE(file.ok()) << file.status();
  directory.Write("other", "");
  const auto empty = MappedFile::Open(directory.path() + "/other");
  ASSERT_TRUE(empty.ok()) << empty.status();
  EXPECT_EQ((*file)->bytes(), text);
  EXPECT_TRUE((*empty)->bytes().empty());
}

TEST(MappedFileTest, NamesWhatItCannotMap) {
  const TemporaryDirectory directory;
  const auto absent = MappedFile::Open(directory.path() + "/absent");
  EXPECT_EQ(absent.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(absent.status().message()), HasSubstr(directory.path() + "/absent"));
  const auto folder = MappedFile::Open(directory.path());
  EXPECT_EQ(folder.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(folder.status().message()), HasSubstr("not a regular file"));
}

}  // namespace
}  // namespace t2r::testing
