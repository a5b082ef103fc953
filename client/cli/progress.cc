#include "client/cli/progress.h"

#include <algorithm>
#include <cstdio>

namespace t2r::client {

constexpr size_t kBarWidth = 24;

void Progress::Update(const std::string& label, double fraction, const std::string& note) {
  if (!is_terminal_) return;
  fraction = std::clamp(fraction, 0.0, 1.0);
  const size_t full = static_cast<size_t>(fraction * kBarWidth);
  char percent[8];
  std::snprintf(percent, sizeof percent, "%3d%%", static_cast<int>(fraction * 100));
  // \r and "erase to the end of the line".
  err_ << "\r\033[K" << label << " [" << std::string(full, '=')
       << std::string(kBarWidth - full, ' ') << "] " << percent << "  " << note << std::flush;
  drawn_ = true;
}

void Progress::Clear() {
  if (drawn_) err_ << "\r\033[K" << std::flush;
  drawn_ = false;
}

}  // namespace t2r::client
