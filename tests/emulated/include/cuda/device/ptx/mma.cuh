// In place of src/cuda/device/ptx/mma.cuh.
#pragma once
#include <cstdint>

#include "emulated/device.h"
#include "emulated/mma.h"

namespace chitu::cuda::ptx {

inline void ldmatrix_x4(std::uint32_t (&r)[4], std::uint32_t address) { emulated::ldmatrix(r, 4, false, address); }

inline void mma_m16n8k32_s8(std::int32_t (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  emulated::mma_int8(emulated::Type::s8, d, a, b0, b1);
}
inline void mma_m16n8k16_f16(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  emulated::mma_float(emulated::Type::f16, d, a, b0, b1);
}
inline void mma_m16n8k16_bf16(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  emulated::mma_float(emulated::Type::bf16, d, a, b0, b1);
}

inline float exp2_approx(float x) { return emulated::exp2_approx(x); }
inline std::uint32_t pack_f16(float low, float high) { return emulated::pack_f16(low, high); }
inline std::uint32_t pack_bf16(float low, float high) { return emulated::pack_bf16(low, high); }
inline std::uint32_t pack_f16_relu(float low, float high) { return emulated::pack_f16(low < 0 ? 0 : low, high < 0 ? 0 : high); }
inline std::uint32_t pack_e4m3(float low, float high) { return emulated::pack_e4m3(low, high); }
inline std::uint32_t pack_e4m3(float a, float b, float c, float d) { return emulated::pack_e4m3(a, b) | emulated::pack_e4m3(c, d) << 16; }
inline float reciprocal_approx(float x) { return 1 / x; }

}  // namespace chitu::cuda::ptx
