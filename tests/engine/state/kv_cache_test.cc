#include "engine/state/kv_cache.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <climits>
#include <cstddef>
#include <cstring>
#include <set>
#include <vector>

namespace t2r {
namespace {

class KvCacheTest : public ::testing::Test {
 protected:
  std::unique_ptr<Backend> backend_ = MakeBackend({"cpu", 1});
};

TEST_F(KvCacheTest, ReservesWholePagesOrNothing) {
  KvCache cache(*backend_, {2, 3, 4}, 5, 3);
  EXPECT_EQ(KvCache::PagesFor(1), 1);
  EXPECT_EQ(KvCache::PagesFor(64), 1);
  EXPECT_EQ(KvCache::PagesFor(65), 2);
  EXPECT_TRUE(cache.Reserve(0, 130));
  EXPECT_EQ(cache.table(0).size(), 3U);
  EXPECT_FALSE(cache.CanReserve(129));
  EXPECT_FALSE(cache.Reserve(1, 129));
  EXPECT_EQ(cache.free_pages(), 2);
  EXPECT_TRUE(cache.table(1).empty());
  EXPECT_TRUE(cache.Reserve(1, 128));
  EXPECT_EQ(cache.free_pages(), 0);
  EXPECT_FALSE(cache.CanReserve(1));
}

TEST_F(KvCacheTest, NoPageHasTwoOwners) {
  KvCache cache(*backend_, {1, 1, 8}, 7, 3);
  for (int round = 0; round < 20; ++round) {
    EXPECT_TRUE(cache.Reserve(0, 64 * (1 + round % 3)));
    EXPECT_TRUE(cache.Reserve(1, 64 * (1 + round % 2)));
    EXPECT_TRUE(cache.Reserve(2, 100));
    std::set<int32_t> pages;
    size_t count = 0;
    for (int slot = 0; slot < 3; ++slot) {
      for (const int32_t page : cache.table(slot)) {
        EXPECT_GE(page, 0);
        EXPECT_LT(page, 7);
        pages.insert(page);
        ++count;
      }
    }
    EXPECT_EQ(pages.size(), count);
    for (const int slot : {1, 0, 2}) cache.Release(slot);
    EXPECT_EQ(cache.free_pages(), 7);
  }
}

TEST_F(KvCacheTest, LayersLieSideBySideInAPage) {
  const KvShape shape{3, 2, 4};
  EXPECT_EQ(shape.layer_elements(), 2 * 2 * kKvPageSize * 4);
  EXPECT_EQ(shape.page_bytes(), 3 * shape.layer_elements() * 4);
  KvCache cache(*backend_, shape, 2, 1);
  EXPECT_EQ(cache.page_stride(), 3 * shape.layer_elements());
  auto* first = static_cast<float*>(cache.layer(0));
  auto* third = static_cast<float*>(cache.layer(2));
  EXPECT_EQ(third - first, 2 * shape.layer_elements());
  third[cache.page_stride() + shape.layer_elements() - 1] = 1.0F;  // the buffer's last float
}

TEST_F(KvCacheTest, SixteenBitPagesTakeHalf) {
  const KvShape wide{3, 2, 4};
  const KvShape narrow{3, 2, 4, DType::kBFloat16};
  EXPECT_EQ(2 * narrow.page_bytes(), wide.page_bytes());
  KvCache cache(*backend_, narrow, 2, 1);
  EXPECT_EQ(static_cast<uint16_t*>(cache.layer(2)) - static_cast<uint16_t*>(cache.layer(0)),
            2 * narrow.layer_elements());
}

TEST_F(KvCacheTest, AForkSharesFullPagesAndCopiesTheLast) {
  const KvShape shape{2, 1, 2};
  KvCache cache(*backend_, shape, 6, 2);
  ASSERT_TRUE(cache.Reserve(0, 3 * kKvPageSize));
  ASSERT_TRUE(cache.Reserve(1, 3 * kKvPageSize));
  auto* pages = static_cast<float*>(cache.layer(0));
  for (int64_t i = 0; i < 6 * cache.page_stride(); ++i) pages[i] = static_cast<float>(i);
  cache.Fork(0, 1, kKvPageSize + 1);  // one page and the beginning of another
  EXPECT_EQ(cache.free_pages(), 1);
  EXPECT_EQ(cache.table(0)[0], cache.table(1)[0]);
  EXPECT_NE(cache.table(0)[2], cache.table(1)[2]);
  ASSERT_NE(cache.table(0)[1], cache.table(1)[1]);
  for (int page = 0; page < 3; ++page) {
    const float* from = pages + cache.table(0)[page] * cache.page_stride();
    const float* to = pages + cache.table(1)[page] * cache.page_stride();
    EXPECT_EQ(std::equal(from, from + cache.page_stride(), to), page < 2) << page;
  }
  cache.Fork(0, 1, 2 * kKvPageSize);
  EXPECT_EQ(cache.free_pages(), 2);
  EXPECT_EQ(cache.table(0)[1], cache.table(1)[1]);
  cache.Release(0);
  EXPECT_EQ(cache.free_pages(), 3) << "slot 1 still has its three";
  cache.Release(1);
  EXPECT_EQ(cache.free_pages(), 6);
}

// Forks to and fro at ever more positions: never more pages than were reserved, nobody writes on
// another's page, and in the end all come back.
TEST_F(KvCacheTest, ForksNeedNoPageBeyondTheReserved) {
  constexpr int kSlots = 4;
  KvCache cache(*backend_, {1, 1, 8}, kSlots * 5, kSlots);
  for (int slot = 0; slot < kSlots; ++slot) ASSERT_TRUE(cache.Reserve(slot, 5 * kKvPageSize));
  uint32_t random = 1;
  for (int64_t positions = 1; positions <= 5 * kKvPageSize; ++positions) {
    random = random * 1664525 + 1013904223;
    const int from = static_cast<int>(random >> 30);
    const int to = static_cast<int>((random >> 28) & 3);
    if (from != to) cache.Fork(from, to, positions);
    std::set<int32_t> next;  // the pages that the position after is written to, and later ones
    size_t count = 0;
    for (int slot = 0; slot < kSlots; ++slot) {
      const auto table = cache.table(slot);
      ASSERT_EQ(table.size(), 5U);
      const auto rest = table.subspan(static_cast<size_t>(positions / kKvPageSize));
      next.insert(rest.begin(), rest.end());
      count += rest.size();
    }
    EXPECT_EQ(next.size(), count) << positions;
  }
  EXPECT_GT(cache.free_pages(), 0);
  for (int slot = 0; slot < kSlots; ++slot) cache.Release(slot);
  EXPECT_EQ(cache.free_pages(), kSlots * 5);
}

// What is kept owns whole pages of a slot's, outlives it, and takes nothing from the slots' share.
TEST_F(KvCacheTest, KeptPagesAreBesideTheSlots) {
  const int kKept = 2;  // the place behind slots 0 and 1
  KvCache cache(*backend_, {1, 1, 8}, 6, 2, 3, 3);
  EXPECT_EQ(cache.pages(), 6);
  EXPECT_TRUE(cache.CanReserve(6 * kKvPageSize));
  EXPECT_FALSE(cache.CanReserve(6 * kKvPageSize + 1));
  ASSERT_TRUE(cache.Reserve(0, 4 * kKvPageSize));
  EXPECT_FALSE(cache.Keep(0, kKept, 4 * kKvPageSize)) << "three at most";
  EXPECT_EQ(cache.kept_pages(), 0);
  EXPECT_TRUE(cache.Keep(0, kKept, 2 * kKvPageSize));
  EXPECT_TRUE(cache.Keep(0, kKept + 1, kKvPageSize));  // no further page
  EXPECT_EQ(cache.kept_pages(), 2);
  const std::vector<int32_t> pages(cache.table(0).begin(), cache.table(0).begin() + 2);
  cache.Release(0);
  EXPECT_EQ(cache.free_pages(), 7);
  EXPECT_TRUE(cache.CanReserve(6 * kKvPageSize));
  EXPECT_FALSE(cache.CanReserve(6 * kKvPageSize + 1)) << "the third is for what is kept";

  ASSERT_TRUE(cache.Reserve(1, 4 * kKvPageSize));
  cache.Fork(kKept, 1, 2 * kKvPageSize);
  EXPECT_EQ(cache.table(1)[0], pages[0]);
  EXPECT_EQ(cache.table(1)[1], pages[1]);
  EXPECT_TRUE(cache.CanReserve(4 * kKvPageSize)) << "slot 1 has only two of its own";
  EXPECT_FALSE(cache.CanReserve(4 * kKvPageSize + 1));
  cache.Drop(kKept);
  EXPECT_EQ(cache.kept_pages(), 1);
  EXPECT_FALSE(cache.CanReserve(4 * kKvPageSize)) << "and now three";
  cache.Drop(kKept + 1);
  cache.Release(1);
  EXPECT_EQ(cache.kept_pages(), 0);
  EXPECT_EQ(cache.free_pages(), 9);
}

TEST_F(KvCacheTest, WithoutFullLayersEverythingFits) {
  KvCache cache(*backend_, {}, 100, 2);
  EXPECT_EQ(cache.pages(), 0);
  EXPECT_TRUE(cache.CanReserve(int64_t{1} << 50));
  EXPECT_TRUE(cache.Reserve(0, int64_t{1} << 50));
  EXPECT_TRUE(cache.table(0).empty());
  cache.Release(0);
}

TEST_F(KvCacheTest, ImpossibleSizesAreErrors) {
  EXPECT_THROW(KvCache(*backend_, {4096, 1 << 14, 1 << 14}, INT_MAX, 1), DeviceError);
  EXPECT_THROW(KvCache(*backend_, {1, 1, 1}, int64_t{1} << 40, 1), DeviceError);
}

// What is read is the slot's own pages in their order, and nothing of whoever had them before.
TEST_F(KvCacheTest, PagesGoToHostMemoryAndBack) {
  const KvShape shape{1, 1, 2};
  KvCache cache(*backend_, shape, 4, 2);
  const auto page = static_cast<size_t>(shape.page_bytes());
  ASSERT_TRUE(cache.Reserve(0, 4 * kKvPageSize));
  std::memset(cache.layer(0), 0x5A, 4 * page);
  cache.Release(0);
  ASSERT_TRUE(cache.Reserve(0, 2 * kKvPageSize, true));
  EXPECT_EQ(cache.ReadBytes(kKvPageSize + 1), static_cast<int64_t>(2 * page));
  std::vector<std::byte> host(2 * page, std::byte{1});
  cache.Read(0, kKvPageSize + 1, host.data());
  EXPECT_TRUE(std::all_of(host.begin(), host.end(), [](std::byte b) { return b == std::byte{0}; }));
  for (size_t i = 0; i < host.size(); ++i) host[i] = static_cast<std::byte>(i % 251);
  cache.Write(0, kKvPageSize + 1, host.data());
  auto* const pages = static_cast<std::byte*>(cache.layer(0));
  for (size_t i = 0; i < 2; ++i) {
    const std::byte* const here = pages + static_cast<size_t>(cache.table(0)[i]) * page;
    EXPECT_EQ(std::memcmp(here, host.data() + i * page, page), 0) << i;
  }
  std::vector<std::byte> again(page);
  cache.Read(0, kKvPageSize, again.data());
  EXPECT_TRUE(std::equal(again.begin(), again.end(), host.begin()));
}

}  // namespace
}  // namespace t2r
