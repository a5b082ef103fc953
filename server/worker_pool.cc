#include "server/worker_pool.h"

#include <algorithm>

#include "absl/time/clock.h"

namespace t2r::server {
namespace {

// Four times what SentencePiece takes for a byte.
constexpr absl::Duration kPerByte = absl::Microseconds(8);

}  // namespace

WorkerPool::WorkerPool(int threads, size_t max_waiting)
    : max_waiting_(max_waiting), max_costly_(std::max(threads - 1, 1)) {
  for (int i = 0; i < threads; ++i) threads_.emplace_back([this] { Run(); });
}

WorkerPool::~WorkerPool() { Stop(); }

void WorkerPool::Stop() {
  std::vector<Task> dropped;
  {
    const MutexLock lock(mutex_);
    stopping_ = true;
    for (Queue* queue : {&cheap_, &costly_}) {
      for (auto& [place, task] : *queue) dropped.push_back(std::move(task));
      queue->clear();
    }
    places_.clear();
  }
  ready_.NotifyAll();
  for (const Task& task : dropped) task(true);
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
}

WorkerPool::Ticket WorkerPool::Post(int64_t cost, Task task) {
  MutexLock lock(mutex_);
  const Ticket ticket = Add(cost, &task);
  lock.Unlock();
  Added(task);
  return ticket;
}

WorkerPool::Ticket WorkerPool::TryPost(int64_t cost, Task task) {
  MutexLock lock(mutex_);
  if (places_.size() >= max_waiting_) return 0;
  const Ticket ticket = Add(cost, &task);
  lock.Unlock();
  Added(task);
  return ticket;
}

WorkerPool::Ticket WorkerPool::Add(int64_t cost, Task* task) {
  const Ticket ticket = ++last_ticket_;
  if (stopping_) return ticket;
  Queue& queue = cost > kCostly ? costly_ : cheap_;
  const Place place(absl::Now() + kPerByte * cost, ticket);
  queue.emplace(place, std::exchange(*task, nullptr));
  places_.emplace(ticket, std::pair(&queue, place));
  return ticket;
}

void WorkerPool::Added(const Task& left) {
  if (left) return left(true);
  ready_.NotifyOne();
}

bool WorkerPool::Remove(Ticket ticket) {
  Task task;  // what it holds goes outside the lock
  const MutexLock lock(mutex_);
  const auto found = places_.find(ticket);
  if (found == places_.end()) return false;
  const auto [queue, place] = found->second;
  const auto waiting = queue->find(place);
  task = std::move(waiting->second);
  queue->erase(waiting);
  places_.erase(found);
  if (places_.empty() && running_ == 0) idle_.NotifyAll();
  return true;
}

void WorkerPool::WaitUntilIdle(absl::Time deadline) {
  MutexLock lock(mutex_);
  const absl::Duration limit = std::min(deadline - absl::Now(), absl::Hours(24));
  const CondVar::Clock::time_point end = CondVar::Clock::now() + absl::ToChronoNanoseconds(limit);
  bool in_time = true;
  while (in_time && !(places_.empty() && running_ == 0)) in_time = idle_.WaitUntil(lock, end);
}

WorkerPool::Queue* WorkerPool::Next() {
  const bool costly = !costly_.empty() && running_costly_ < max_costly_;
  if (cheap_.empty()) return costly ? &costly_ : nullptr;
  return costly && costly_.begin()->first < cheap_.begin()->first ? &costly_ : &cheap_;
}

void WorkerPool::Run() {
  MutexLock lock(mutex_);
  while (true) {
    Queue* queue = Next();
    while (queue == nullptr && !stopping_) {
      ready_.Wait(lock);
      queue = Next();
    }
    if (queue == nullptr) return;
    const bool costly = queue == &costly_;
    const auto head = queue->begin();
    Task task = std::move(head->second);
    places_.erase(head->first.second);
    queue->erase(head);
    ++running_;
    running_costly_ += costly ? 1 : 0;
    lock.Unlock();
    task(false);
    task = nullptr;  // what it holds goes outside the lock
    lock.Lock();
    --running_;
    running_costly_ -= costly ? 1 : 0;
    if (costly) ready_.NotifyOne();
    if (places_.empty() && running_ == 0) idle_.NotifyAll();
  }
}

}  // namespace t2r::server
