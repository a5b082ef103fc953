// A set of weighted numbers and its percentiles.
#ifndef T2R_CLIENT_BENCH_SAMPLES_H_
#define T2R_CLIENT_BENCH_SAMPLES_H_

#include <cstdint>
#include <utility>
#include <vector>

namespace t2r::client {

// Not for several threads at a time; merge one a thread.
class WeightedSamples {
 public:
  // As if value had been added weight times.
  void Add(double value, uint64_t weight = 1);
  void Merge(const WeightedSamples& other);

  uint64_t count() const { return count_; }  // sum of weights
  // The smallest sample that at least percent % of all samples do not exceed (nearest rank);
  // percent in (0, 100]. NaN where there is none.
  double Percentile(double percent) const;
  double Mean() const;  // NaN where there is none

 private:
  mutable std::vector<std::pair<double, uint64_t>> samples_;
  mutable bool sorted_ = true;
  uint64_t count_ = 0;
};

}  // namespace t2r::client

#endif  // T2R_CLIENT_BENCH_SAMPLES_H_
