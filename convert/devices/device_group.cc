#include "convert/devices/device_group.h"

#include <torch/torch.h>

#include <chrono>
#include <exception>
#include <filesystem>
#include <torch/csrc/distributed/c10d/FileStore.hpp>
#if defined(T2R_GLOO)
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#endif
#if defined(T2R_NCCL)
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>
#endif
#include <utility>
#include <vector>

#include "convert/device.h"
#include "convert/error.h"

namespace t2r::convert {

// c10d's group.
class DeviceGroup::Collectives {
 public:
  // Blocks until all have joined. `others` may be null.
  Collectives(const DeviceGroup& group, const std::string& directory, DeviceProcesses* others)
      : others_(others) {
    Guarded([&] {
      const auto store = c10::make_intrusive<c10d::FileStore>(directory + "/store", group.size());
      // The first process evaluates while the others wait; one that is lost is noticed by itself.
      constexpr auto kTimeout = std::chrono::hours(24 * 7);
      store->setTimeout(kTimeout);
#if defined(T2R_NCCL)
      if (group.device().is_cuda()) {
        auto options = c10d::ProcessGroupNCCL::Options::create();
        options->timeout = kTimeout;
        group_ =
            c10::make_intrusive<c10d::ProcessGroupNCCL>(store, group.rank(), group.size(), options);
      }
#endif
#if defined(T2R_GLOO)
      if (group.device().is_cpu()) {
        auto options = c10d::ProcessGroupGloo::Options::create(kTimeout);
        options->devices = {c10d::ProcessGroupGloo::createDeviceForHostname("127.0.0.1")};
        group_ =
            c10::make_intrusive<c10d::ProcessGroupGloo>(store, group.rank(), group.size(), options);
      }
#endif
    });
  }

  void Sum(torch::Tensor tensor) {
    Guarded([&] {
      std::vector<torch::Tensor> tensors{std::move(tensor)};
      group_->allreduce(tensors)->wait();
    });
  }
  void CopyFirst(torch::Tensor tensor) {
    Guarded([&] {
      std::vector<torch::Tensor> tensors{std::move(tensor)};
      group_->broadcast(tensors)->wait();
    });
  }

 private:
  void Guarded(const std::function<void()>& call) {
    try {
      call();
    } catch (const std::exception& error) {
      if (others_ != nullptr) others_->AwaitFailure();
      throw ConvertError(std::string("the processes of the devices lost each other: ") +
                         error.what());
    }
  }

#if TORCH_VERSION_MAJOR >= 2
  c10::intrusive_ptr<c10d::Backend> group_;
#else
  c10::intrusive_ptr<c10d::ProcessGroup> group_;
#endif
  DeviceProcesses* others_;
};

DeviceGroup::DeviceGroup(const std::string& device, int devices, const std::string& directory)
    : exceptions_(std::uncaught_exceptions()),
      rank_(devices > 1 ? ThisDeviceRank().rank : 0),
      size_(devices),
      device_(ParseDevice(device, devices, rank_)) {
  if (size_ == 1) return;
#if !defined(T2R_NCCL)
  if (device_.is_cuda()) throw ConvertError("--devices: this build has no NCCL for several GPUs");
#endif
#if !defined(T2R_GLOO)
  if (device_.is_cpu()) throw ConvertError("--devices: this build has no Gloo for the CPU");
#endif
  const std::string meeting =
      first() ? std::filesystem::absolute(directory).string() : ThisDeviceRank().directory;
  if (first()) others_ = std::make_unique<DeviceProcesses>(size_, meeting);
  collectives_ = std::make_unique<Collectives>(*this, meeting, others_.get());
}

DeviceGroup::~DeviceGroup() {
  // The others may wait in a collective that this process will not join: they are killed first.
  if (std::uncaught_exceptions() > exceptions_) others_.reset();
}

void DeviceGroup::Leave() {
  collectives_.reset();
  others_.reset();
}

void DeviceGroup::Sum(torch::Tensor tensor) {
  if (collectives_) collectives_->Sum(std::move(tensor));
}

double DeviceGroup::Sum(double value) { return Together(value, &Collectives::Sum); }

void DeviceGroup::CopyFirst(torch::Tensor tensor) {
  if (collectives_) collectives_->CopyFirst(std::move(tensor));
}

double DeviceGroup::OfFirst(double value) { return Together(value, &Collectives::CopyFirst); }

double DeviceGroup::Together(double value, void (Collectives::*operation)(torch::Tensor)) {
  if (!collectives_) return value;
  const torch::Tensor tensor = torch::full({1}, value, torch::kFloat64).to(device_);
  (collectives_.get()->*operation)(tensor);
  return tensor.item<double>();
}

std::string DeviceGroup::OfFirst(const std::function<std::string()>& make) {
  std::string text;
  if (first()) text = make();
  if (!collectives_) return text;
  const auto count = static_cast<int64_t>(OfFirst(static_cast<double>(text.size())));
  text.resize(static_cast<size_t>(count));
  if (count == 0) return text;
  const torch::Tensor bytes =
      torch::from_blob(text.data(), {count}, torch::kUInt8).clone().to(device_);
  collectives_->CopyFirst(bytes);
  const torch::Tensor back = bytes.cpu().contiguous();
  text.assign(static_cast<const char*>(back.data_ptr()), static_cast<size_t>(count));
  return text;
}

}  // namespace t2r::convert
