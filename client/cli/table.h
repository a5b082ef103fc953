// A plain-text table with aligned columns.
#ifndef T2R_CLIENT_BENCH_TABLE_H_
#define T2R_CLIENT_BENCH_TABLE_H_

#include <string>
#include <utility>
#include <vector>

namespace t2r::client {

// Rows may differ in length.
class Table {
 public:
  explicit Table(std::vector<std::string> header) : rows_{std::move(header)} {}
  void AddRow(std::vector<std::string> cells) { rows_.push_back(std::move(cells)); }
  // Right-aligned, two spaces between columns, a rule under the header, a newline after each line.
  std::string ToString() const;

 private:
  std::vector<std::vector<std::string>> rows_;  // the first is the header
};

// Fixed-point with so many decimals; "-" for NaN.
std::string FormatNumber(double value, int decimals);
// Milliseconds with at least three significant digits: 0.0421, 1.23, 45.6, 789.
std::string FormatMilliseconds(double seconds);
// "1,234,567 bytes (1.18 MiB)", without the parentheses below 1 KiB.
std::string FormatBytes(unsigned long long bytes);

}  // namespace t2r::client

#endif  // T2R_CLIENT_BENCH_TABLE_H_
