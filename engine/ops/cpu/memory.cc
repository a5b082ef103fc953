#include "engine/ops/cpu/memory.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <system_error>
#include <utility>

namespace t2r {
namespace {

constexpr size_t kPage = 4096;
constexpr size_t kHugePage = size_t{2} << 20;

// Of AllocateWeights: a region, and the sizes that share one. Less is not worth a region of its own
// where nothing shares it, and more leaves little in small pages.
constexpr size_t kRegion = size_t{32} << 20;
constexpr size_t kLeastShared = size_t{64} << 10;
constexpr size_t kMostShared = size_t{8} << 20;

struct Region {
  Buffer memory;
  size_t used = 0;
};

size_t RoundUp(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

}  // namespace

Buffer AllocateHost(size_t bytes) {
  if (bytes > SIZE_MAX / 2) {
    throw DeviceError(DeviceErrorKind::kOutOfMemory,
                      "cannot allocate " + std::to_string(bytes) + " bytes: no such memory");
  }
  const bool huge = bytes >= kHugePage;
  const size_t want = RoundUp(bytes == 0 ? 1 : bytes, kPage);
  // One huge page more, so that an aligned range lies inside; the ends are given back.
  const size_t mapped = huge ? want + kHugePage : want;
  void* base = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (base == MAP_FAILED) {
    throw DeviceError(DeviceErrorKind::kOutOfMemory,
                      "cannot allocate " + std::to_string(bytes) +
                          " bytes of memory: " + std::generic_category().message(errno));
  }
  auto* data = static_cast<std::byte*>(base);
  if (huge) {
    const size_t skip = (kHugePage - reinterpret_cast<uintptr_t>(data) % kHugePage) % kHugePage;
    if (skip > 0) munmap(data, skip);
    data += skip;
    const size_t rest = mapped - skip - want;
    if (rest > 0) munmap(data + want, rest);
    madvise(data, want, MADV_HUGEPAGE);  // only advice: without huge pages it is merely slower
  }
  return Buffer(data, bytes, [want](void* p) { munmap(p, want); });
}

Buffer AllocateWeights(size_t bytes) {
  if (bytes < kLeastShared || bytes > kMostShared) return AllocateHost(bytes);
  static std::mutex mutex;
  static std::weak_ptr<Region> current;
  const std::lock_guard<std::mutex> lock(mutex);
  std::shared_ptr<Region> region = current.lock();
  const size_t want = RoundUp(bytes, kPage);
  if (region == nullptr || region->used + want > kRegion) {
    region = std::make_shared<Region>(Region{AllocateHost(kRegion)});
    current = region;
  }
  void* const data = static_cast<std::byte*>(region->memory.data()) + region->used;
  region->used += want;
  return Buffer(data, bytes, [owner = std::move(region)](void*) {});
}

}  // namespace t2r
