#include "client/cli/table.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace t2r::client {

std::string Table::ToString() const {
  std::vector<size_t> widths;
  for (const auto& row : rows_) {
    widths.resize(std::max(widths.size(), row.size()));
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string out;
  for (size_t r = 0; r < rows_.size(); ++r) {
    for (size_t i = 0; i < rows_[r].size(); ++i) {
      if (i > 0) out += "  ";
      out += std::string(widths[i] - rows_[r][i].size(), ' ') + rows_[r][i];
    }
    out += '\n';
    if (r > 0) continue;
    for (size_t i = 0; i < widths.size(); ++i) {
      if (i > 0) out += "  ";
      out += std::string(widths[i], '-');
    }
    out += '\n';
  }
  return out;
}

std::string FormatNumber(double value, int decimals) {
  if (std::isnan(value)) return "-";
  char buffer[64];
  std::snprintf(buffer, sizeof buffer, "%.*f", decimals, value);
  return buffer;
}

std::string FormatMilliseconds(double seconds) {
  const double ms = seconds * 1e3;
  const int decimals = ms < 0.1 ? 4 : ms < 1 ? 3 : ms < 10 ? 2 : ms < 100 ? 1 : 0;
  return FormatNumber(ms, decimals);
}

std::string FormatBytes(unsigned long long bytes) {
  const std::string plain = std::to_string(bytes);
  std::string digits;
  for (size_t i = 0; i < plain.size(); ++i) {
    if (i > 0 && (plain.size() - i) % 3 == 0) digits += ',';
    digits += plain[i];
  }
  digits += " bytes";
  if (bytes < 1024) return digits;
  static constexpr const char* kUnits[] = {"KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes) / 1024;
  size_t unit = 0;
  while (value >= 1024 && unit + 1 < std::size(kUnits)) {
    value /= 1024;
    ++unit;
  }
  return digits + " (" +
         FormatNumber(value, value < 10    ? 2
                             : value < 100 ? 1
                                           : 0) +
         " " + kUnits[unit] + ")";
}

}  // namespace t2r::client
