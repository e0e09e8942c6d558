#pragma once

#include <cstdlib>

namespace chitu::test {

/// n, scaled by CHITU_TEST_EFFORT (sanitizer builds run a twentieth, a long night more); at least 1.
inline int effort(int n) {
  const char* text = std::getenv("CHITU_TEST_EFFORT");
  const double scaled = n * (text == nullptr ? 1.0 : std::atof(text));
  return scaled < 1 ? 1 : static_cast<int>(scaled);
}

/// Of n kinds of a case, whether to run number i: all at an effort of 1 or more, else as many as it allows, at least one, and others for another `turn`.
inline bool chosen(int i, int n, int turn) { return (i + turn) % n < effort(n); }

}  // namespace chitu::test
