// The figures of an evaluation.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace t2r::convert {

struct Evaluation {
  double nats = 0;          // sum of −log p over predicted tokens
  int64_t predictions = 0;  // predicted tokens
  int64_t documents = 0;
  double nats_per_token() const { return nats / static_cast<double>(predictions); }
  double perplexity() const;
};

// "1.40256 nats/token, perplexity 4.0656 over 55777 predicted tokens of 150 documents".
std::string Describe(const Evaluation& evaluation);

// Losses by the position, in its window, of the token that a prediction is made at: 0 … 63,
// 64 … 127, 128 … 255 and so on, doubling.
class PositionLosses {
 public:
  void Add(int64_t position, double nats);
  // A table for people, a line a range that has predictions, under a heading.
  std::string Table() const;

 private:
  struct Range {
    double nats = 0;
    int64_t predictions = 0;
  };
  std::vector<Range> ranges_;
};

}  // namespace t2r::convert
