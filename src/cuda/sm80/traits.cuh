// Compile-time policy of the mma.sync kernels: operand types, tile sizes, shared memory plan.
#pragma once
#include <cstdint>
#include <type_traits>

#include "core/codec.h"
#include "cuda/params.h"

namespace chitu::cuda::sm80 {

enum class Qk { s8, f16, bf16 };
/// Format of P and accumulation of P.V. f16, bf16: f32 sums. f16_f16: f16 sums per tile. e4m3: P and V rounded to e4m3 and multiplied in f16, which
/// holds every e4m3 value. u8: against the tile's maximum with chitu_int8's corrections. s8: against the running maximum.
enum class Pv { f16, bf16, f16_f16, e4m3, u8, s8 };

constexpr int kThreads = 256;
constexpr int kTileM = 128;  // 8 warps of 16 query rows

template <Qk kQk_, Pv kPv_, int kHeadDim_, int kTileN_>
struct Traits {
  static constexpr Qk kQk = kQk_;
  static constexpr Pv kPv = kPv_;
  static constexpr int kHeadDim = kHeadDim_, kTileN = kTileN_;
  static constexpr bool kInt8Qk = kQk == Qk::s8;
  static constexpr bool kInt8Pv = kPv == Pv::u8 || kPv == Pv::s8;
  using Score = std::conditional_t<kInt8Qk, int, float>;

  static constexpr int kRowK = kHeadDim * (kInt8Qk ? 1 : 2);     // bytes of a key
  static constexpr int kRowV = kInt8Pv ? kTileN : kHeadDim * 2;  // bytes of a row of V: [channel][key] in 8 bits, [key][channel] in 16
  static constexpr int kKBytes = kTileN * kRowK;
  static constexpr int kVBytes = kInt8Pv ? kHeadDim * kRowV : kTileN * kRowV;
  static constexpr int kStageBytes = kKBytes + kVBytes;

  static constexpr int kSteps = kRowK / 32;                         // k-steps of QK, 32 bytes each
  static constexpr int kBlocks = kTileN / 8;                        // accumulator blocks of S: 8 keys
  static constexpr int kWords = kInt8Pv ? kTileN / 8 : kTileN / 4;  // registers of packed P
  static constexpr int kHalves = 2;                                 // a warp's rows are the first 8 of a fragment, or all 16
  static constexpr bool kQInRegisters = kHeadDim <= 128;            // else Q is read again for every tile: O alone takes 128 registers
  static constexpr bool kEagerBias = false;                         // its loads side by side: a block with one warp per tile has nothing else to do
  static constexpr int kBlocksPerSm = kHeadDim <= 64 && kTileN <= 64 ? 2 : 1;
  static_assert(!kInt8Pv || kTileN == kTile);
};

/// 16-byte chunk at which chunk c of a row lies, so that the eight rows of an ldmatrix matrix hit different banks.
template <int kRowBytes>
__device__ __forceinline__ int swizzle(int row, int c) {
  static_assert(kRowBytes % 64 == 0);
  return kRowBytes >= 128 ? c ^ (row & 7) : c ^ ((row >> 1) & 3);
}

template <int kRowBytes>
__device__ __forceinline__ uint32_t chunk_offset(int row, int c) {
  return row * kRowBytes + swizzle<kRowBytes>(row, c) * 16;
}

constexpr float kLog2e = 1.4426950408889634f;
__device__ __forceinline__ float minus_infinity() { return __int_as_float(0xff800000); }

}  // namespace chitu::cuda::sm80
