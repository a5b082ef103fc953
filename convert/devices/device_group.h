// The processes of one training run, one a device, and what they do together: collective operations
// of c10d, over Gloo on the CPU and over NCCL on GPUs.
#pragma once

#include <torch/types.h>

#include <functional>
#include <memory>
#include <string>

#include "convert/devices/device_processes.h"

namespace t2r::convert {

// Every process calls the same members in the same order, with tensors of the same shapes on
// device(), from one thread. Each returns on a process once all have called it, and throws
// ConvertError where one is lost.
class DeviceGroup {
 public:
  // In the program as a user starts it: starts the processes of the other devices and waits until
  // they have joined. In one of these (ThisDeviceRank): joins. `device`: "cpu", where each process
  // is one device, or "cuda", where they have GPUs 0 to devices − 1. They meet in `directory`,
  // which is theirs while they run. Throws ConvertError where LibTorch or the machine has no such
  // devices.
  DeviceGroup(const std::string& device, int devices, const std::string& directory);
  ~DeviceGroup();
  DeviceGroup(const DeviceGroup&) = delete;
  DeviceGroup& operator=(const DeviceGroup&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }
  bool first() const { return rank_ == 0; }
  torch::Device device() const { return device_; }

  // Adds up, in place, every process' tensor, contiguous, in one order: the same bits everywhere.
  void Sum(torch::Tensor tensor);
  double Sum(double value);
  // In place, the first process' tensor.
  void CopyFirst(torch::Tensor tensor);
  double OfFirst(double value);
  // What `make` gives on the first process; on the others it is not called.
  std::string OfFirst(const std::function<std::string()>& make);
  // The last call. On the first process it returns once the others have ended.
  void Leave();

 private:
  class Collectives;
  double Together(double value, void (Collectives::*operation)(torch::Tensor));

  const int exceptions_;  // in flight when it was made
  const int rank_, size_;
  const torch::Device device_;
  std::unique_ptr<DeviceProcesses> others_;   // of the first process
  std::unique_ptr<Collectives> collectives_;  // null with one device
};

}  // namespace t2r::convert
