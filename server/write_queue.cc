#include "server/write_queue.h"

#include <utility>

namespace t2r::server {

WriteQueue::WriteQueue() : thread_([this] { Run(); }) {}

WriteQueue::~WriteQueue() {
  {
    const MutexLock lock(mutex_);
    stopping_ = true;
  }
  ready_.NotifyOne();
  thread_.join();
}

void WriteQueue::Push(std::shared_ptr<Writable> stream) {
  bool first;
  {
    const MutexLock lock(mutex_);
    first = streams_.empty();
    streams_.push_back(std::move(stream));
  }
  if (first) ready_.NotifyOne();
}

void WriteQueue::Run() {
  std::vector<std::shared_ptr<Writable>> batch;
  MutexLock lock(mutex_);
  while (true) {
    while (!stopping_ && streams_.empty()) ready_.Wait(lock);
    if (streams_.empty()) return;
    batch.swap(streams_);
    lock.Unlock();
    for (const std::shared_ptr<Writable>& stream : batch) stream->Pump();
    batch.clear();
    lock.Lock();
  }
}

}  // namespace t2r::server
