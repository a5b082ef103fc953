// Whose turn it is: schedules worked out by hand.
#include "engine/scheduler/fair_queue.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <random>
#include <string>
#include <vector>

namespace t2r {
namespace {

using ::testing::ElementsAre;
using ::testing::ElementsAreArray;

static_assert(FairQueue::kQuantum == 512 && FairQueue::kPatience == 8);

// Items by name; ids in order of arrival.
class Queue {
 public:
  void Push(const std::string& name, const std::string& tenant, int64_t cost, int weight = 1,
            Priority priority = Priority::kNormal) {
    names_.push_back(name);
    queue_.Push({.id = names_.size(),
                 .cost = cost,
                 .tenant = tenant,
                 .weight = weight,
                 .priority = priority});
  }
  std::string Front() { return names_.at(queue_.Front() - 1); }
  std::string Pop() {
    const std::string name = Front();
    queue_.Pop();
    return name;
  }
  std::vector<std::string> PopAll() {
    std::vector<std::string> order;
    while (!queue_.empty()) order.push_back(Pop());
    return order;
  }
  FairQueue& queue() { return queue_; }

 private:
  FairQueue queue_;
  std::vector<std::string> names_;
};

TEST(FairQueueTest, OneTenantIsServedInOrderOfArrival) {
  Queue queue;
  queue.Push("long", "", 1'000'000'000'000);
  queue.Push("short", "", 1);
  queue.Push("nothing", "", 0);
  EXPECT_THAT(queue.PopAll(), ElementsAre("long", "short", "nothing"));
  EXPECT_EQ(queue.queue().Front(), 0u);
}

TEST(FairQueueTest, TenantsTakeTurnsByTokens) {
  Queue queue;
  for (const char* name : {"a1", "a2", "a3"}) queue.Push(name, "a", 1000);
  for (const char* name : {"b1", "b2", "b3"}) queue.Push(name, "b", 300);
  // a has 512: too little. b has 512: b1, which leaves 212. a has 1024: a1, 24. b has 724: b2, b3.
  // a alone has 536, then 1048: a2, 48; then 560, 1072: a3.
  EXPECT_THAT(queue.PopAll(), ElementsAre("b1", "a1", "b2", "b3", "a2", "a3"));
}

TEST(FairQueueTest, WeightsAreShares) {
  Queue queue;
  for (int i = 0; i < 6; ++i) queue.Push("a", "a", 512, 3);
  for (int i = 0; i < 2; ++i) queue.Push("b", "b", 512);
  EXPECT_THAT(queue.PopAll(), ElementsAre("a", "a", "a", "b", "a", "a", "a", "b"));
}

TEST(FairQueueTest, OneRequestAmongAThousandWaitsForOneTurn) {
  Queue queue;
  for (int i = 0; i < 1000; ++i) queue.Push("a", "a", 2000);
  EXPECT_EQ(queue.Pop(), "a");
  queue.Push("b", "b", 100);
  // a had 2048 for its first, and has 48.
  EXPECT_EQ(queue.Pop(), "b");
  // Nothing is kept for who is away.
  EXPECT_EQ(queue.Pop(), "a");
  queue.Push("b", "b", 600);
  EXPECT_THAT(std::vector({queue.Pop(), queue.Pop()}), ElementsAre("b", "a"));
}

TEST(FairQueueTest, WhatIsNextStaysNext) {
  Queue queue;
  queue.Push("a1", "a", 5000);
  queue.Push("a2", "a", 1);
  EXPECT_EQ(queue.Front(), "a1");
  queue.Push("b1", "b", 1);
  queue.Push("c1", "c", 1, 1, Priority::kHigh);
  EXPECT_EQ(queue.Front(), "a1");
  queue.queue().Remove(4);  // c1, which waits behind
  EXPECT_EQ(queue.Front(), "a1");
  queue.queue().Remove(1);  // a1 ends before its turn, and costs nothing
  EXPECT_EQ(queue.Front(), "a2");
  EXPECT_THAT(queue.PopAll(), ElementsAre("a2", "b1"));
}

TEST(FairQueueTest, PrioritiesStarveNobody) {
  Queue queue;
  for (int i = 0; i < 20; ++i) queue.Push("h", "h", 1, 1, Priority::kHigh);
  for (int i = 0; i < 2; ++i) queue.Push("l", "l", 1000, 1, Priority::kLow);
  for (int i = 0; i < 2; ++i) queue.Push("n", "n", 1000, 1, Priority::kNormal);
  std::vector<std::string> expected;
  for (int i = 0; i < 2; ++i) {
    expected.insert(expected.end(), 8, "h");
    expected.insert(expected.end(), {"n", "l"});
  }
  expected.insert(expected.end(), 4, "h");
  EXPECT_THAT(queue.PopAll(), ElementsAreArray(expected));
}

TEST(FairQueueTest, EverythingLeavesOnceAndInItsTenantsOrder) {
  std::mt19937 random(7);
  const auto draw = [&random](int64_t n) { return static_cast<int64_t>(random() % n); };
  FairQueue queue;
  std::map<RequestId, std::string> waiting;
  std::map<std::string, RequestId> last;
  RequestId next = 1;
  for (int turn = 0; turn < 20'000; ++turn) {
    const int64_t what = turn < 15'000 ? draw(5) : 4;
    if (what < 3) {
      const int64_t tenant = draw(6);
      const std::string name(1, static_cast<char>('a' + tenant));
      queue.Push({.id = next,
                  .cost = draw(10) == 0 ? draw(1 << 20) : draw(500),
                  .tenant = name,
                  .weight = static_cast<int>(1 + tenant),
                  .priority = static_cast<Priority>(tenant % 3)});
      waiting[next++] = name;
    } else if (what == 3 && !waiting.empty()) {
      const auto found = waiting.lower_bound(1 + draw(static_cast<int64_t>(next)));
      if (found == waiting.end()) continue;
      queue.Remove(found->first);
      waiting.erase(found);
    } else if (const RequestId id = queue.Front(); id != 0) {
      ASSERT_EQ(waiting.count(id), 1u);
      RequestId& before = last[waiting[id]];
      ASSERT_LT(before, id);
      before = id;
      waiting.erase(id);
      queue.Pop();
    }
    ASSERT_EQ(queue.empty(), waiting.empty());
  }
  while (queue.Front() != 0) queue.Pop();
  EXPECT_TRUE(queue.empty());
}

}  // namespace
}  // namespace t2r
