// What every enum with names can do. An enum's own header says NameOf(E), the one place where its
// names stand: a switch, so that the compiler finds a value without a name. Values count from 0
// without gaps, and beyond the last NameOf gives "".
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace t2r {

// Calls f with each value of E, in order.
template <typename E, typename F>
constexpr void ForEach(F f) {
  for (int i = 0; NameOf(static_cast<E>(i))[0] != '\0'; ++i) f(static_cast<E>(i));
}

// The value of that name; nullopt where there is none.
template <typename E>
constexpr std::optional<E> Parse(std::string_view name) {
  std::optional<E> found;
  ForEach<E>([&](E value) {
    if (NameOf(value) == name) found = value;
  });
  return found;
}

// All names for a message: "t2r, elu, rfa and hedgehog".
template <typename E>
std::string NamesOf() {
  std::string names;
  std::string last;
  ForEach<E>([&](E value) {
    if (!last.empty()) names += (names.empty() ? "" : ", ") + last;
    last = NameOf(value);
  });
  return names.empty() ? last : names + " and " + last;
}

}  // namespace t2r
