// The other processes of a training run, one a device. No LibTorch.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstddef>
#include <string>
#include <thread>
#include <vector>

namespace t2r::convert {

// What a process is in a run that another one started; rank 0 otherwise.
struct DeviceRank {
  int rank = 0;
  std::string directory;  // where the processes meet; empty with rank 0
};
// Read from the environment. A process that was started so is killed when the one that did so ends.
DeviceRank ThisDeviceRank();

// Started by the first process, which is of rank 0.
class DeviceProcesses {
 public:
  // Starts this program devices − 1 times more, with this process' arguments, each to find its rank
  // by ThisDeviceRank. `directory`, absolute, is emptied and made; what they print goes to a file
  // each in it. As soon as one fails, all end: this process too, with the failure on stderr and
  // exit code 1. Throws ConvertError where they cannot be started.
  DeviceProcesses(int devices, std::string directory);
  // Waits until all have ended, having killed them where an exception is the reason, and removes
  // the directory.
  ~DeviceProcesses();
  DeviceProcesses(const DeviceProcesses&) = delete;
  DeviceProcesses& operator=(const DeviceProcesses&) = delete;

  // Of a caller that has lost one: leaves time for its end to be told, which ends this process.
  void AwaitFailure() const;

 private:
  pid_t Start(int rank) const;
  void Kill();
  // Waits for the end of one.
  void Watch(size_t index);

  const int exceptions_;
  const std::string directory_;
  std::vector<pid_t> pids_;  // of ranks 1, 2, …
  std::vector<std::thread> watchers_;
  std::atomic<bool> ending_{false};  // a failure is told, or we kill them: no more are told
};

}  // namespace t2r::convert
