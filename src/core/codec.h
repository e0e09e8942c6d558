#pragma once

// Rounding, packing and unpacking of one value, identical on host and device (docs/methods.md part 1). No FMA may be contracted in here:
// the library is built with -ffp-contract=off, and device code calls __fmul_rn where it matters.

#include <cstdint>
#include <cstring>

#include "core/hd.h"

namespace chitu::core {

CHITU_HD inline std::uint32_t f32_bits(float x) {
  std::uint32_t u;
  memcpy(&u, &x, 4);
  return u;
}
CHITU_HD inline float bits_f32(std::uint32_t u) {
  float x;
  memcpy(&x, &u, 4);
  return x;
}
CHITU_HD inline bool is_finite(float x) { return (f32_bits(x) & 0x7f800000u) != 0x7f800000u; }
CHITU_HD inline bool is_nan(float x) { return (f32_bits(x) & 0x7fffffffu) > 0x7f800000u; }
CHITU_HD inline float abs_f32(float x) { return bits_f32(f32_bits(x) & 0x7fffffffu); }
/// Maximum of two absolute values; NaN wins (a plain fmax would drop it). Works on bits: non-negative floats order like integers, NaN above Inf.
CHITU_HD inline float absmax_nan(float a, float b) {
  const std::uint32_t ua = f32_bits(a) & 0x7fffffffu, ub = f32_bits(b) & 0x7fffffffu;
  return bits_f32(ua > ub ? ua : ub);
}

CHITU_HD inline float f16_to_f32(std::uint16_t h) {
  const std::uint32_t sign = (h & 0x8000u) << 16, exp = (h >> 10) & 31, man = h & 0x3ffu;
  if (exp == 31) return bits_f32(sign | 0x7f800000u | (man << 13));
  if (exp != 0) return bits_f32(sign | ((exp + 112) << 23) | (man << 13));
  const float tiny = static_cast<float>(man) * bits_f32(0x33800000u);  // man * 2^-24, exact
  return bits_f32(f32_bits(tiny) | sign);
}
CHITU_HD inline std::uint16_t f32_to_f16(float x) {
  const std::uint32_t u = f32_bits(x), sign = (u >> 16) & 0x8000u, a = u & 0x7fffffffu;
  if (a > 0x7f800000u) return static_cast<std::uint16_t>(sign | 0x7e00u);
  if (a >= 0x477ff000u) return static_cast<std::uint16_t>(sign | 0x7c00u);  // rounds to 65520 or more
  if (a < 0x38800000u) {                                                    // subnormal result: add 0.5, whose ulp is the f16 subnormal step
    const float m = bits_f32(a) + 0.5f;
    return static_cast<std::uint16_t>(sign | (f32_bits(m) - 0x3f000000u));
  }
  const std::uint32_t r = a + 0xfffu + ((a >> 13) & 1);
  return static_cast<std::uint16_t>(sign | ((r - 0x38000000u) >> 13));
}
CHITU_HD inline float bf16_to_f32(std::uint16_t h) { return bits_f32(static_cast<std::uint32_t>(h) << 16); }
CHITU_HD inline std::uint16_t f32_to_bf16(float x) {
  const std::uint32_t u = f32_bits(x);
  if ((u & 0x7fffffffu) > 0x7f800000u) return static_cast<std::uint16_t>((u >> 16) | 0x40u);
  return static_cast<std::uint16_t>((u + 0x7fffu + ((u >> 16) & 1)) >> 16);
}
CHITU_HD inline float round_f16(float x) { return f16_to_f32(f32_to_f16(x)); }
CHITU_HD inline float round_bf16(float x) { return bf16_to_f32(f32_to_bf16(x)); }

/// Nearest integer, ties to even, for |x| < 2^22; the result is exact in f32.
CHITU_HD inline float rne_small(float x) {
  constexpr float magic = 12582912.0f;  // 1.5 * 2^23; the library is never built with fast math, so the pair stays
#if defined(__CUDA_ARCH__)
  return __fsub_rn(__fadd_rn(x, magic), magic);
#else
  return (x + magic) - magic;
#endif
}

/// e4m3fn (OCP): 448 is the largest value, no Inf, 0x7f is NaN. Round to nearest even, saturating; NaN stays NaN.
CHITU_HD inline std::uint8_t f32_to_e4m3(float x) {
  const std::uint32_t u = f32_bits(x), sign = (u >> 24) & 0x80u, a = u & 0x7fffffffu;
  if (a > 0x7f800000u) return static_cast<std::uint8_t>(sign | 0x7fu);
  if (a >= 0x43e80000u) return static_cast<std::uint8_t>(sign | 0x7eu);  // >= 464 rounds past 448: saturate
  if (a < 0x3c800000u) {                                                 // below 2^-6: subnormal step 2^-9; 2^14 has ulp 2^-9
    const float m = bits_f32(a) + 16384.0f;
    return static_cast<std::uint8_t>(sign | (f32_bits(m) - 0x46800000u));
  }
  const std::uint32_t r = a + 0x7ffffu + ((a >> 20) & 1);
  const std::uint32_t code = (r - 0x3c000000u) >> 20;
  return static_cast<std::uint8_t>(sign | (code > 0x7eu ? 0x7eu : code));
}
CHITU_HD inline float e4m3_to_f32(std::uint8_t c) {
  const std::uint32_t sign = static_cast<std::uint32_t>(c & 0x80u) << 24, exp = (c >> 3) & 15, man = c & 7;
  if (exp == 15 && man == 7) return bits_f32(sign | 0x7fc00000u);
  if (exp == 0) return bits_f32(f32_bits(static_cast<float>(man) * bits_f32(0x3b000000u)) | sign);  // man * 2^-9
  return bits_f32(sign | ((exp + 120) << 23) | (man << 20));
}

constexpr float kZeroGroup = 7.888609052210118e-31f;  // 2^-100: a group with a smaller absmax is zero

/// Scale and inverse of one quantization group with absmax a and largest code `range` (127 for int8, 448 or 2.25 for e4m3).
/// Zero group: both 0 (every code becomes 0). Not finite: scale NaN, inverse 0.
struct GroupScale {
  float scale, inv;
};
CHITU_HD inline GroupScale group_scale(float a, float range) {
  if (!is_finite(a)) return {bits_f32(0x7fc00000u), 0.0f};
  if (a < kZeroGroup) return {0.0f, 0.0f};
#if defined(__CUDA_ARCH__)
  return {__fdiv_rn(a, range), __fdiv_rn(range, a)};
#else
  return {a / range, range / a};
#endif
}
/// int8 code of x with the group's inverse. A zero inverse gives 0 even for x = NaN or Inf (the scale carries the NaN).
CHITU_HD inline std::int8_t int8_code(float x, float inv) {
  if (inv == 0.0f) return 0;
#if defined(__CUDA_ARCH__)
  float y = __fmul_rn(x, inv);
#else
  float y = x * inv;
#endif
  y = y > 127.0f ? 127.0f : (y < -127.0f ? -127.0f : y);
  return static_cast<std::int8_t>(rne_small(y));
}
CHITU_HD inline std::uint8_t e4m3_code(float x, float inv) {
  if (inv == 0.0f) return 0;
#if defined(__CUDA_ARCH__)
  return f32_to_e4m3(__fmul_rn(x, inv));
#else
  return f32_to_e4m3(x * inv);
#endif
}

}  // namespace chitu::core
