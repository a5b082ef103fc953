// What device code calls, on the emulator's threads. Names and meaning are CUDA's.
//
// Functions at which threads meet take the place they are called from, for reports.
#pragma once

#include <math.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "tests/cuda_emulator/block.h"
#include "tests/cuda_emulator/vector_types.h"

using std::max;
using std::min;

// Of the thread that runs; the emulator sets them at every turn.
extern uint3 threadIdx;
extern uint3 blockIdx;
extern dim3 blockDim;
extern dim3 gridDim;
inline constexpr int warpSize = 32;

// As __shared__ arrays, filled with NaN bytes (0xff) when the block starts.
#define T2R_SHARED(type, name, count)                                                         \
  static const char name##_shared_tag = 0;                                                    \
  type(*const name##_shared_pointer)[count] =                                                 \
      static_cast<type(*)[count]>(emulator::Shared(&name##_shared_tag, sizeof(type[count]))); \
  auto& name = *name##_shared_pointer
#define T2R_DYNAMIC_SHARED(type, name) \
  type* const name = static_cast<type*>(emulator::DynamicShared())

using EmulatorPlace = emulator::Place;

inline void __syncthreads(EmulatorPlace place = EmulatorPlace::Here()) {
  emulator::MeetBlock(false, place);
}
inline int __syncthreads_count(int predicate, EmulatorPlace place = EmulatorPlace::Here()) {
  return emulator::MeetBlock(predicate != 0, place).set;
}
inline int __syncthreads_or(int predicate, EmulatorPlace place = EmulatorPlace::Here()) {
  return emulator::MeetBlock(predicate != 0, place).set > 0 ? 1 : 0;
}
inline int __syncthreads_and(int predicate, EmulatorPlace place = EmulatorPlace::Here()) {
  const emulator::BlockVote vote = emulator::MeetBlock(predicate != 0, place);
  return vote.set == vote.threads ? 1 : 0;
}
inline void __syncwarp(unsigned mask = 0xffffffffU, EmulatorPlace place = EmulatorPlace::Here()) {
  emulator::MeetWarp(mask, 0, place);
}

namespace emulator {

template <typename T>
uint64_t ToWord(T value) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>);
  uint64_t word = 0;
  std::memcpy(&word, &value, sizeof(T));
  return word;
}
template <typename T>
T FromWord(uint64_t word) {
  T value;
  std::memcpy(&value, &word, sizeof(T));
  return value;
}
// The value of lane `source` of those that meet; a lane outside `width`'s section keeps its own.
template <typename T>
T Shuffle(unsigned mask, T value, int source, bool own, EmulatorPlace place) {
  const WarpWords words = MeetWarp(mask, ToWord(value), place);
  return own ? value : FromWord<T>(words.At(source, place));
}

}  // namespace emulator

template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32,
              EmulatorPlace place = EmulatorPlace::Here()) {
  const int lane = emulator::Lane();
  return emulator::Shuffle(mask, value, (lane & ~(width - 1)) + (source & (width - 1)), false,
                           place);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32,
                  EmulatorPlace place = EmulatorPlace::Here()) {
  const int lane = emulator::Lane();
  const int source = lane ^ lane_mask;
  return emulator::Shuffle(mask, value, source, source >= (lane & ~(width - 1)) + width, place);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32,
                 EmulatorPlace place = EmulatorPlace::Here()) {
  const int lane = emulator::Lane();
  const int source = lane - static_cast<int>(delta);
  return emulator::Shuffle(mask, value, source, source < (lane & ~(width - 1)), place);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,
                   EmulatorPlace place = EmulatorPlace::Here()) {
  const int lane = emulator::Lane();
  const int source = lane + static_cast<int>(delta);
  return emulator::Shuffle(mask, value, source, source >= (lane & ~(width - 1)) + width, place);
}
inline unsigned __ballot_sync(unsigned mask, int predicate,
                              EmulatorPlace place = EmulatorPlace::Here()) {
  return emulator::MeetWarp(mask, predicate != 0 ? 1 : 0, place).Ballot();
}
inline int __any_sync(unsigned mask, int predicate, EmulatorPlace place = EmulatorPlace::Here()) {
  return __ballot_sync(mask, predicate, place) != 0 ? 1 : 0;
}
inline int __all_sync(unsigned mask, int predicate, EmulatorPlace place = EmulatorPlace::Here()) {
  return __ballot_sync(mask, predicate == 0 ? 1 : 0, place) == 0 ? 1 : 0;
}

