#include "convert/progress.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>

namespace t2r::convert {

std::string FormatDuration(double seconds) {
  const auto total = static_cast<int64_t>(std::llround(std::max(0.0, seconds)));
  char text[32];
  if (total >= 3600) {
    std::snprintf(text, sizeof(text), "%lld:%02lld:%02lld", static_cast<long long>(total / 3600),
                  static_cast<long long>(total / 60 % 60), static_cast<long long>(total % 60));
  } else {
    std::snprintf(text, sizeof(text), "%02lld:%02lld", static_cast<long long>(total / 60),
                  static_cast<long long>(total % 60));
  }
  return text;
}

Progress::Progress(std::FILE* out, int64_t log_every)
    : out_(out), terminal_(isatty(fileno(out)) != 0), log_every_(std::max<int64_t>(1, log_every)) {}

void Progress::Update(const ProgressReport& report) {
  if (!terminal_ && report.step % log_every_ != 0 && report.fraction < 1.0) return;
  char numbers[160];
  std::snprintf(numbers, sizeof(numbers), "%3.0f%%  step %lld  loss %.6f  %.0f tokens/s  %s left",
                100.0 * report.fraction, static_cast<long long>(report.step), report.loss,
                report.tokens_per_second, FormatDuration(report.seconds_left).c_str());
  Draw(report.fraction, numbers);
}

void Progress::Show(double fraction, const std::string& text, double seconds_left) {
  const int tenth = static_cast<int>(fraction * 10.0);
  if (!terminal_ && tenth == shown_tenth_) return;
  shown_tenth_ = tenth;
  char share[16];
  std::snprintf(share, sizeof(share), "%3.0f%%  ", 100.0 * fraction);
  Draw(fraction, share + text + "  " + FormatDuration(seconds_left) + " left");
}

void Progress::Draw(double fraction, const std::string& text) {
  if (terminal_) {
    constexpr int kWidth = 30;
    const int full = static_cast<int>(std::clamp(fraction, 0.0, 1.0) * kWidth);
    const std::string bar = std::string(static_cast<size_t>(full), '#') +
                            std::string(static_cast<size_t>(kWidth - full), '.');
    std::fprintf(out_, "\r[%s] %s\x1b[K%s", bar.c_str(), text.c_str(), fraction >= 1.0 ? "\n" : "");
  } else {
    std::fprintf(out_, "%s\n", text.c_str());
  }
  std::fflush(out_);
}

void Progress::Line(const std::string& text) {
  std::fprintf(out_, "%s%s\n", terminal_ ? "\r\x1b[K" : "", text.c_str());
  std::fflush(out_);
}

}  // namespace t2r::convert
