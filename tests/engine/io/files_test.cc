#include "engine/io/files.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "testing/temporary_directory.h"

namespace t2r::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

TEST(ReadTextFileTest, ReadsAllBytesUpToTheLimit) {
  const TemporaryDirectory directory;
  std::string text(200'000, 'x');
  text[100'000] = '\0';
  const std::string path = directory.Write("file", text);
  EXPECT_EQ(*ReadTextFile(path), text);
  EXPECT_EQ(*ReadTextFile(path, text.size()), text);
  const absl::Status status = ReadTextFile(path, text.size() - 1).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr(path));
  EXPECT_EQ(**ReadOptionalFile(path), text);
}

TEST(ReadTextFileTest, TellsWhatIsThereFromWhatIsNot) {
  const TemporaryDirectory directory;
  EXPECT_EQ(ReadTextFile(directory / "none").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(*ReadOptionalFile(directory / "none"), std::nullopt);
  EXPECT_EQ(ReadTextFile(directory.path()).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ReadOptionalFile(directory.path()).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(WriteFileAtomicallyTest, WritesThePartsAndLeavesNothingElse) {
  const TemporaryDirectory directory;
  const std::string path = directory.Write("file", "before");
  auto file = AtomicFile::Create(path);
  ASSERT_TRUE(file.ok());
  for (const char* part : {"one ", "", "two"}) ASSERT_TRUE((*file)->Write(part).ok());
  EXPECT_EQ(directory.Read("file"), "before");
  ASSERT_TRUE((*file)->Commit().ok());
  EXPECT_EQ(directory.Read("file"), "one two");
  ASSERT_TRUE(WriteFileAtomically(directory / "new", "text").ok());
  EXPECT_EQ(directory.Read("new"), "text");
  const auto files = fs::directory_iterator(directory.path());
  EXPECT_EQ(std::distance(begin(files), end(files)), 2);
}

TEST(WriteFileAtomicallyTest, AFailureLeavesWhatWasThere) {
  const TemporaryDirectory directory;
  const absl::Status none = WriteFileAtomically(directory / "no/file", "text");
  EXPECT_EQ(none.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(none.message()), HasSubstr("no/file"));
  // A directory cannot become a file.
  fs::create_directory(directory / "taken");
  EXPECT_FALSE(WriteFileAtomically(directory / "taken", "text").ok());
  EXPECT_TRUE(fs::is_directory(directory / "taken"));
  EXPECT_FALSE(fs::exists(directory / "taken.tmp"));
}

TEST(WriteFileAtomicallyTest, WithoutCommitNothingIsLeft) {
  const TemporaryDirectory directory;
  ASSERT_TRUE((*AtomicFile::Create(directory / "file"))->Write("text").ok());
  EXPECT_TRUE(fs::is_empty(directory.path()));
}

TEST(WriteAllTest, SaysWhyItCannot) {
  const int read_only = open("/dev/null", O_RDONLY);
  EXPECT_EQ(WriteAll(read_only, "text").code(), absl::StatusCode::kInternal);
  close(read_only);
}

class ReplaceDirectoryTest : public ::testing::Test {
 protected:
  // A directory with one file.
  std::string Stage(const std::string& name, const std::string& text) {
    fs::create_directory(directory_ / name);
    directory_.Write(name + "/config.json", text);
    return directory_ / name;
  }

  const TemporaryDirectory directory_;
};

TEST_F(ReplaceDirectoryTest, PutsTheNewOneWhereTheOldOneOrNoneWas) {
  ASSERT_TRUE(ReplaceDirectory(Stage("model.writing", "first"), directory_ / "model").ok());
  EXPECT_EQ(directory_.Read("model/config.json"), "first");
  directory_.Write("model/left_over", "");
  ASSERT_TRUE(ReplaceDirectory(Stage("model.writing", "second"), directory_ / "model").ok());
  EXPECT_EQ(directory_.Read("model/config.json"), "second");
  const auto left = fs::recursive_directory_iterator(directory_.path());
  EXPECT_EQ(std::distance(begin(left), end(left)), 2);
}

TEST_F(ReplaceDirectoryTest, LeavesNoMomentWithoutAModel) {
  const std::string target = Stage("model", "0");
  std::atomic<bool> done = false;
  std::atomic<int> looks = 0;
  std::atomic<int> missing = 0;
  std::thread reader([&] {
    const std::string path = target + "/config.json";
    while (!done) {
      missing += access(path.c_str(), R_OK) != 0 ? 1 : 0;
      ++looks;
    }
  });
  while (looks == 0) std::this_thread::yield();
  for (int i = 1; i <= 300; ++i) {
    ASSERT_TRUE(ReplaceDirectory(Stage("model.writing", std::to_string(i)), target).ok());
  }
  done = true;
  reader.join();
  EXPECT_EQ(missing, 0);
}

TEST_F(ReplaceDirectoryTest, AFailureNamesThePath) {
  const std::string target = Stage("model", "old");
  const absl::Status status = ReplaceDirectory(directory_ / "none", target);
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(status.message()), HasSubstr("none"));
  EXPECT_EQ(directory_.Read("model/config.json"), "old");
}

}  // namespace
}  // namespace t2r::testing
