#include "engine/ops/cpu/amx/probe.h"

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <csetjmp>
#include <csignal>

#include "engine/ops/cpu/amx/config.h"
#endif

namespace t2r {
namespace {

// cpuid leaf 7, EDX.
constexpr uint32_t kBfloat16Bit = 1U << 22;
constexpr uint32_t kTileBit = 1U << 24;
constexpr uint32_t kInt8Bit = 1U << 25;
// XCR0: the tiles' configuration and their data.
constexpr uint64_t kTileStates = 1U << 17 | 1U << 18;

#if defined(__x86_64__) && defined(__linux__)

// Of the one probe at a time: where a fault leads back to, and whose.
sigjmp_buf before_tiles;
pthread_t prober;
struct sigaction old_ill;
struct sigaction old_segv;

void OnFault(int signal) {
  if (pthread_equal(pthread_self(), prober) != 0) siglongjmp(before_tiles, 1);
  // Another thread's: the instruction runs again, and faults as if no probe were there.
  sigaction(signal, signal == SIGILL ? &old_ill : &old_segv, nullptr);
}

void RunSomeTiles() {
  alignas(64) TileConfig config;
  config.Set(0, 16, 64);
  asm volatile(
      "ldtilecfg (%0)\n\t"
      "tilezero %%tmm0\n\t"
      "tilerelease"
      :
      : "r"(&config)
      : "memory");
}

class Machine : public AmxMachine {
 public:
  uint32_t FeatureBits() override {
    unsigned eax = 0;
    unsigned ebx = 0;
    unsigned ecx = 0;
    unsigned edx = 0;
    return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) != 0 ? edx : 0;
  }
  uint64_t SavedStates() override {
    unsigned eax = 0;
    unsigned ebx = 0;
    unsigned ecx = 0;
    unsigned edx = 0;
    constexpr unsigned kOsXsave = 1U << 27;
    if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) == 0 || (ecx & kOsXsave) == 0) return 0;
    uint32_t low = 0;
    uint32_t high = 0;
    asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return static_cast<uint64_t>(high) << 32 | low;
  }
  bool AskPermission() override {
    constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
    constexpr long kTileData = 18;
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  }
  bool TilesRun() override {
    prober = pthread_self();
    struct sigaction ours {};
    ours.sa_handler = OnFault;
    sigemptyset(&ours.sa_mask);
    sigaction(SIGILL, &ours, &old_ill);
    sigaction(SIGSEGV, &ours, &old_segv);
    std::atomic<bool> ran{false};
    if (sigsetjmp(before_tiles, 1) == 0) {
      RunSomeTiles();
      ran = true;
    }
    sigaction(SIGILL, &old_ill, nullptr);
    sigaction(SIGSEGV, &old_segv, nullptr);
    return ran;
  }
};

#else

class Machine : public AmxMachine {
 public:
  uint32_t FeatureBits() override { return 0; }
  uint64_t SavedStates() override { return 0; }
  bool AskPermission() override { return false; }
  bool TilesRun() override { return false; }
};

#endif

}  // namespace

AmxSupport ProbeAmx(AmxMachine& machine) {
  const uint32_t features = machine.FeatureBits();
  if ((features & kTileBit) == 0 || (features & (kInt8Bit | kBfloat16Bit)) == 0) return {};
  if ((machine.SavedStates() & kTileStates) != kTileStates) return {};
  if (!machine.AskPermission() || !machine.TilesRun()) return {};
  return {(features & kInt8Bit) != 0, (features & kBfloat16Bit) != 0};
}

AmxMachine& ThisMachine() {
  static Machine machine;
  return machine;
}

const AmxSupport& Amx() {
  static const AmxSupport kFound = ProbeAmx(ThisMachine());
  return kFound;
}

}  // namespace t2r
