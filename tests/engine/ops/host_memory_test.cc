#include "engine/ops/cpu/host_memory.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

namespace t2r::testing {
namespace {

constexpr int64_t kMiB = int64_t{1} << 20;

// A tree that stands for /proc and /sys.
class HostMemoryTest : public ::testing::Test {
 protected:
  HostMemoryTest() : root_(::testing::TempDir() + "host_memory_XXXXXX") {
    EXPECT_NE(mkdtemp(root_.data()), nullptr);
    Write("/proc/meminfo",
          "MemTotal:        4194304 kB\nMemFree:          102400 kB\n"
          "MemAvailable:    2097152 kB\nHugePages_Total:       0\n");
  }
  ~HostMemoryTest() override { std::filesystem::remove_all(root_); }

  void Write(const std::string& path, const std::string& text) const {
    std::filesystem::create_directories(std::filesystem::path(root_ + path).parent_path());
    std::ofstream(root_ + path) << text;
  }
  void WriteVersion2(const std::string& group, const std::string& max, int64_t current) const {
    Write("/sys/fs/cgroup" + group + "/memory.max", max + "\n");
    Write("/sys/fs/cgroup" + group + "/memory.current", std::to_string(current) + "\n");
    Write("/sys/fs/cgroup" + group + "/memory.stat",
          "anon 5\ninactive_file " + std::to_string(10 * kMiB) + "\nactive_file 9\n");
  }
  void Expect(int64_t total, int64_t free) const {
    const MemoryInfo info = HostMemory(root_);
    EXPECT_EQ(info.total_bytes, total);
    EXPECT_EQ(info.free_bytes, free);
    EXPECT_TRUE(info.shared);
  }

  std::string root_;
};

TEST_F(HostMemoryTest, IsTheMachinesWithoutGroups) {
  Expect(4096 * kMiB, 2048 * kMiB);
  Write("/proc/self/cgroup", "0::/\n");
  Expect(4096 * kMiB, 2048 * kMiB);
}

TEST_F(HostMemoryTest, IsBoundedByAnyGroupAbove) {
  Write("/proc/self/cgroup", "0::/a/b\n");
  WriteVersion2("/a/b", "max", 50 * kMiB);
  Expect(4096 * kMiB, 2048 * kMiB);
  WriteVersion2("/a", std::to_string(500 * kMiB), 110 * kMiB);
  Expect(500 * kMiB, 400 * kMiB);
  WriteVersion2("/a/b", std::to_string(100 * kMiB), 70 * kMiB);
  Expect(100 * kMiB, 40 * kMiB);
  // Over the limit: nothing is free.
  WriteVersion2("/a/b", std::to_string(100 * kMiB), 170 * kMiB);
  Expect(100 * kMiB, 0);
}

TEST_F(HostMemoryTest, FindsTheGroupAtTheMountOfAContainer) {
  Write("/proc/self/cgroup", "0::/not/here\n");
  WriteVersion2("", std::to_string(200 * kMiB), 20 * kMiB);
  Expect(200 * kMiB, 190 * kMiB);
}

TEST_F(HostMemoryTest, KnowsTheFirstVersionToo) {
  Write("/proc/self/cgroup", "5:cpu,cpuacct:/x\n4:memory:/x\n");
  const std::string group = "/sys/fs/cgroup/memory/x";
  Write(group + "/memory.limit_in_bytes", std::to_string(300 * kMiB));
  Write(group + "/memory.usage_in_bytes", std::to_string(100 * kMiB));
  Write(group + "/memory.stat", "total_inactive_file " + std::to_string(kMiB) + "\n");
  Write("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  Write("/sys/fs/cgroup/memory/memory.usage_in_bytes", "1\n");
  Expect(300 * kMiB, 201 * kMiB);
}

TEST_F(HostMemoryTest, TellsZerosWhereTheSystemDoesNot) {
  std::filesystem::remove(root_ + "/proc/meminfo");
  Expect(0, 0);
}

TEST(HostMemoryHereTest, ThereIsSome) {
  const MemoryInfo info = HostMemory();
  EXPECT_GT(info.free_bytes, 0);
  EXPECT_LE(info.free_bytes, info.total_bytes);
}

}  // namespace
}  // namespace t2r::testing
