// API keys, addresses that other machines reach, files that are replaced.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>

#include "server/api_keys.h"
#include "server/credentials.h"
#include "server/file_watch.h"
#include "server/listener.h"

namespace t2r::server {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// SHA-256 of "abc" (FIPS 180-4's example).
constexpr char kAbc[] = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

TEST(ApiKeysTest, KnowsKeysByTheirHash) {
  const auto keys = ApiKeys::Parse(std::string("# comment\n\n  a.b-C_9\tsha256:") + kAbc +
                                   " # more\r\nother sha256:" + std::string(64, '0') + "\n");
  ASSERT_TRUE(keys.ok()) << keys.status();
  EXPECT_EQ(keys->size(), 2u);
  ASSERT_NE(keys->NameOf("abc"), nullptr);
  EXPECT_EQ(*keys->NameOf("abc"), "a.b-C_9");
  EXPECT_EQ(keys->NameOf("abd"), nullptr);
  EXPECT_EQ(keys->NameOf(""), nullptr);
  EXPECT_EQ(keys->NameOf(kAbc), nullptr);
}

TEST(ApiKeysTest, SaysWhichLineIsNone) {
  for (const std::string& line :
       {std::string("abc"), std::string("a sha256:abc"), std::string("a md5:") + kAbc,
        std::string("a sha256:") + kAbc + "0", std::string("a/b sha256:") + kAbc,
        std::string("a sha256:") + kAbc + " more", std::string("a sha256:g") + (kAbc + 1)}) {
    const auto keys = ApiKeys::Parse("\n" + line + "\n");
    EXPECT_THAT(std::string(keys.status().message()), HasSubstr("line 2 is not NAME")) << line;
    EXPECT_THAT(std::string(keys.status().message()), Not(HasSubstr(line))) << line;
  }
}

TEST(ApiKeysTest, NewKeysAreFoundByTheirLines) {
  const std::string key = NewKey();
  EXPECT_THAT(std::string(ApiKeys::Parse("\n# nobody\n").status().message()),
              HasSubstr("there is no key in it"));
  const auto keys = ApiKeys::Parse(KeyLine("me", key));
  ASSERT_TRUE(keys.ok()) << keys.status();
  ASSERT_NE(keys->NameOf(key), nullptr);
  EXPECT_EQ(*keys->NameOf(key), "me");
  EXPECT_EQ(keys->NameOf(NewKey()), nullptr);
  EXPECT_EQ(KeyLine("x", "abc"), std::string("x sha256:") + kAbc);
}

TEST(KeyHeadersTest, PrefersTheKeysOwnHeaderAndTheLastOfSeveral) {
  KeyHeaders none;
  EXPECT_FALSE(none.Add("authorization", "Basic abc"));
  EXPECT_FALSE(none.Add("x-request-id", "abc"));
  EXPECT_FALSE(none.key());
  KeyHeaders keys;
  EXPECT_TRUE(keys.Add("authorization", "bEARER one"));
  EXPECT_EQ(keys.key(), "one");
  EXPECT_TRUE(keys.Add("x-api-key", "two"));
  EXPECT_TRUE(keys.Add("x-api-key", "three"));
  EXPECT_TRUE(keys.Add("authorization", "Bearer four"));
  EXPECT_EQ(keys.key(), "three");
}

TEST(LoopbackTest, IsWhatOnlyThisMachineReaches) {
  for (const char* address : {"127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "localhost:1"}) {
    EXPECT_TRUE(IsLoopback(address)) << address;
  }
  for (const char* address : {"0.0.0.0:1", "[::]:1", "10.0.0.1:1", "[fe80::1]:1", "128.0.0.1:1"}) {
    EXPECT_FALSE(IsLoopback(address)) << address;
  }
}

TEST(FileWatchTest, CallsForEveryReplacement) {
  const std::filesystem::path folder =
      std::filesystem::path(::testing::TempDir()) / "t2r_file_watch_test";
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder / "one");
  std::filesystem::create_directories(folder / "two");
  std::ofstream(folder / "one" / "file") << "same";
  std::ofstream(folder / "two" / "file") << "same";
  const std::filesystem::path link = folder / "current";
  std::filesystem::create_directory_symlink("one", link);
  const std::vector<std::string> paths = {link / "file", folder / "absent"};

  std::atomic<int> calls = 0;
  const auto wait_for = [&calls](int count) {
    while (calls < count) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  };
  FileWatch watch(paths, StampOf({}), absl::Milliseconds(1), [&calls] { ++calls; });
  wait_for(1);  // what was seen before differs
  // As a mounted directory is swapped: the link is replaced.
  std::filesystem::create_directory_symlink("two", folder / "next");
  std::filesystem::rename(folder / "next", link);
  wait_for(2);
  std::ofstream(folder / "absent") << "here now";
  wait_for(3);
  std::filesystem::remove(link);
  wait_for(4);
}

}  // namespace
}  // namespace t2r::server
