#include "flags/help.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstdio>
#include <limits>
#include <memory>
#include <set>
#include <utility>

namespace t2r::flags {
namespace {

// The name of the check that says the range.
constexpr char kRange[] = "range";

std::string Text(double number) {
  if (number == std::floor(number) && std::abs(number) < 1e15) {
    return Grouped(static_cast<int64_t>(number));
  }
  char text[32];
  std::snprintf(text, sizeof(text), "%g", number);
  return text;
}

bool Read(const std::string& text, double* number) {
  return CLI::detail::lexical_cast(text, *number);
}
template <typename T>
bool Read(const std::string& text, T* number) {
  return ParseWhole(text, number);
}

// `problem` is what the check says of a number that is out of range, `range` what --help says.
template <typename T>
CLI::Validator NumberCheck(T low, T high, const std::string& range, const std::string& problem) {
  return SaidAs(CLI::Validator(
                    [low, high, problem](std::string& text) {
                      T number = 0;
                      const bool good = Read(text, &number) && number >= low && number <= high;
                      return good ? std::string() : "'" + text + "' is not a number " + problem;
                    },
                    ""),
                range);
}

template <typename T>
CLI::Validator NumberCheck(T low, T high, bool open, const std::string& low_text,
                           const std::string& high_text) {
  const std::string range = open ? "at least " + low_text : low_text + " to " + high_text;
  return NumberCheck(low, high, range, (open ? "of " : "from ") + range);
}

// The text with commas between its groups of three digits.
std::string Group(std::string text) {
  const size_t first = text[0] == '-' ? 1 : 0;
  for (size_t at = text.size(); at > first + 3;) {
    at -= 3;
    text.insert(at, ",");
  }
  return text;
}

// "" where the option has no range.
std::string RangeOf(const CLI::Option* option) {
  try {
    // It changes nothing; CLI11 only has no const form of it.
    return const_cast<CLI::Option*>(option)->get_validator(kRange)->get_description();
  } catch (const CLI::OptionNotFound&) {
    return "";
  }
}

// The type without what CLI11 appends to it for the range.
std::string TypeOf(const CLI::Option* option) {
  std::string type = option->get_type_name();
  const std::string range = RangeOf(option);
  if (!range.empty()) type.resize(type.size() - range.size() - 1);
  if (type == "INT" || type == "UINT") return "N";
  if (type == "FLOAT") return "X";
  if (type == "BOOLEAN") return "true|false";
  return type;
}

std::string DefaultOf(const CLI::Option* option) {
  std::string value = option->get_default_str();
  if (value.size() >= 2 && value.front() == '[' && value.back() == ']') {  // a list
    return value.substr(1, value.size() - 2);
  }
  if (option->get_type_name() == "BOOLEAN") return value == "0" ? "false" : "true";
  const bool digits =
      !value.empty() && value.size() < 19 &&
      std::all_of(value.begin(), value.end(), [](unsigned char c) { return std::isdigit(c) != 0; });
  return digits ? Grouped(std::stoll(value)) : value;
}

std::string NamesOf(const std::set<CLI::Option*>& options) {
  std::string names;
  for (const CLI::Option* option : options) {
    names += (names.empty() ? "" : ", ") + option->get_name();
  }
  return names;
}

}  // namespace

std::string Grouped(int64_t number) { return Group(std::to_string(number)); }

CLI::Validator IntegerRange(int64_t low, int64_t high) {
  const bool open = high >= std::numeric_limits<int64_t>::max() / 2;
  return NumberCheck(low, high, open, Grouped(low), Grouped(high));
}

CLI::Validator UnsignedRange(uint64_t low, uint64_t high) {
  const std::string low_text = Group(std::to_string(low));
  const std::string whole = low_text + " to " + Group(std::to_string(high));
  const bool open =
      high == std::numeric_limits<uint32_t>::max() || high == std::numeric_limits<uint64_t>::max();
  return NumberCheck(low, high, open ? "at least " + low_text : whole, "from " + whole);
}

CLI::Validator RealRange(double low, double high) {
  const bool open = high >= std::numeric_limits<double>::max();
  return NumberCheck(low, high, open, Text(low), Text(high));
}

CLI::Validator SaidAs(CLI::Validator check, std::string range) {
  return check.description(std::move(range)).name(kRange);
}

CLI::Option* OneOf(CLI::Option* option, const std::vector<std::string>& words) {
  std::string type;
  for (const std::string& word : words) type += (type.empty() ? "" : "|") + word;
  const std::string problem = "' is none of " + type;
  return option->type_name(type)->check(CLI::Validator(
      [words, problem](std::string& text) {
        const bool known = std::find(words.begin(), words.end(), text) != words.end();
        return known ? std::string() : "'" + text + problem;
      },
      ""));
}

std::string HelpFormatter::make_option_opts(const CLI::Option* option) const {
  const std::string type = option->get_type_size() == 0 ? "" : TypeOf(option);
  return type.empty() ? "" : " " + type;
}

std::string HelpFormatter::make_option_desc(const CLI::Option* option) const {
  std::string facts;
  const auto add = [&facts](const std::string& fact) {
    facts += (facts.empty() ? "" : "; ") + fact;
  };
  if (option->get_required()) add("required");
  if (option->get_type_size() != 0) {
    if (const std::string range = RangeOf(option); !range.empty()) add(range);
    if (const std::string value = DefaultOf(option); !value.empty()) add("default " + value);
  }
  if (!option->get_needs().empty()) add("needs " + NamesOf(option->get_needs()));
  if (!option->get_excludes().empty()) add("not with " + NamesOf(option->get_excludes()));
  const std::string& description = option->get_description();
  if (facts.empty()) return description;
  return description + (description.empty() ? "[" : " [") + facts + "]";
}

std::optional<int> Parse(CLI::App* app, int argc, const char* const* argv) {
  try {
    app->parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app->exit(error) == 0 ? 0 : 2;
  }
  return std::nullopt;
}

void Describe(CLI::App* app) {
  app->formatter(std::make_shared<HelpFormatter>());
  app->option_defaults()->always_capture_default();
}

}  // namespace t2r::flags
