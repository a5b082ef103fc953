#include "server/write_queue.h"

#include <utility>
#include <vector>

namespace t2r::server {

WriteQueue::WriteQueue() : thread_([this] { Run(); }) {}

WriteQueue::~WriteQueue() {
  streams_.Close();
  thread_.join();
}

void WriteQueue::Push(std::shared_ptr<Writable> stream) { streams_.Push(std::move(stream)); }

void WriteQueue::Run() {
  std::vector<std::shared_ptr<Writable>> batch;
  while (streams_.Take(&batch)) {
    for (const std::shared_ptr<Writable>& stream : batch) stream->Pump();
  }
}

}  // namespace t2r::server
