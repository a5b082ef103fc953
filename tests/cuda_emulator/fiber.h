// Fibers: functions that give the processor to each other, x86-64 only.
#pragma once

#include <cstddef>

namespace emulator {

// A stack and, while its function is suspended, where it goes on. Made once and used again.
class Fiber {
 public:
  // Throws std::bad_alloc.
  Fiber();
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // Starts function(argument) on this fiber's stack, forgetting what it did before; or goes on with
  // it. Both return when the function ends or calls Yield; true when it has ended.
  bool Start(void (*function)(void*), void* argument);
  bool Resume();

  // Called on a fiber: back to who started or resumed it.
  static void Yield();

 private:
  static void Main();
  void SwitchHere();

  void* stack_ = nullptr;
  void* stack_pointer_ = nullptr;
  void* fake_stack_ = nullptr;  // AddressSanitizer's
  void (*function_)(void*) = nullptr;
  void* argument_ = nullptr;
  bool ended_ = false;
};

}  // namespace emulator
