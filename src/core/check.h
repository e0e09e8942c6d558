#pragma once

#include <sstream>
#include <string>

namespace chitu::core {

template <class... Parts>
std::string concat(const Parts&... parts) {
  std::ostringstream s;
  (s << ... << parts);
  return s.str();
}

/// Throws E with the parts as its text.
template <class E, class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  throw E(concat(parts...));
}

}  // namespace chitu::core

/// CHITU_CHECK(condition, "q: want .., got ", value): InvalidArgument when the condition does not hold.
#define CHITU_CHECK(condition, ...)                                               \
  do {                                                                            \
    if (!(condition)) ::chitu::core::fail<::chitu::InvalidArgument>(__VA_ARGS__); \
  } while (0)
