#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <vector>

#include "engine/ops/cpu/memory.h"

namespace t2r::testing {
namespace {

constexpr size_t kKiB = 1024;
constexpr size_t kPage = 4 * kKiB;
constexpr size_t kHugePage = 2 * kKiB * kKiB;

uintptr_t Address(const Buffer& buffer) { return reinterpret_cast<uintptr_t>(buffer.data()); }

bool IsMapped(uintptr_t page) {
  unsigned char resident = 0;
  return mincore(reinterpret_cast<void*>(page), kPage, &resident) == 0 || errno != ENOMEM;
}

TEST(WeightMemoryTest, IsZeroedAlignedAndApart) {
  std::vector<Buffer> buffers;
  for (const size_t bytes : {size_t{1}, 63 * kKiB, 64 * kKiB, 600 * kKiB + 1, 2000 * kKiB,
                             8192 * kKiB, 8193 * kKiB, 600 * kKiB, 40000 * kKiB, 4096 * kKiB}) {
    for (int i = 0; i < 4; ++i) {
      buffers.push_back(AllocateWeights(bytes));
      EXPECT_EQ(buffers.back().bytes(), bytes);
      EXPECT_EQ(Address(buffers.back()) % kPage, 0U);
    }
  }
  for (size_t i = 0; i < buffers.size(); ++i) {
    const auto* bytes = static_cast<const uint8_t*>(buffers[i].data());
    EXPECT_TRUE(std::all_of(bytes, bytes + buffers[i].bytes(), [](uint8_t b) { return b == 0; }))
        << i << " overlaps one before it";
    std::memset(buffers[i].data(), 1, buffers[i].bytes());
  }
}

TEST(WeightMemoryTest, SmallMatricesShareHugePages) {
  const Buffer first = AllocateWeights(600 * kKiB);
  const Buffer second = AllocateWeights(300 * kKiB);
  const Buffer third = AllocateWeights(900 * kKiB);
  EXPECT_EQ(Address(first) % kHugePage, 0U);
  EXPECT_EQ(Address(second) / kHugePage, Address(first) / kHugePage);
  EXPECT_EQ(Address(third) / kHugePage, Address(first) / kHugePage);
}

TEST(WeightMemoryTest, GoesBackWithTheLast) {
  Buffer first = AllocateWeights(600 * kKiB);
  Buffer second = AllocateWeights(300 * kKiB);
  const uintptr_t page = Address(first);
  first = Buffer();
  EXPECT_TRUE(IsMapped(page));
  second = Buffer();
  EXPECT_FALSE(IsMapped(page));
}

}  // namespace
}  // namespace t2r::testing
