#include "server/write_queue.h"

#include <utility>

namespace t2r::server {

WriteQueue::WriteQueue() : thread_([this] { Run(); }) {}

WriteQueue::~WriteQueue() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  ready_.notify_one();
  thread_.join();
}

void WriteQueue::Push(std::shared_ptr<Writable> stream) {
  bool first;
  {
    const std::lock_guard lock(mutex_);
    first = streams_.empty();
    streams_.push_back(std::move(stream));
  }
  if (first) ready_.notify_one();
}

void WriteQueue::Run() {
  std::vector<std::shared_ptr<Writable>> batch;
  std::unique_lock lock(mutex_);
  while (true) {
    ready_.wait(lock, [this] { return stopping_ || !streams_.empty(); });
    if (streams_.empty()) return;
    batch.swap(streams_);
    lock.unlock();
    for (const std::shared_ptr<Writable>& stream : batch) stream->Pump();
    batch.clear();
    lock.lock();
  }
}

}  // namespace t2r::server
