#include "engine/state/state_pool.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <climits>
#include <cstddef>
#include <cstring>
#include <set>
#include <vector>

namespace t2r {
namespace {

// `layers` layers of S and z alone.
StateShape Plain(int layers, int groups, int features, int head_dim) {
  StateShape shape{groups, head_dim, DType::kFloat32, {}};
  shape.layers.assign(layers, {features, 0});
  return shape;
}

std::span<float> Slot(const StatePool& pool, int slot) {
  return {pool.sums(0) + slot * pool.stride(), static_cast<size_t>(pool.shape().bytes() / 4)};
}

bool IsZero(std::span<const float> values) {
  return std::all_of(values.begin(), values.end(), [](float v) { return v == 0; });
}

class StatePoolTest : public ::testing::Test {
 protected:
  std::unique_ptr<Backend> backend_ = MakeBackend({"cpu", 1});
};

TEST_F(StatePoolTest, BytesFollowTheFormula) {
  const StateShape shape = Plain(5, 4, 32, 8);
  EXPECT_EQ(shape.layer_bytes(shape.layers[0]), 4 * 32 * 9 * 4);
  EXPECT_EQ(shape.bytes(), 5 * 4 * 32 * 9 * 4);
  // G · (2 d (w + C − 1 + n) + M (d + 1)) floats, layers of different sizes.
  StateShape windows{2, 8, DType::kFloat32, {{16, 11}, {0, 5}, {24, 0}}};
  EXPECT_EQ(windows.bytes(), 4 * 2 * ((16 * 11 + 16 * 9) + 16 * 5 + 24 * 9));
  windows.window_dtype = DType::kBFloat16;
  EXPECT_EQ(windows.bytes(), 4 * 2 * ((8 * 11 + 16 * 9) + 8 * 5 + 24 * 9));
  // d codes and a scale for each key and value.
  windows.window_dtype = DType::kInt8;
  EXPECT_EQ(windows.bytes(), 2 * (2 * 12 * 11 + 4 * 16 * 9 + 2 * 12 * 5 + 4 * 24 * 9));
  const StateShape odd{1, 3, DType::kInt8, {{0, 5}}};
  EXPECT_EQ(odd.bytes(), 72);  // 70, in whole floats
}

TEST_F(StatePoolTest, LayersOfDifferentSizesFollowEachOther) {
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kInt8}) {
    const StateShape shape{2, 8, dtype, {{16, 11}, {0, 5}, {24, 0}}};
    StatePool pool(*backend_, shape, 2);
    const auto* start = static_cast<const std::byte*>(pool.window(0));
    int64_t at = 0;
    for (int i = 0; i < 3; ++i) {
      const LayerState& layer = shape.layers[i];
      EXPECT_EQ(static_cast<const std::byte*>(pool.window(i)) - start, at);
      EXPECT_EQ(reinterpret_cast<const std::byte*>(pool.sums(i)) - start,
                at + shape.window_bytes(layer));
      at += shape.layer_bytes(layer);
    }
    EXPECT_EQ(at, shape.bytes());
    EXPECT_GE(pool.stride() * 4, at);
    EXPECT_LT(pool.stride() * 4, at + 64);
  }
}

TEST_F(StatePoolTest, SlotsAreDistinctZeroAndAligned) {
  StatePool pool(*backend_, Plain(3, 2, 5, 7), 6);
  EXPECT_EQ(pool.slots(), 6);
  EXPECT_EQ(pool.stride() % 16, 0);
  EXPECT_GE(pool.stride() * 4, pool.shape().bytes());
  std::set<int> slots;
  for (int i = 0; i < 6; ++i) {
    const int slot = pool.Acquire();
    EXPECT_TRUE(slots.insert(slot).second);
    EXPECT_TRUE(IsZero(Slot(pool, slot)));
    EXPECT_EQ(reinterpret_cast<uintptr_t>(Slot(pool, slot).data()) % 64, 0U);
    std::fill(Slot(pool, slot).begin(), Slot(pool, slot).end(), static_cast<float>(i + 1));
  }
  EXPECT_EQ(pool.free_slots(), 0);
  EXPECT_EQ(pool.Acquire(), -1);
}

TEST_F(StatePoolTest, ReleaseZeroesThatSlotOnly) {
  StatePool pool(*backend_, Plain(2, 1, 3, 4), 2);
  const int a = pool.Acquire();
  const int b = pool.Acquire();
  std::fill(Slot(pool, a).begin(), Slot(pool, a).end(), 1.0F);
  std::fill(Slot(pool, b).begin(), Slot(pool, b).end(), 2.0F);
  pool.Release(a);
  EXPECT_EQ(Slot(pool, b).front(), 2.0F);
  EXPECT_EQ(Slot(pool, b).back(), 2.0F);
  EXPECT_EQ(pool.Acquire(), a);
  EXPECT_TRUE(IsZero(Slot(pool, a)));
}

TEST_F(StatePoolTest, CopyForksAState) {
  StatePool pool(*backend_, Plain(2, 1, 3, 4), 3);
  const int a = pool.Acquire();
  const int b = pool.Acquire();
  const int c = pool.Acquire();
  for (size_t i = 0; i < Slot(pool, a).size(); ++i) Slot(pool, a)[i] = static_cast<float>(i);
  pool.Copy(a, c);
  EXPECT_TRUE(std::equal(Slot(pool, a).begin(), Slot(pool, a).end(), Slot(pool, c).begin()));
  EXPECT_TRUE(IsZero(Slot(pool, b)));
}

TEST_F(StatePoolTest, StatesGoToHostMemoryAndBack) {
  StatePool pool(*backend_, Plain(2, 1, 3, 4), 2);
  const int a = pool.Acquire();
  const int b = pool.Acquire();
  for (size_t i = 0; i < Slot(pool, a).size(); ++i) Slot(pool, a)[i] = static_cast<float>(i + 1);
  std::vector<std::byte> host(static_cast<size_t>(pool.shape().bytes()));
  pool.Read(a, host.data());
  EXPECT_EQ(std::memcmp(host.data(), Slot(pool, a).data(), host.size()), 0);
  EXPECT_TRUE(IsZero(Slot(pool, b)));
  pool.Write(b, host.data());
  EXPECT_EQ(std::memcmp(host.data(), Slot(pool, b).data(), host.size()), 0);
}

TEST_F(StatePoolTest, AModelWithoutLinearLayersNeedsNoState) {
  StatePool pool(*backend_, {}, 2);
  EXPECT_EQ(pool.shape().bytes(), 0);
  const int slot = pool.Acquire();
  EXPECT_GE(slot, 0);
  pool.Release(slot);
  EXPECT_EQ(pool.free_slots(), 2);
}

TEST_F(StatePoolTest, ImpossibleSizesAreErrors) {
  EXPECT_THROW(StatePool(*backend_, Plain(64, 1 << 14, INT_MAX, 64), INT_MAX), DeviceError);
}

}  // namespace
}  // namespace t2r
