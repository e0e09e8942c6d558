#pragma once

// The rotation R of docs/methods.md part 1: a fixed sign per channel, then a Walsh-Hadamard transform in blocks of powers of two.
// Orthonormal, so q.k does not change, while an outlier channel is spread over its whole block (QuaRot, arXiv 2404.00456).

#include <cstdint>

#include "core/hd.h"

namespace chitu::core {

/// Bit d set: channel d changes its sign. The first 256 binary digits of pi after the point, least significant bit first.
CHITU_HD inline std::uint32_t rotation_sign_word(int word) {
  constexpr std::uint32_t bits[8] = {0x1156fc24u, 0xcb10c5a1u, 0x745198c8u, 0x22ce0ec0u, 0x441c9025u, 0x0b8cf994u, 0x195f7410u, 0x91367237u};
  return bits[word];
}
CHITU_HD inline bool rotation_sign(int d) { return (rotation_sign_word(d >> 5) >> (d & 31)) & 1u; }

/// f32(1/sqrt(2^log2_block)), log2_block in 0..8.
CHITU_HD inline float rotation_norm(int log2_block) {
  constexpr float even[5] = {1.0f, 0.5f, 0.25f, 0.125f, 0.0625f};
  constexpr float root_half = 0.70710678118654752f;
  return (log2_block & 1) ? even[log2_block / 2] * root_half : even[log2_block / 2];
}

/// Largest power of two <= n, as an exponent.
CHITU_HD inline int floor_log2(int n) {
  int l = 0;
  while ((2 << l) <= n) ++l;
  return l;
}

/// Rotates one row of head_dim <= 256 values in place.
CHITU_HD inline void rotate_row(float* x, int head_dim) {
  for (int d = 0; d < head_dim; ++d)
    if (rotation_sign(d)) x[d] = -x[d];
  for (int base = 0; base < head_dim;) {
    const int log2_block = floor_log2(head_dim - base), block = 1 << log2_block;
    float* y = x + base;
    for (int stride = 1; stride < block; stride *= 2)
      for (int i = 0; i < block; i += 2 * stride)
        for (int j = i; j < i + stride; ++j) {
          const float a = y[j], b = y[j + stride];
          y[j] = a + b;
          y[j + stride] = a - b;
        }
    const float norm = rotation_norm(log2_block);
    for (int j = 0; j < block; ++j) y[j] *= norm;
    base += block;
  }
}

}  // namespace chitu::core
