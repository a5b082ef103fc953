// The device that the backend computes on.
#pragma once

#include <string>

namespace t2r::cuda {

struct DeviceInfo {
  std::string name;
  int major = 0;  // of its architecture, sm_<major><minor>
  int minor = 0;
  int multiprocessors = 0;
};

// Makes the first visible device the calling thread's and makes sure that this build has code for
// it. Throws DeviceError that says what is missing (a driver, a device, the architecture) and what
// to do.
DeviceInfo OpenDevice();

}  // namespace t2r::cuda
