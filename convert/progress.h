// Shows how training, or other work that takes a while, goes: a bar on a terminal, plain lines
// elsewhere.
#pragma once

#include <cstdint>
#include <cstdio>
#include <string>

namespace t2r::convert {

struct ProgressReport {
  double fraction = 0;  // of the budget, 0 to 1
  int64_t step = 0;
  double loss = 0;               // nats/token
  double tokens_per_second = 0;  // predicted tokens
  double seconds_left = 0;
};

// Not thread-safe.
class Progress {
 public:
  // `log_every`: steps between plain lines; a bar is drawn at every step.
  Progress(std::FILE* out, int64_t log_every);

  void Update(const ProgressReport& report);
  // Work of another kind: `text` says how it stands. Without a terminal, a line at each tenth.
  void Show(double fraction, const std::string& text, double seconds_left);
  // A line of its own, above the bar.
  void Line(const std::string& text);

 private:
  void Draw(double fraction, const std::string& text);

  std::FILE* out_;
  bool terminal_;
  int64_t log_every_;
  int shown_tenth_ = -1;
};

// "00:42", "13:05", "2:03:04".
std::string FormatDuration(double seconds);

}  // namespace t2r::convert
