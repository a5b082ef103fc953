#include "engine/ops/cpu/thread_pool.h"

#include <hwy/cache_control.h>

#include <chrono>
#include <string>
#include <system_error>

#include "engine/ops/tensor.h"

namespace t2r {
namespace {

constexpr uint64_t Packed(uint64_t first, uint64_t end) { return first << 32 | end; }

// Spins until done() or the spinning time is over; returns done()'s last answer.
template <typename Done>
bool SpinUntil(const Done& done) {
  const auto end =
      std::chrono::steady_clock::now() + std::chrono::microseconds(ThreadPool::kSpinMicroseconds);
  do {
    for (int i = 0; i < 32; ++i) {
      if (done()) return true;
      hwy::Pause();
    }
  } while (std::chrono::steady_clock::now() < end);
  return done();
}

}  // namespace

ThreadPool::ThreadPool(int threads) : unclaimed_(threads) {
  try {
    for (int worker = 1; worker < threads; ++worker) {
      workers_.emplace_back([this, worker] { WorkerMain(worker); });
    }
  } catch (const std::system_error& e) {
    stop_ = true;
    loop_.fetch_add(1);
    loop_.notify_all();
    for (std::thread& thread : workers_) thread.join();
    throw DeviceError(DeviceErrorKind::kOutOfMemory,
                      "cannot start " + std::to_string(threads) + " threads: " + e.what());
  }
}

ThreadPool::~ThreadPool() {
  stop_ = true;
  loop_.fetch_add(1);
  loop_.notify_all();
  for (std::thread& thread : workers_) thread.join();
}

void ThreadPool::RunShared(int64_t count, Call call, const void* fn) {
  call_ = call;
  fn_ = fn;
  running_.store(static_cast<uint32_t>(count), std::memory_order_relaxed);
  // Each releases the loop's fields to whoever claims of it, also to a worker that is still looking
  // for tasks of the loop before.
  for (int worker = 0; worker < threads(); ++worker) {
    const Tasks share = ShareOf(worker, count);
    unclaimed_[worker].tasks.store(Packed(share.first, share.end), std::memory_order_release);
  }
  loop_.fetch_add(1);
  loop_.notify_all();  // a system call only when a worker sleeps
  Work(0);
  const auto finished = [this] { return running_.load(std::memory_order_acquire) == 0; };
  if (SpinUntil(finished)) return;
  // A worker holds a task but not a core; sleeping gives it this one.
  for (uint32_t left = running_.load(std::memory_order_acquire); left != 0;
       left = running_.load(std::memory_order_acquire)) {
    running_.wait(left, std::memory_order_acquire);
  }
}

void ThreadPool::Work(int worker) {
  Take(unclaimed_[worker], true, worker);
  for (int i = 1; i < threads(); ++i) {
    Take(unclaimed_[(worker + i) % threads()], false, worker);
  }
}

void ThreadPool::Take(Unclaimed& unclaimed, bool front, int worker) {
  uint64_t seen = unclaimed.tasks.load(std::memory_order_acquire);
  for (;;) {
    const uint64_t first = seen >> 32;
    const uint64_t end = seen & 0xffffffffU;
    if (first == end) return;
    if (!unclaimed.tasks.compare_exchange_weak(
            seen, front ? Packed(first + 1, end) : Packed(first, end - 1),
            std::memory_order_acq_rel, std::memory_order_acquire)) {
      continue;
    }
    call_(fn_, static_cast<int64_t>(front ? first : end - 1), worker);
    if (running_.fetch_sub(1, std::memory_order_acq_rel) == 1) running_.notify_one();
    seen = unclaimed.tasks.load(std::memory_order_acquire);
  }
}

void ThreadPool::WorkerMain(int worker) {
  uint32_t done = 0;
  while (!stop_.load(std::memory_order_acquire)) {
    const auto started = [this, done] { return loop_.load(std::memory_order_acquire) != done; };
    if (!SpinUntil(started)) loop_.wait(done, std::memory_order_acquire);
    done = loop_.load(std::memory_order_acquire);
    Work(worker);
  }
}

}  // namespace t2r
