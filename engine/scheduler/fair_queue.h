// Who gets the next slot: a queue for each tenant, and turns between them.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <list>
#include <map>
#include <string>

#include "engine/scheduler/request.h"

namespace t2r {

// Deficit round robin (Shreedhar and Varghese, SIGCOMM 1995) between the tenants of a priority.
// Each has its requests in order of arrival. In its turn it is given kQuantum × weight tokens, and
// its requests go as long as they cost no more than it has; what is left over stays for its next
// turn, and is lost when nothing of it waits. So tenants that always wait get tokens in proportion
// to their weights, and one request among many of another tenant waits for about one turn of
// theirs. One tenant alone is served in order of arrival.
//
// Of priorities the highest goes first, but none is passed over more than kPatience times in a row
// by higher ones while something of it waits (kPatience + 1 where two are due at once).
//
// Engine thread only.
class FairQueue {
 public:
  static constexpr int64_t kQuantum = 512;  // tokens a turn
  static constexpr int kPatience = 8;

  struct Item {
    RequestId id = 0;  // not 0
    int64_t cost = 0;  // tokens, ≥ 0
    std::string tenant;
    int weight = 1;  // ≥ 1; a tenant's is that of its last item
    Priority priority = Priority::kNormal;
  };

  void Push(Item item);
  // What goes next; 0: nothing waits. It stays so until Pop or its Remove, whatever comes
  // meanwhile: what needs much room is not overtaken for ever.
  RequestId Front();
  // Front() leaves, and its tenant pays.
  void Pop();
  // It leaves without its turn; it must be there.
  void Remove(RequestId id);
  bool empty() const { return places_.empty(); }

 private:
  struct Waiting {
    RequestId id = 0;
    int64_t cost = 0;
  };
  struct Tenant {
    std::string name;
    int weight = 1;
    int64_t deficit = 0;
    bool in_turn = false;  // it has been given its tokens
    std::list<Waiting> waiting;

    int64_t quantum() const { return kQuantum * weight; }
  };
  struct Class {
    std::list<Tenant> round;  // who has something waiting; the first one is next
    std::map<std::string, std::list<Tenant>::iterator> by_name;
    int passed = 0;  // turns of higher priorities while something of this one waited
  };
  struct Place {
    size_t priority = 0;
    std::list<Tenant>::iterator tenant;
    std::list<Waiting>::iterator item;
  };

  static RequestId Choose(Class& among);
  // Gives everybody the tokens of the rounds in which nobody could go.
  static void SkipRounds(Class& among);
  // Highest priority first.
  std::array<Class, kPriorities> classes_;
  std::map<RequestId, Place> places_;  // of all that waits
  RequestId front_ = 0;
};

}  // namespace t2r
