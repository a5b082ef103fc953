#include "engine/scheduler/fair_queue.h"

#include <algorithm>
#include <iterator>
#include <limits>
#include <utility>

namespace t2r {

void FairQueue::Push(Item item) {
  const auto priority = static_cast<size_t>(item.priority);
  Class& among = classes_[priority];
  auto [known, is_new] = among.by_name.try_emplace(item.tenant);
  if (is_new) {
    Tenant tenant;
    tenant.name = std::move(item.tenant);
    known->second = among.round.insert(among.round.end(), std::move(tenant));
  }
  Tenant& tenant = *known->second;
  tenant.weight = item.weight;
  tenant.waiting.push_back({.id = item.id, .cost = item.cost});
  places_[item.id] = {
      .priority = priority, .tenant = known->second, .item = std::prev(tenant.waiting.end())};
}

RequestId FairQueue::Front() {
  if (front_ != 0 || places_.empty()) return front_;
  Class* next = nullptr;
  for (Class& one : classes_) {
    if (one.round.empty()) continue;
    if (next == nullptr || (one.passed >= kPatience && next->passed < kPatience)) next = &one;
  }
  front_ = Choose(*next);
  return front_;
}

RequestId FairQueue::Choose(Class& among) {
  while (true) {
    for (size_t i = 0; i < among.round.size(); ++i) {
      Tenant& tenant = among.round.front();
      if (!std::exchange(tenant.in_turn, true)) tenant.deficit += tenant.quantum();
      if (tenant.waiting.front().cost <= tenant.deficit) return tenant.waiting.front().id;
      tenant.in_turn = false;
      among.round.splice(among.round.end(), among.round, among.round.begin());
    }
    SkipRounds(among);
  }
}

void FairQueue::SkipRounds(Class& among) {
  int64_t rounds = std::numeric_limits<int64_t>::max();
  for (const Tenant& tenant : among.round) {
    const int64_t missing = tenant.waiting.front().cost - tenant.deficit;
    rounds = std::min(rounds, (missing - 1) / tenant.quantum());
  }
  for (Tenant& tenant : among.round) tenant.deficit += rounds * tenant.quantum();
}

void FairQueue::Pop() {
  const Place& place = places_.at(front_);
  place.tenant->deficit -= place.item->cost;
  classes_[place.priority].passed = 0;
  for (size_t lower = place.priority + 1; lower < classes_.size(); ++lower) {
    if (!classes_[lower].round.empty()) ++classes_[lower].passed;
  }
  Remove(front_);
}

void FairQueue::Remove(RequestId id) {
  if (front_ == id) front_ = 0;
  const auto found = places_.find(id);
  const Place place = found->second;
  places_.erase(found);
  Class& among = classes_[place.priority];
  place.tenant->waiting.erase(place.item);
  if (!place.tenant->waiting.empty()) return;
  among.by_name.erase(place.tenant->name);
  among.round.erase(place.tenant);
  if (among.round.empty()) among.passed = 0;
}

}  // namespace t2r
