#include "tests/cuda_emulator/fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <new>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#ifndef __x86_64__
#error "the CUDA emulator's context switch is written for x86-64"
#endif

// Saves the registers that a call must keep on the stack, leaves that stack's pointer in *from, and
// goes on where `to` was left.
extern "C" void t2r_emulator_switch(void** from, void* to);
asm(R"(
.text
.hidden t2r_emulator_switch
.globl t2r_emulator_switch
.type t2r_emulator_switch, @function
t2r_emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size t2r_emulator_switch, .-t2r_emulator_switch
)");

namespace emulator {
namespace {

#ifdef __SANITIZE_ADDRESS__
constexpr size_t kStackBytes = 256 * 1024;
#else
constexpr size_t kStackBytes = 64 * 1024;
#endif
constexpr size_t kGuardBytes = 4096;

// Of the operating-system thread that runs the fibers.
thread_local Fiber* running = nullptr;
thread_local void* host_stack_pointer = nullptr;
#ifdef __SANITIZE_ADDRESS__
thread_local const void* host_stack = nullptr;
thread_local size_t host_stack_bytes = 0;
#endif

}  // namespace

Fiber::Fiber() {
  void* memory = mmap(nullptr, kStackBytes + kGuardBytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  mprotect(memory, kGuardBytes, PROT_NONE);  // an overflow stops here
  stack_ = static_cast<char*>(memory) + kGuardBytes;
}

Fiber::~Fiber() {
#ifdef __SANITIZE_ADDRESS__
  __asan_unpoison_memory_region(stack_, kStackBytes);
#endif
  munmap(static_cast<char*>(stack_) - kGuardBytes, kStackBytes + kGuardBytes);
}

#ifdef __SANITIZE_ADDRESS__
__attribute__((no_sanitize_address))
#endif
void Fiber::Main() {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(nullptr, &host_stack, &host_stack_bytes);
#endif
  running->function_(running->argument_);
  running->ended_ = true;
  void* unused = nullptr;
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(nullptr, host_stack, host_stack_bytes);
#endif
  t2r_emulator_switch(&unused, host_stack_pointer);
}

void Fiber::SwitchHere() {
  running = this;
#ifdef __SANITIZE_ADDRESS__
  void* host_fake_stack = nullptr;
  __sanitizer_start_switch_fiber(&host_fake_stack, stack_, kStackBytes);
#endif
  t2r_emulator_switch(&host_stack_pointer, stack_pointer_);
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(host_fake_stack, nullptr, nullptr);
#endif
  running = nullptr;
}

bool Fiber::Start(void (*function)(void*), void* argument) {
#ifdef __SANITIZE_ADDRESS__
  // What was suspended here for ever has left marks.
  if (function_ != nullptr && !ended_) __asan_unpoison_memory_region(stack_, kStackBytes);
#endif
  function_ = function;
  argument_ = argument;
  ended_ = false;
  fake_stack_ = nullptr;
  // As t2r_emulator_switch leaves a stack: six registers, then where to go; the stack is aligned as
  // at the entry of a function, whose return address no one will use.
  auto* top = reinterpret_cast<uintptr_t*>(static_cast<char*>(stack_) + kStackBytes);
  *--top = 0;
  *--top = reinterpret_cast<uintptr_t>(&Fiber::Main);
  for (int i = 0; i < 6; ++i) *--top = 0;
  stack_pointer_ = top;
  return Resume();
}

bool Fiber::Resume() {
  SwitchHere();
  return ended_;
}

void Fiber::Yield() {
  Fiber* self = running;
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(&self->fake_stack_, host_stack, host_stack_bytes);
#endif
  t2r_emulator_switch(&self->stack_pointer_, host_stack_pointer);
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(self->fake_stack_, &host_stack, &host_stack_bytes);
#endif
}

}  // namespace emulator
