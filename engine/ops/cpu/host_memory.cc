#include "engine/ops/cpu/host_memory.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <optional>
#include <sstream>

namespace t2r {
namespace {

// The value of `name` in a file of "name value" lines; -1 without it.
int64_t ValueOf(const std::string& path, const std::string& name) {
  std::ifstream file(path);
  std::string word;
  int64_t value = 0;
  while (file >> word >> value) {
    if (word == name) return value;
    file.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
  }
  return -1;
}

// A file's only number; nothing where there is none ("max") or no file.
std::optional<int64_t> NumberIn(const std::string& path) {
  std::ifstream file(path);
  int64_t value = 0;
  if (file >> value) return value;
  return std::nullopt;
}

// Where the versions of control groups keep the same figures.
struct Files {
  const char* limit;
  const char* used;
  const char* idle_files;  // in memory.stat
};
constexpr Files kVersion1 = {"/memory.limit_in_bytes", "/memory.usage_in_bytes",
                             "total_inactive_file"};
constexpr Files kVersion2 = {"/memory.max", "/memory.current", "inactive_file"};

void Limit(const std::string& group, const Files& files, MemoryInfo* info) {
  const std::optional<int64_t> limit = NumberIn(group + files.limit);
  const std::optional<int64_t> used = NumberIn(group + files.used);
  if (!limit || !used || *limit >= info->total_bytes) return;
  info->total_bytes = *limit;
  const int64_t idle = std::max<int64_t>(ValueOf(group + "/memory.stat", files.idle_files), 0);
  info->free_bytes = std::min(info->free_bytes, std::max<int64_t>(*limit - (*used - idle), 0));
}

// The group and all above it, up to the mount: inside a container the mount may be the group.
void LimitByGroups(const std::string& mount, std::string path, const Files& files,
                   MemoryInfo* info) {
  while (!path.empty() && path != "/") {
    Limit(mount + path, files, info);
    path.resize(path.rfind('/'));
  }
  Limit(mount, files, info);
}

}  // namespace

MemoryInfo HostMemory(const std::string& root) {
  MemoryInfo info;
  info.shared = true;
  info.total_bytes = std::max<int64_t>(ValueOf(root + "/proc/meminfo", "MemTotal:"), 0) * 1024;
  info.free_bytes = std::max<int64_t>(ValueOf(root + "/proc/meminfo", "MemAvailable:"), 0) * 1024;
  // Lines of hierarchy:controllers:path.
  std::ifstream groups(root + "/proc/self/cgroup");
  std::string line;
  while (std::getline(groups, line)) {
    std::istringstream fields(line);
    std::string hierarchy;
    std::string controllers;
    std::string path;
    std::getline(fields, hierarchy, ':');
    std::getline(fields, controllers, ':');
    std::getline(fields, path);
    if (path.empty() || path.front() != '/') continue;
    if (hierarchy == "0") LimitByGroups(root + "/sys/fs/cgroup", path, kVersion2, &info);
    if (("," + controllers + ",").find(",memory,") != std::string::npos) {
      LimitByGroups(root + "/sys/fs/cgroup/memory", path, kVersion1, &info);
    }
  }
  return info;
}

}  // namespace t2r
