#include "client/load/samples.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace t2r::client {

void WeightedSamples::Add(double value, uint64_t weight) {
  if (weight == 0) return;
  samples_.emplace_back(value, weight);
  count_ += weight;
  sorted_ = false;
}

void WeightedSamples::Merge(const WeightedSamples& other) {
  samples_.insert(samples_.end(), other.samples_.begin(), other.samples_.end());
  count_ += other.count_;
  sorted_ = samples_.empty();
}

double WeightedSamples::Percentile(double percent) const {
  if (count_ == 0) return std::numeric_limits<double>::quiet_NaN();
  if (!sorted_) {
    std::sort(samples_.begin(), samples_.end());
    sorted_ = true;
  }
  const double rank = std::max(1.0, std::ceil(percent * static_cast<double>(count_) / 100));
  uint64_t seen = 0;
  for (const auto& [value, weight] : samples_) {
    seen += weight;
    if (static_cast<double>(seen) >= rank) return value;
  }
  return samples_.back().first;
}

double WeightedSamples::Mean() const {
  double sum = 0;
  for (const auto& [value, weight] : samples_) sum += value * static_cast<double>(weight);
  return count_ == 0 ? std::numeric_limits<double>::quiet_NaN() : sum / static_cast<double>(count_);
}

}  // namespace t2r::client
