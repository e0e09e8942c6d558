#pragma once

// 16-bit floats of the emulator, on the codec that the specification uses.

#include "core/codec.h"

struct __half {
  std::uint16_t bits;
};
struct __half2 {
  __half x, y;
};

inline float __half2float(__half h) { return chitu::core::f16_to_f32(h.bits); }
inline __half __float2half_rn(float x) { return {chitu::core::f32_to_f16(x)}; }
inline std::uint16_t __half_as_ushort(__half h) { return h.bits; }
inline __half __ushort_as_half(std::uint16_t bits) { return {bits}; }
inline float2 __half22float2(__half2 h) { return {__half2float(h.x), __half2float(h.y)}; }
