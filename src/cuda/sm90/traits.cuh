// Compile-time policy of the 16-bit PV kernels: tile sizes, shared memory plan, operand layouts.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "cuda/device/ptx/wgmma.cuh"

namespace chitu::cuda::sm90 {

constexpr int kScaleTile = 128;  // keys that share means and scales
constexpr int kBiasTiles = 8;    // scale tiles whose bias is made at once
constexpr int kBarrierBytes = 384;

// Swizzle width for rows of `bytes`: the widest that divides them.
constexpr int chunk_bytes(int bytes) { return bytes % 128 == 0 ? 128 : bytes % 64 == 0 ? 64 : 32; }
constexpr ptx::Swizzle swizzle_of(int chunk) { return chunk == 128 ? ptx::Swizzle::b128 : chunk == 64 ? ptx::Swizzle::b64 : ptx::Swizzle::b32; }

// Scales of int8 keys. tile: four for the 128 keys of a scale tile. block: four for AttentionParams::k_block keys, 128 or 64. token: one for every key.
enum class KeyScales { tile, block, token };

template <bool kInt8Qk_, bool kBf16_, int kHeadDim_, int kTileN_, int kWarpgroups_, KeyScales kKeyScales_ = KeyScales::tile>
struct Traits {
  static constexpr bool kInt8Qk = kInt8Qk_, kBf16 = kBf16_;
  static constexpr int kHeadDim = kHeadDim_, kTileN = kTileN_, kWarpgroups = kWarpgroups_;
  // Two warpgroups have the registers to make weights while the product with the ones before still reads those. Three make up for that by being three.
  static constexpr bool kOverlap = kWarpgroups == 2;
  static constexpr int kStages = 2, kVStages = 2;
  static constexpr int kTileM = 64 * kWarpgroups;
  static constexpr int kThreads = 128 * (kWarpgroups + 1);
  // Together at most what the launch allots, threads * the entry's registers (168 or 128): one more and setmaxnreg waits for ever.
  static constexpr int kProducerRegisters = kWarpgroups == 2 ? 40 : 32;
  static constexpr int kConsumerRegisters = kWarpgroups == 2 ? 232 : 160;
  static constexpr int kScores = kTileN / 2;  // accumulators of S per thread
  using Score = std::conditional_t<kInt8Qk, int32_t, float>;
  using Float16 = std::conditional_t<kBf16, __nv_bfloat16, __half>;
  // P is held as 2^(x - m + kOffset): in f16 small weights stay normal.
  static constexpr float kOffset = kBf16 ? 0.f : 7.f;

  static constexpr KeyScales kKeyScales = kKeyScales_;
  static constexpr bool kTileBias = kInt8Qk && kKeyScales == KeyScales::tile;
  static constexpr int kQkBytes = kInt8Qk ? 1 : 2, kPvBytes = 2;
  static constexpr int kQkChunk = chunk_bytes(kHeadDim * kQkBytes);  // bytes
  static constexpr int kQkChunks = kHeadDim * kQkBytes / kQkChunk;
  static constexpr int kChunk16 = chunk_bytes(kHeadDim * 2);
  static constexpr int kChunks16 = kHeadDim * 2 / kChunk16;
  static constexpr ptx::Swizzle kQkSwizzle = swizzle_of(kQkChunk), kSwizzle16 = swizzle_of(kChunk16);
  static constexpr int kBiasStride = kTileM + 4;  // a tile's bias and its four scales; spreads the bias MMA's columns over the banks

  static constexpr int kQBytes = kTileM * kHeadDim * kQkBytes;
  static constexpr int kQ16Bytes = kTileBias ? kTileM * kHeadDim * 2 : 0;
  static constexpr int kKBytes = kTileN * kHeadDim * kQkBytes;
  static constexpr int kVBytes = kTileN * kHeadDim * 2;
  static constexpr int kBiasBytes = kTileBias ? 2 * kBiasTiles * kBiasStride * 4 : 0;
  static constexpr int kKScaleBytes = kKeyScales == KeyScales::token ? kTileN * 4 : 0;  // of a stage

  static constexpr int kQOffset = 0;
  static constexpr int kQ16Offset = kQOffset + kQBytes;
  static constexpr int kKOffset = kQ16Offset + kQ16Bytes;
  static constexpr int kVOffset = kKOffset + kStages * kKBytes;
  static constexpr int kBiasOffset = kVOffset + kVStages * kVBytes;
  static constexpr int kKScaleOffset = kBiasOffset + kBiasBytes;
  static constexpr int kBarrierOffset = kKScaleOffset + kStages * kKScaleBytes;
  static constexpr int kSharedBytes = kBarrierOffset + kBarrierBytes + 1024;  // 1024: the base is aligned by hand
  static_assert(kSharedBytes <= 227 * 1024);
  static_assert(kQBytes % 1024 == 0 && kQ16Bytes % 1024 == 0 && kKBytes % 1024 == 0 && kVBytes % 1024 == 0);
  static_assert(kScaleTile % kTileN == 0);
  static_assert(kProducerRegisters + kWarpgroups * kConsumerRegisters <= (65536 / kThreads / 8 * 8) * (kWarpgroups + 1));
};

// Position in a ring of kDepth slots; phase is the parity a reader waits for.
template <int kDepth>
struct RingState {
  int index = 0;
  uint32_t phase = 0;
  __device__ __forceinline__ void advance() {
    if (++index == kDepth) {
      index = 0;
      phase ^= 1;
    }
  }
};

}  // namespace chitu::cuda::sm90
