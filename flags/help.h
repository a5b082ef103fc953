// How the programs' options look in --help:
//
//   --threads N    Engine threads; 0: one a core [0 to 4,096; default 0]
//
// and the checks that know how to say their ranges.
#pragma once

#include <CLI/CLI.hpp>
#include <charconv>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <vector>

namespace t2r::flags {

// The number with commas between its groups of three digits: 131,072.
std::string Grouped(int64_t number);

// `text` as a whole number in decimal digits, with a minus sign first if T has one. False: it is
// none, or T does not hold it.
template <typename T>
bool ParseWhole(std::string_view text, T* number) {
  const char* const end = text.data() + text.size();
  const auto [at, error] = std::from_chars(text.data(), end, *number);
  return error == std::errc() && at == end && (text == "0" || text[text[0] == '-' ? 1 : 0] != '0');
}

// Checks for a number from `low` to `high`, both included. Whole numbers from 2^62 − 1 on, the
// largest of an unsigned type, and the largest real number, are no bound to speak of: --help then
// says "at least low". Whole numbers are decimal digits, after a minus sign where there are numbers
// below 0: what CLI11 itself reads is wider, and takes -1 and 2^64 for an unsigned 2^64 - 1, and
// 010 for 8.
CLI::Validator IntegerRange(int64_t low, int64_t high);
CLI::Validator UnsignedRange(uint64_t low, uint64_t high);
CLI::Validator RealRange(double low, double high);

template <typename T>
CLI::Validator Range(T low, T high) {
  if constexpr (std::is_floating_point_v<T>) {
    return RealRange(low, high);
  } else if constexpr (std::is_unsigned_v<T>) {
    return UnsignedRange(low, high);
  } else {
    return IntegerRange(int64_t{low}, int64_t{high});
  }
}

// Checks for a number of at least `low`; a whole one is at most 2^62 − 1, so that the sum of two
// fits, and what its type holds; of an unsigned type, what that holds. Every option of such a type
// has this check or Range.
template <typename T>
CLI::Validator AtLeast(T low) {
  if constexpr (std::is_floating_point_v<T>) {
    return RealRange(low, std::numeric_limits<double>::max());
  } else if constexpr (std::is_unsigned_v<T>) {
    return UnsignedRange(low, std::numeric_limits<T>::max());
  } else {
    return IntegerRange(int64_t{low}, std::numeric_limits<int64_t>::max() / 2);
  }
}

// What --help says of the range that `check` holds a value to: "0 to 4,096" or "at least 1". For
// checks of a caller's own.
CLI::Validator SaidAs(CLI::Validator check, std::string range);

// The option takes one of these words, and --help shows them as a|b|c.
CLI::Option* OneOf(CLI::Option* option, const std::vector<std::string>& words);

// Prints options as above. CLI11's own prints a type and its check's description in its place.
class HelpFormatter : public CLI::Formatter {
 public:
  std::string make_option_opts(const CLI::Option* option) const override;
  std::string make_option_desc(const CLI::Option* option) const override;
};

// Reads the command line. The exit code where the process should end now, with its words printed: 0
// after --help or --version, 2 after a wrong command line.
std::optional<int> Parse(CLI::App* app, int argc, const char* const* argv);

// Makes `app`, and the subcommands that it gets from now on, print their help so, with the default
// of every option that is added from now on.
void Describe(CLI::App* app);

}  // namespace t2r::flags
