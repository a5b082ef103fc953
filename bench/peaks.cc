#include "bench/peaks.h"

#include <algorithm>
#include <barrier>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <thread>
#include <vector>

#include "bench/narrow_dots.h"
#include "engine/ops/backend.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "bench/peaks.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace t2r::bench::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Independent sums, enough to hide the latency of an addition or a multiply-add.
constexpr int kChains = 12;

float SumAll(const float* data, int64_t count) {
  const hn::ScalableTag<float> tag;
  const auto lanes = static_cast<int64_t>(hn::Lanes(tag));
  auto a = hn::Zero(tag), b = a, c = a, d = a;
  for (int64_t i = 0; i + 4 * lanes <= count; i += 4 * lanes) {
    a = hn::Add(a, hn::Load(tag, data + i));
    b = hn::Add(b, hn::Load(tag, data + i + lanes));
    c = hn::Add(c, hn::Load(tag, data + i + 2 * lanes));
    d = hn::Add(d, hn::Load(tag, data + i + 3 * lanes));
  }
  return hn::GetLane(hn::SumOfLanes(tag, hn::Add(hn::Add(a, b), hn::Add(c, d))));
}

// Returns the operations done; *sink keeps the result alive. The chains start apart, or the
// compiler would compute one for all.
double MultiplyAdds(int64_t rounds, float* sink) {
  const hn::ScalableTag<float> tag;
  const auto x = hn::Set(tag, 0.999F), y = hn::Set(tag, 1e-3F);
  hn::Vec<decltype(tag)> sums[kChains];
  for (int i = 0; i < kChains; ++i) sums[i] = hn::Set(tag, *sink + static_cast<float>(i));
  for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 12
    for (auto& sum : sums) sum = hn::MulAdd(sum, x, y);
  }
  for (int i = 1; i < kChains; ++i) sums[0] = hn::Add(sums[0], sums[i]);
  *sink = hn::GetLane(hn::SumOfLanes(tag, sums[0])) * 1e-30F;
  return 2.0 * kChains * static_cast<double>(rounds) * static_cast<double>(hn::Lanes(tag));
}

const char* TargetName() { return hwy::TargetName(HWY_TARGET); }

}  // namespace t2r::bench::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace t2r::bench {
namespace {

HWY_EXPORT(SumAll);
HWY_EXPORT(MultiplyAdds);
HWY_EXPORT(TargetName);

using Clock = std::chrono::steady_clock;

// Runs part(thread) on all threads at once, several times; the shortest time from the first
// thread's start to the last one's end, by their own clocks.
double BestSeconds(int threads, const std::function<void(int)>& part) {
  constexpr int kRuns = 7;
  std::vector<Clock::time_point> starts(threads), ends(threads);
  double best = std::numeric_limits<double>::infinity();
  std::barrier ready(threads);
  std::barrier done(threads, [&]() noexcept {
    const auto first = *std::min_element(starts.begin(), starts.end());
    const auto last = *std::max_element(ends.begin(), ends.end());
    best = std::min(best, std::chrono::duration<double>(last - first).count());
  });
  std::vector<std::thread> workers;
  for (int t = 0; t < threads; ++t) {
    workers.emplace_back([&, t] {
      for (int run = 0; run < kRuns; ++run) {
        ready.arrive_and_wait();
        starts[t] = Clock::now();
        part(t);
        ends[t] = Clock::now();
        done.arrive_and_wait();
      }
    });
  }
  for (std::thread& worker : workers) worker.join();
  return best;
}

struct alignas(64) Sink {
  float value = 0;
};

double ReadBandwidth(Backend& backend, int threads) {
  constexpr int64_t kFloats = int64_t{1} << 27;  // 512 MiB in all, many times any cache
  const Buffer buffer = backend.Allocate(kFloats * sizeof(float));
  const int64_t part = kFloats / threads / 1024 * 1024;
  // Touched by its reader first, and with something in it: zero pages share one frame.
  std::vector<Sink> sinks(threads);
  BestSeconds(threads, [&](int t) { std::memset(buffer.f32() + t * part, 1, part * 4); });
  const double seconds = BestSeconds(threads, [&](int t) {
    sinks[t].value += HWY_DYNAMIC_DISPATCH(SumAll)(buffer.f32() + t * part, part);
  });
  return static_cast<double>(part) * threads * 4 / seconds / 1e9;
}

// kernel(rounds, sink) returns how many operations it did.
double FlopRate(int threads, double (*kernel)(int64_t, float*)) {
  constexpr int64_t kRounds = 10'000'000;
  std::vector<Sink> sinks(threads);
  std::vector<double> operations(threads);
  const double seconds =
      BestSeconds(threads, [&](int t) { operations[t] = kernel(kRounds, &sinks[t].value); });
  double all = 0;
  for (const double count : operations) all += count;
  return all / seconds / 1e9;
}

}  // namespace

Peaks MeasurePeaks(int threads) {
  Peaks peaks;
  peaks.threads = threads > 0 ? threads : std::max(1U, std::thread::hardware_concurrency());
  const auto backend = MakeBackend({"cpu", 1});
  peaks.read_gb_per_s = ReadBandwidth(*backend, peaks.threads);
  peaks.f32_gflop_per_s = FlopRate(peaks.threads, HWY_DYNAMIC_DISPATCH(MultiplyAdds));
  if (HasBf16Dot()) peaks.bf16_gflop_per_s = FlopRate(peaks.threads, Bf16Dots);
  if (HasInt8Dot()) peaks.int8_gop_per_s = FlopRate(peaks.threads, Int8Dots);
  peaks.isa = HWY_DYNAMIC_DISPATCH(TargetName)();
  return peaks;
}

}  // namespace t2r::bench
#endif
