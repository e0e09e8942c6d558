#pragma once

// Plain data that crosses from the dispatching code into the units compiled for one instruction set, and the table of functions each unit exports.
// No inline functions here: the linker would keep one copy of each, perhaps the one with the widest instructions.

#include <cstdint>

namespace chitu::cpu {

enum class Elem : std::uint8_t { f32, f16, bf16 };

constexpr int kTile = 128;       // keys per tile: the grain of means, scales, flags, P's maximum
constexpr int kGroups = 4;       // K scales per tile
constexpr int kTilesPerChunk = 32;  // partial results are merged every 4096 keys, whoever computed them: decode may then split there bit for bit

/// Rows of one head: token t is at data + t*stride elements.
struct Rows {
  const void* data;
  std::int64_t stride;
  Elem elem;
};

/// One tile of 8-bit K and V with everything needed to use it. Offsets in bytes; everything is 64-byte aligned.
///   k     [8][dk/4][16][4]   u8 = code + 128; token 16a + l, channel 4b + c
///   v     [dv/16][32][16][4]  s8; bytes are tokens 0, 2, 1, 3 of a group of 4 (the order in which the softmax packs P)
///   head  f32 k_scale[4], v_scale (t; 0 in flagged tiles), u32 flagged, count, f32 shift_limit (tau; flagged tiles)
///   mean  f32 [dk]           tile mean of K as it was subtracted
///   vbar  f32 [dv]           mean of the V codes
///   token f32 [128]          chitu_int8: log2 t[j] of flagged tiles;  per-token K scales: k_scale[j]
struct TileLayout {
  int head_dim, head_dim_v;  // true sizes
  int dk, dv;                // padded to 16; dv = 0: no V codes
  std::int64_t k, v, head, mean, vbar, token, bytes;
};
struct TileHead {
  float k_scale[kGroups];
  float v_scale;
  std::uint32_t flagged, count;
  float shift_limit;
};

enum class KQuant : std::uint8_t { tile_groups, per_token, per_64 };  // tile_groups: own mean, rotated

/// 8-bit copies of one sequence and KV head.
struct QuantizeArgs {
  Rows k, v;
  std::int64_t seqlen;
  TileLayout layout;
  unsigned char* tiles;
  const float* channel_inv;   // chitu_int8: f32(1/c[d]); int_flash: the inverse of its one scale
  const float* k_mean;        // sequence mean to subtract, or null
  const float* factor;        // tile_groups: [dk] sign of the rotation / weight of the channel
  KQuant k_quant;
  bool v_c3;                  // C3 values; else one scale per tensor
  float flag_ratio;
};

enum class MaskKind : std::uint8_t { none, boolean, f32, f16, bf16 };
/// P where it is not chitu_int8's: rounded to f16 or bf16 or not at all, times V of the same kind; s8: codes against 8-bit V.
enum class PKind : std::uint8_t { f32, f16, bf16, s8 };

/// Attention of the rows of one sequence and KV head: row r is query r / group of query head r % group.
struct AttendArgs {
  Rows q;                         // of the first query head of the group
  std::int64_t q_head_stride;
  void* out;
  std::int64_t out_stride, out_head_stride;
  Elem out_elem;
  float* lse;                     // null: not wanted
  std::int64_t lse_stride, lse_head_stride;
  std::int64_t group, seqlen_q, seqlen_k;
  std::int64_t left, right, diagonal;  // band mask, as core/mask.h
  const void* mask;               // dense: element [head][query][key]
  MaskKind mask_kind;
  std::int64_t mask_head_stride, mask_query_stride, mask_key_stride;
  float softmax_scale;
  // 8-bit K (and V)
  TileLayout layout;
  const unsigned char* tiles;
  const float* channel;           // c[dv]
  const float* k_mean;            // sequence mean that was subtracted (adds scale * q.k_mean to lse), or null
  const std::int32_t* q_absmax;   // bits of the absolute maximum of q per 128 queries, [group][q_blocks]; null: a scale per token
  std::int64_t q_blocks;
  const float* factor;  // [dk] sign of the rotation * weight of K's channel, null: no rotation
  KQuant k_quant;
  // 16-bit or f32 K and V, as they lie
  Rows k, v;                      // k only without tiles
  const float* v_scale;           // per channel: V is multiplied by it before it is rounded to f16, `channel` undoes it; or null
  PKind p;
  float p_range, lazy_octaves;    // lazy_octaves 0: the running maximum moves with every tile
};

}  // namespace chitu::cpu
