#include "client/load/stream_timing.h"

namespace t2r::client {
namespace {

double Seconds(Clock::duration d) { return std::chrono::duration<double>(d).count(); }

}  // namespace

void StreamTiming::OnTokens(Clock::time_point now, uint64_t tokens, WeightedSamples* gaps) {
  if (tokens == 0) return;
  if (!first_) {
    first_ = now;
    first_tokens_ = tokens;
  } else if (gaps != nullptr) {
    gaps->Add(Seconds(now - *last_) / static_cast<double>(tokens), tokens);
  }
  last_ = now;
  tokens_ += tokens;
}

std::optional<double> StreamTiming::TimeToFirstToken() const {
  if (!first_) return std::nullopt;
  return Seconds(*first_ - start_);
}

std::optional<double> StreamTiming::DecodeRate() const {
  if (!first_ || tokens_ == first_tokens_ || *last_ == *first_) return std::nullopt;
  return static_cast<double>(tokens_ - first_tokens_) / Seconds(*last_ - *first_);
}

}  // namespace t2r::client
