// Notices that files were replaced: certificates and keys that something else renews.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"
#include "engine/io/mutex.h"

namespace t2r::server {

// What is known of files without reading them; links are followed, so that a mounted directory
// whose link is swapped counts as changed.
struct FileStamp {
  std::vector<uint64_t> parts;
  bool operator==(const FileStamp&) const = default;
};

FileStamp StampOf(const std::vector<std::string>& paths);

// Looks every `interval` in a thread of its own until destruction. `changed` is called from it each
// time that the files differ from when they were looked at last; `seen` is from before they were
// read, so that no change is missed.
class FileWatch {
 public:
  FileWatch(std::vector<std::string> paths, FileStamp seen, absl::Duration interval,
            std::function<void()> changed);
  ~FileWatch();
  FileWatch(const FileWatch&) = delete;
  FileWatch& operator=(const FileWatch&) = delete;

 private:
  void Run();

  const std::vector<std::string> paths_;
  const absl::Duration interval_;
  const std::function<void()> changed_;
  FileStamp seen_;
  Mutex mutex_;
  CondVar stop_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace t2r::server
