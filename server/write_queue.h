// The thread that starts gRPC writes where the engine thread would have to start many.
#pragma once

#include <cstdint>
#include <memory>
#include <thread>

#include "server/batch_queue.h"

namespace t2r::server {

// A stream with something to write.
class Writable {
 public:
  virtual ~Writable() = default;
  // Starts the next write if none is in flight.
  virtual void Pump() = 0;
};

// Starting a write costs some microseconds of serialising and system calls. The engine thread
// pushes hundreds of streams a step; this queue takes them at the price of a lock and wakes its
// thread once. Thread-safe. The thread runs until destruction.
class WriteQueue {
 public:
  WriteQueue();
  ~WriteQueue();
  WriteQueue(const WriteQueue&) = delete;
  WriteQueue& operator=(const WriteQueue&) = delete;

  // Calls stream->Pump() soon. The caller sees to it that a stream is queued at most once.
  void Push(std::shared_ptr<Writable> stream);

 private:
  void Run();

  BatchQueue<std::shared_ptr<Writable>> streams_{SIZE_MAX};
  std::thread thread_;
};

}  // namespace t2r::server
