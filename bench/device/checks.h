// Whether a device computes what the references in plain float64 do.
#pragma once

namespace t2r::bench {

// Prints a line a check: what, the largest error, and its bound. small: few and tiny ones, for
// compute-sanitizer. Returns how many failed. Throws DeviceError.
int RunChecks(bool small);

}  // namespace t2r::bench
