#pragma once

// bf16 of the emulator, on the codec that the specification uses.

#include "core/codec.h"

struct __nv_bfloat16 {
  std::uint16_t bits;
};

inline float __bfloat162float(__nv_bfloat16 h) { return chitu::core::bf16_to_f32(h.bits); }
inline __nv_bfloat16 __float2bfloat16_rn(float x) { return {chitu::core::f32_to_bf16(x)}; }