namespace emulator {
template <typename T, typename Fn>
T Reduce(unsigned mask, T value, EmulatorPlace place, Fn combine) {
  const WarpWords words = MeetWarp(mask, ToWord(value), place);
  bool first = true;
  T result = value;
  for (int lane = 0; lane < 32; ++lane) {
    if ((words.lanes >> lane & 1U) == 0) continue;
    const T other = FromWord<T>(words.values[lane]);
    result = first ? other : combine(result, other);
    first = false;
  }
  return result;
}
}  // namespace emulator

template <typename T>
T __reduce_add_sync(unsigned mask, T value, EmulatorPlace place = EmulatorPlace::Here()) {
  return emulator::Reduce(mask, value, place, [](T a, T b) { return static_cast<T>(a + b); });
}
template <typename T>
T __reduce_max_sync(unsigned mask, T value, EmulatorPlace place = EmulatorPlace::Here()) {
  return emulator::Reduce(mask, value, place, [](T a, T b) { return a < b ? b : a; });
}
template <typename T>
T __reduce_min_sync(unsigned mask, T value, EmulatorPlace place = EmulatorPlace::Here()) {
  return emulator::Reduce(mask, value, place, [](T a, T b) { return b < a ? b : a; });
}
template <typename T>
T __reduce_or_sync(unsigned mask, T value, EmulatorPlace place = EmulatorPlace::Here()) {
  return emulator::Reduce(mask, value, place, [](T a, T b) { return static_cast<T>(a | b); });
}

// Atomics: threads give way only where they meet, so plain code is atomic.
template <typename T>
T atomicAdd(T* address, std::type_identity_t<T> value) {
  const T old = *address;
  *address = static_cast<T>(old + value);
  return old;
}
template <typename T>
T atomicMax(T* address, std::type_identity_t<T> value) {
  const T old = *address;
  *address = old < value ? value : old;
  return old;
}
template <typename T>
T atomicMin(T* address, std::type_identity_t<T> value) {
  const T old = *address;
  *address = value < old ? value : old;
  return old;
}
template <typename T>
T atomicOr(T* address, std::type_identity_t<T> value) {
  const T old = *address;
  *address = old | value;
  return old;
}
template <typename T>
T atomicExch(T* address, std::type_identity_t<T> value) {
  return std::exchange(*address, value);
}
template <typename T>
T atomicCAS(T* address, std::type_identity_t<T> expected, std::type_identity_t<T> value) {
  const T old = *address;
  if (old == expected) *address = value;
  return old;
}
inline void __threadfence() {}
inline void __threadfence_block() {}

template <typename T>
T __ldg(const T* address) {
  return *address;
}
template <typename T>
T __ldcs(const T* address) {
  return *address;
}
template <typename T>
void __stcs(T* address, std::type_identity_t<T> value) {
  *address = value;
}

inline float __uint_as_float(unsigned bits) { return std::bit_cast<float>(bits); }
inline unsigned __float_as_uint(float value) { return std::bit_cast<unsigned>(value); }
inline float __int_as_float(int bits) { return std::bit_cast<float>(bits); }
inline int __float_as_int(float value) { return std::bit_cast<int>(value); }
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>(uint64_t{a} * b >> 32);
}
inline int __popc(unsigned bits) { return std::popcount(bits); }
inline int __ffs(unsigned bits) { return bits == 0 ? 0 : std::countr_zero(bits) + 1; }
inline int __clz(unsigned bits) { return std::countl_zero(bits); }
inline float rsqrtf(float value) { return 1.0F / sqrtf(value); }
