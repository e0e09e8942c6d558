// In place of src/cuda/sm80/ptx.cuh.
#pragma once
#include <cstdint>

#include "emulated/async.h"
#include "emulated/device.h"
#include "emulated/mma.h"

namespace chitu::cuda::sm80::ptx {

inline std::uint32_t shared_address(const void* p) { return emulated::shared_address(p); }

inline void cp_async_16(std::uint32_t to, const void* from, int bytes) { emulated::copy_async(to, from, bytes); }
inline void cp_async_commit() { emulated::copy_commit(); }
template <int kPending>
inline void cp_async_wait() {
  emulated::copy_wait(kPending);
}

inline void ldmatrix_x4(std::uint32_t (&r)[4], std::uint32_t address) { emulated::ldmatrix(r, 4, false, address); }
inline void ldmatrix_x4_trans(std::uint32_t (&r)[4], std::uint32_t address) { emulated::ldmatrix(r, 4, true, address); }

inline void mma_m16n8k16_f16(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  emulated::mma_float(emulated::Type::f16, d, a, b0, b1);
}
inline void mma_m16n8k16_bf16(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  emulated::mma_float(emulated::Type::bf16, d, a, b0, b1);
}
inline void mma_m16n8k16_f16_f16(std::uint32_t (&d)[2], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) { emulated::mma_half(d, a, b0, b1); }
inline void mma_m16n8k32_s8(int (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  emulated::mma_int8(emulated::Type::s8, d, a, b0, b1);
}
inline void mma_m16n8k32_s8(int (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1, int c) {
  d[0] = d[1] = d[2] = d[3] = c;
  emulated::mma_int8(emulated::Type::s8, d, a, b0, b1);
}
inline void mma_m16n8k32_u8s8(int (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  emulated::mma_int8(emulated::Type::u8, d, a, b0, b1);
}

inline float exp2_approx(float x) { return emulated::exp2_approx(x); }
inline float max_nan(float a, float b) { return a != a || b != b ? __uint_as_float(0x7fffffffu) : fmaxf(a, b); }
inline std::uint32_t pack_f16(float low, float high) { return emulated::pack_f16(low, high); }
inline std::uint32_t pack_bf16(float low, float high) { return emulated::pack_bf16(low, high); }
inline std::uint32_t pack_e4m3(float low, float high) { return emulated::pack_e4m3(low, high); }
inline std::uint32_t unpack_e4m3(std::uint32_t pair) { return emulated::unpack_e4m3(pair); }

}  // namespace chitu::cuda::sm80::ptx
