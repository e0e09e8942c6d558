// Compile-time policy of the kernels with 8-bit PV.
#pragma once
#include "traits.cuh"

namespace chitu::cuda::sm90 {

// How P is rounded. e4m3_tile: against the tile's maximum, some words by log-code (chitu_fast). e4m3_running: against the running maximum (sage2).
// u8_tile: against the tile's maximum, with the corrections of chitu_int8. s8_running: against the running maximum, every key with its own scale (int_flash).
enum class Weights { e4m3_tile, e4m3_running, u8_tile, s8_running };

// Words of chitu_fast that take their exponentials as log-code: Scheme::log_code_mask of one tile.
constexpr uint32_t kLogWords = 0x55;

// Bit w of kLogWords: word w of a tile (keys 16w .. 16w + 15) takes its exponentials as log-code; e4m3_tile only.
template <Weights kWeights_, uint32_t kLogWords_, bool kBf16_, int kHeadDim_, int kWarpgroups_>
struct Traits8 {
  static constexpr Weights kWeights = kWeights_;
  static constexpr uint32_t kLogWords = kLogWords_;
  static constexpr bool kRunning = kWeights == Weights::e4m3_running || kWeights == Weights::s8_running;
  static constexpr bool kInt8Pv = kWeights == Weights::u8_tile || kWeights == Weights::s8_running;
  static constexpr bool kInt8Qk = true, kBf16 = kBf16_, kTileBias = !kRunning;
  static constexpr KeyScales kKeyScales = kWeights == Weights::s8_running ? KeyScales::token : KeyScales::tile;
  static constexpr int kHeadDim = kHeadDim_, kTileN = 128, kWarpgroups = kWarpgroups_;
  static constexpr int kStages = 2, kVStages = kHeadDim == 256 ? 1 : 2;  // a second tile of V does not fit beside Q, in 8 and 16 bits, at head_dim 256
  static constexpr int kTileM = 64 * kWarpgroups;
  static constexpr int kThreads = 128 * (kWarpgroups + 1);
  static constexpr int kProducerRegisters = kWarpgroups == 2 ? 40 : 32;
  static constexpr int kConsumerRegisters = kWarpgroups == 2 ? 232 : 160;
  static constexpr int kScores = kTileN / 2;  // accumulators of S per thread
  static constexpr int kWords = kTileN / 8;   // registers of packed P
  using Score = int32_t;
  using Float16 = std::conditional_t<kBf16, __nv_bfloat16, __half>;

  // Two warpgroups have the registers for S of the next tile beside the product of the one before, up to head_dim 128. Three make up for that by being three.
  static constexpr bool kOverlap = kWarpgroups == 2 && kHeadDim <= 128;
  // PV: channels of one product. Where a whole tile's product does not fit beside O, it comes in parts.
  static constexpr int kProductChannels = kHeadDim <= 96 || kOverlap ? kHeadDim : 64;
  static constexpr int kProducts = kHeadDim / kProductChannels;
  // Eight more rows of V^T, of ones and zeros, below the last channel: sums of the rounded P. Row 2t sums the log-code words of k-step t, row 2t + 1 its
  // other words: a thread gets what belongs to one k-step, too few terms for the FP8 accumulator's short fraction to matter.
  static constexpr int kSumRows = kWeights == Weights::e4m3_tile ? 8 : 0;
  using Product = std::conditional_t<kInt8Pv, int32_t, float>;

  static constexpr int kQkBytes = 1, kPvBytes = 1;
  static constexpr int kQkChunk = chunk_bytes(kHeadDim);
  static constexpr int kQkChunks = kHeadDim / kQkChunk;
  static constexpr int kChunk16 = chunk_bytes(kHeadDim * 2);
  static constexpr int kChunks16 = kHeadDim * 2 / kChunk16;
  static constexpr ptx::Swizzle kQkSwizzle = swizzle_of(kQkChunk);
  static constexpr int kBiasStride = kTileM + 4;

  static constexpr int kQBytes = kTileM * kHeadDim;
  static constexpr int kQ16Bytes = kTileBias ? kTileM * kHeadDim * 2 : 0;
  static constexpr int kKBytes = kTileN * kHeadDim;
  static constexpr int kVBytes = kTileN * kHeadDim;  // V^T: rows of 128 keys
  static constexpr int kVStageBytes = kVBytes + kSumRows * kTileN;
  static constexpr int kBiasBytes = kTileBias ? 2 * kBiasTiles * kBiasStride * 4 : 0;
  static constexpr int kKScaleBytes = kKeyScales == KeyScales::token ? kTileN * 4 : 0;  // of a stage

  static constexpr int kQOffset = 0;
  static constexpr int kQ16Offset = kQOffset + kQBytes;
  static constexpr int kKOffset = kQ16Offset + kQ16Bytes;
  static constexpr int kVOffset = kKOffset + kStages * kKBytes;
  static constexpr int kBiasOffset = kVOffset + kVStages * kVStageBytes;
  static constexpr int kKScaleOffset = kBiasOffset + kBiasBytes;
  static constexpr int kBarrierOffset = kKScaleOffset + kStages * kKScaleBytes;
  static constexpr int kSharedBytes = kBarrierOffset + kBarrierBytes + 1024;
  static_assert(kSharedBytes <= 227 * 1024);
  static_assert(kQBytes % 1024 == 0 && kQ16Bytes % 1024 == 0 && kKBytes % 1024 == 0 && kVStageBytes % 1024 == 0 && kVBytes % 1024 == 0);
  static_assert(kTileN == kScaleTile);
  static_assert(kLogWords == 0 || kWeights == Weights::e4m3_tile);
  static_assert(kProducerRegisters + kWarpgroups * kConsumerRegisters <= (65536 / kThreads / 8 * 8) * (kWarpgroups + 1));
};

}  // namespace chitu::cuda::sm90
