// In place of src/cuda/device/ptx/wgmma.cuh.
#pragma once
#include <cstdint>

#include "emulated/wgmma.h"

namespace chitu::cuda::ptx {

inline void wgmma_fence() { emulated::wgmma_fence(); }
inline void wgmma_commit() { emulated::wgmma_commit(); }
template <int kPending>
inline void wgmma_wait() {
  emulated::wgmma_wait(kPending);
}
template <class T, int kCount>
inline void pin(T (&)[kCount]) {}

enum class Swizzle : int { b128 = 1, b64 = 2, b32 = 3 };

inline std::uint64_t wgmma_descriptor(std::uint32_t address, std::uint32_t leading, std::uint32_t stride, Swizzle swizzle) {
  const auto field = [](std::uint32_t x) { return static_cast<std::uint64_t>((x & 0x3ffff) >> 4); };
  return field(address) | field(leading) << 16 | field(stride) << 32 | static_cast<std::uint64_t>(swizzle) << 62;
}

// The number of accumulators gives the shape: two columns each.
template <class T, int kCount>
inline void wgmma_ss(emulated::Type type, T (&d)[kCount], std::uint64_t a, std::uint64_t b, bool accumulate) {
  emulated::wgmma_issue(d, {type, type, 2 * kCount, nullptr, a, b, false, accumulate});
}
template <class T, int kCount>
inline void wgmma_rs(emulated::Type type, T (&d)[kCount], const std::uint32_t* a, std::uint64_t b, bool columns_inner, bool accumulate) {
  emulated::wgmma_issue(d, {type, type, 2 * kCount, a, 0, b, columns_inner, accumulate});
}

template <int kCount>
inline void wgmma_ss_s8(std::int32_t (&d)[kCount], std::uint64_t a, std::uint64_t b, bool accumulate) {
  wgmma_ss(emulated::Type::s8, d, a, b, accumulate);
}
template <int kCount>
inline void wgmma_ss_f16(float (&d)[kCount], std::uint64_t a, std::uint64_t b, bool accumulate) {
  wgmma_ss(emulated::Type::f16, d, a, b, accumulate);
}
template <int kCount>
inline void wgmma_ss_bf16(float (&d)[kCount], std::uint64_t a, std::uint64_t b, bool accumulate) {
  wgmma_ss(emulated::Type::bf16, d, a, b, accumulate);
}
template <int kCount>
inline void wgmma_rs_u8s8(std::int32_t (&d)[kCount], const std::uint32_t* a, std::uint64_t b, bool accumulate) {
  emulated::wgmma_issue(d, {emulated::Type::s8, emulated::Type::u8, 2 * kCount, a, 0, b, false, accumulate});
}
template <int kCount>
inline void wgmma_rs_f16(float (&d)[kCount], const std::uint32_t* a, std::uint64_t b, bool accumulate) {
  wgmma_rs(emulated::Type::f16, d, a, b, true, accumulate);
}
template <int kCount>
inline void wgmma_rs_bf16(float (&d)[kCount], const std::uint32_t* a, std::uint64_t b, bool accumulate) {
  wgmma_rs(emulated::Type::bf16, d, a, b, true, accumulate);
}
template <int kCount>
inline void wgmma_rs_e4m3(float (&d)[kCount], const std::uint32_t* a, std::uint64_t b, bool accumulate) {
  wgmma_rs(emulated::Type::e4m3, d, a, b, false, accumulate);
}

}  // namespace chitu::cuda::ptx
