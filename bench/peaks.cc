#include "bench/peaks.h"

#include <algorithm>
#include <barrier>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <functional>
#include <thread>
#include <vector>

#include "bench/bf16_dots.h"
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

// Returns the operations done; *sink keeps the result alive.
double MultiplyAdds(int64_t rounds, float* sink) {
  const hn::ScalableTag<float> tag;
  const auto x = hn::Set(tag, 0.999F + *sink), y = hn::Set(tag, 1e-3F);
  auto s0 = y, s1 = y, s2 = y, s3 = y, s4 = y, s5 = y, s6 = y, s7 = y, s8 = y, s9 = y, s10 = y,
       s11 = y;
  for (int64_t i = 0; i < rounds; ++i) {
    s0 = hn::MulAdd(s0, x, y);
    s1 = hn::MulAdd(s1, x, y);
    s2 = hn::MulAdd(s2, x, y);
    s3 = hn::MulAdd(s3, x, y);
    s4 = hn::MulAdd(s4, x, y);
    s5 = hn::MulAdd(s5, x, y);
    s6 = hn::MulAdd(s6, x, y);
    s7 = hn::MulAdd(s7, x, y);
    s8 = hn::MulAdd(s8, x, y);
    s9 = hn::MulAdd(s9, x, y);
    s10 = hn::MulAdd(s10, x, y);
    s11 = hn::MulAdd(s11, x, y);
  }
  const auto low = hn::Add(hn::Add(hn::Add(s0, s1), hn::Add(s2, s3)), hn::Add(s4, s5));
  const auto high = hn::Add(hn::Add(hn::Add(s6, s7), hn::Add(s8, s9)), hn::Add(s10, s11));
  *sink = hn::GetLane(hn::SumOfLanes(tag, hn::Add(low, high))) * 1e-30F;
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

double Seconds(std::chrono::steady_clock::time_point since) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - since).count();
}

// Runs part(thread) on all threads at once, several times; the shortest time.
double BestSeconds(int threads, const std::function<void(int)>& part) {
  constexpr int kRuns = 7;
  double best = 1e30;
  std::barrier barrier(threads + 1);
  std::vector<std::thread> workers;
  for (int t = 0; t < threads; ++t) {
    workers.emplace_back([&, t] {
      for (int run = 0; run < kRuns; ++run) {
        barrier.arrive_and_wait();
        part(t);
        barrier.arrive_and_wait();
      }
    });
  }
  for (int run = 0; run < kRuns; ++run) {
    barrier.arrive_and_wait();
    const auto start = std::chrono::steady_clock::now();
    barrier.arrive_and_wait();
    best = std::min(best, Seconds(start));
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
  constexpr int64_t kRounds = 2'000'000;
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
  peaks.isa = HWY_DYNAMIC_DISPATCH(TargetName)();
  return peaks;
}

}  // namespace t2r::bench
#endif
