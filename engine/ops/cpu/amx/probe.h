// Whether tile instructions (AMX) really run here. What cpuid says is not enough: the system must
// keep the registers and allow the process to use them, and some virtual machines list the feature
// and fault at the first tile instruction.
#pragma once

#include <cstdint>

namespace t2r {

struct AmxSupport {
  bool int8 = false;
  bool bfloat16 = false;
};

// What a machine answers. Asked in this order, and no further than the first no: permission is not
// asked for where the registers are not kept, and no tile instruction runs without permission.
class AmxMachine {
 public:
  virtual ~AmxMachine() = default;
  // cpuid leaf 7, subleaf 0, EDX; 0 where the leaf is not there.
  virtual uint32_t FeatureBits() = 0;
  // Of the states that the system saves, XCR0; 0 where it cannot be read (no OSXSAVE).
  virtual uint64_t SavedStates() = 0;
  // Asks the system for leave to use the tile registers; true: given. It holds for the process.
  virtual bool AskPermission() = 0;
  // Runs a few tile instructions; false where one faults.
  virtual bool TilesRun() = 0;
};

AmxSupport ProbeAmx(AmxMachine& machine);

// This processor and system. TilesRun takes over SIGILL and SIGSEGV while it runs and puts the
// handlers back; a fault of another thread meanwhile goes where it would have gone.
AmxMachine& ThisMachine();

// ProbeAmx of this machine, asked once a process and kept.
const AmxSupport& Amx();

}  // namespace t2r
