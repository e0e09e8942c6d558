#include "emulated/multiply.h"

#include <algorithm>
#include <bit>
#include <cstdint>

namespace chitu::emulated {

// Where most of the time of an emulated attention goes.
__attribute__((target_clones("avx2", "default"), optimize("O3"))) void multiply(const float* a, int a_stride, const float* b, int b_stride, float* d,
                                                                                int d_stride, int depth, int columns) {
  for (int n = 0; n < columns; n += 8) {
    for (int r = 0; r < 16; r += 4) {
      float sum[4][8] = {};
      for (int k = 0; k < depth; ++k)
        for (int i = 0; i < 4; ++i)
          for (int c = 0; c < 8; ++c) sum[i][c] += a[(r + i) * a_stride + k] * b[k * b_stride + n + c];
      for (int i = 0; i < 4; ++i)
        for (int c = 0; c < 8; ++c) d[(r + i) * d_stride + n + c] = sum[i][c];
    }
  }
}

__attribute__((target_clones("avx2", "default"), optimize("O3"))) void multiply_fp8(const float* a, int a_stride, const float* b, int b_stride, float* d,
                                                                                    int d_stride, int depth, int columns) {
  constexpr std::uint32_t kAbs = 0x7fffffffu, kExponent = 0x7f800000u;
  for (int n = 0; n < columns; n += 8) {
    for (int r = 0; r < 16; ++r) {
      float* to = d + r * d_stride + n;
      std::uint32_t top[8];
      float per_step[8], step[8], sum[8];
      for (int c = 0; c < 8; ++c) top[c] = std::bit_cast<std::uint32_t>(to[c]) & kAbs;
      for (int k = 0; k < depth; ++k)
        for (int c = 0; c < 8; ++c) top[c] = std::max(top[c], std::bit_cast<std::uint32_t>(a[r * a_stride + k] * b[k * b_stride + n + c]) & kAbs);
      for (int c = 0; c < 8; ++c) {
        const std::uint32_t e = std::clamp(top[c] & kExponent, 14u << 23, 240u << 23);
        per_step[c] = std::bit_cast<float>((254u << 23) - e + (13u << 23));
        step[c] = std::bit_cast<float>(e - (13u << 23));
        sum[c] = static_cast<float>(static_cast<std::int32_t>(to[c] * per_step[c]));
      }
      for (int k = 0; k < depth; ++k)
        for (int c = 0; c < 8; ++c) sum[c] += static_cast<float>(static_cast<std::int32_t>(a[r * a_stride + k] * b[k * b_stride + n + c] * per_step[c]));
      for (int c = 0; c < 8; ++c) to[c] = top[c] >= kExponent ? std::bit_cast<float>(0x7fffffffu) : sum[c] * step[c];
    }
  }
}

}  // namespace chitu::emulated
