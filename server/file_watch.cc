#include "server/file_watch.h"

#include <sys/stat.h>

#include <utility>

namespace t2r::server {

FileStamp StampOf(const std::vector<std::string>& paths) {
  FileStamp stamp;
  for (const std::string& path : paths) {
    struct stat info = {};
    const bool there = stat(path.c_str(), &info) == 0;
    stamp.parts.insert(
        stamp.parts.end(),
        {static_cast<uint64_t>(there), static_cast<uint64_t>(info.st_dev),
         static_cast<uint64_t>(info.st_ino), static_cast<uint64_t>(info.st_size),
         static_cast<uint64_t>(info.st_mtim.tv_sec), static_cast<uint64_t>(info.st_mtim.tv_nsec)});
  }
  return stamp;
}

FileWatch::FileWatch(std::vector<std::string> paths, FileStamp seen, absl::Duration interval,
                     std::function<void()> changed)
    : paths_(std::move(paths)),
      interval_(interval),
      changed_(std::move(changed)),
      seen_(std::move(seen)),
      thread_([this] { Run(); }) {}

FileWatch::~FileWatch() {
  {
    const MutexLock lock(mutex_);
    stopping_ = true;
  }
  stop_.NotifyAll();
  thread_.join();
}

void FileWatch::Run() {
  MutexLock lock(mutex_);
  while (!stopping_) {
    lock.Unlock();
    if (FileStamp now = StampOf(paths_); now != seen_) {
      seen_ = std::move(now);
      changed_();
    }
    lock.Lock();
    const CondVar::Clock::time_point next =
        CondVar::Clock::now() + absl::ToChronoNanoseconds(interval_);
    while (!stopping_ && stop_.WaitUntil(lock, next)) {
    }
  }
}

}  // namespace t2r::server
