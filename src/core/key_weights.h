#pragma once

// Weights of K's channels (docs/methods.md part 1): w[d], powers of two, with which q * w and k / w are quantized. q.k does not change; the product of the
// norms, which the error of 8-bit QK follows, falls where a few channels of K are much larger than the others (SmoothQuant's idea, arXiv 2211.10438).

#include <cstdint>

#include "core/codec.h"
#include "core/hd.h"

namespace chitu::core {

constexpr int kNoExponent = 1 << 20;  // larger than any: a channel without one sorts behind the others
constexpr int kLargestWeight = 4;     // w <= 2^4

/// floor(log2 a) of a channel's mean absolute residual; kNoExponent where it says nothing.
CHITU_HD inline int key_exponent(float a) {
  if (!is_finite(a) || a < kZeroGroup) return kNoExponent;
  return static_cast<int>(f32_bits(a) >> 23) - 127;
}

/// log2 w of a channel with this exponent, `median` the lower median of the exponents that exist. Never below 0: a channel that is small in the first tile may
/// be ordinary in the others, and would be blown up there.
CHITU_HD inline int key_weight_log2(int exponent, int median) {
  if (exponent == kNoExponent || exponent <= median) return 0;
  const int half = (exponent - median) / 2;
  return half < kLargestWeight ? half : kLargestWeight;
}

}  // namespace chitu::core
