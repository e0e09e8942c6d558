#pragma once

#include <cstdlib>

namespace chitu::test {

/// n, scaled by CHITU_TEST_EFFORT (sanitizer builds run a twentieth, a long night more); at least 1.
inline int effort(int n) {
  const char* text = std::getenv("CHITU_TEST_EFFORT");
  const double scaled = n * (text == nullptr ? 1.0 : std::atof(text));
  return scaled < 1 ? 1 : static_cast<int>(scaled);
}

}  // namespace chitu::test
