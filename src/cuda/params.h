#pragma once

// PODs that cross from the host into the kernels of src/cuda (sm90 has its own). Strides count elements; everything else says its shape.

#include <cstdint>

#include "core/hd.h"
#include "core/kernel.h"

namespace chitu::cuda {

using core::SequenceRange;

constexpr int kTile = 128;  // keys of a tile, rows of a query block

CHITU_HD constexpr std::int64_t div_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
/// Channels of a row of codes: zero-padded so that rows are a multiple of 16 bytes.
CHITU_HD constexpr int code_dim(std::int64_t head_dim) { return static_cast<int>(div_up(head_dim, 16) * 16); }

/// A [batch, seqlen, heads, dim] tensor; dim has stride 1.
struct View {
  const void* data;
  std::int64_t batch, seq, head;
  DType dtype;
  bool aligned16;  ///< rows start at multiples of 16 bytes
};

/// Which rows and keys belong to sequence b. Codes and scales of K lie in tiles of 128 keys: a sequence begins at a tile of its own.
struct Sequence {
  const std::int32_t *cu_q, *cu_k, *seqlens_k;
  std::int64_t seqlen_q, seqlen_k, total_q, total_k;
  std::int64_t q_rows;   ///< rows of codes per (batch, head) of q: seqlen_q up to a multiple of 128; packed: total_q
  std::int64_t tiles_k;  ///< tiles per (batch, head) of k: ceil(seqlen_k / 128); packed: total_k / 128 + batch
  int batch;
  bool packed;

  CHITU_HD SequenceRange range(std::int64_t b) const { return core::sequence_range(packed, cu_q, cu_k, seqlens_k, seqlen_q, seqlen_k, total_q, total_k, b); }
  /// ceil(length / 128) tiles from here on never reach the next sequence's first.
  CHITU_HD std::int64_t first_tile(const SequenceRange& r, std::int64_t b) const { return packed ? r.k_begin / kTile + b : 0; }
};

/// Rounds rows of q or k to int8: optionally minus a mean, optionally rotated, one block per 128 rows.
struct QuantizeRowsParams {
  View x;
  Sequence sequence;
  bool is_q;    ///< rows of q (else of k)
  bool negate;  ///< a negative softmax_scale is folded into q
  bool tile_mean;
  int heads, head_dim;
  int heads_per_kv;            ///< q heads that share a row of sequence_mean and factor; k: 1
  int log2_block, log2_groups;  ///< core::Grain within 128 rows; block 1: per token
  const float* factor;         ///< [batch, num_heads_kv, code_dim]: sign of the rotation times (q) or divided by (k) the channel's weight. Null: no rotation
  const float* sequence_mean;  ///< [batch, num_heads_kv, head_dim]; k: subtracted; q: dotted into mean_dot. Null: none. Packed: batch is the sequence
  float* mean_dot;             ///< q: [tensor batch, heads, q_rows], softmax_scale * (q . mean), natural log units
  float softmax_scale;
  std::int8_t* codes;  ///< q: [tensor batch, heads, q_rows, code_dim]; k: [tensor batch, heads, tiles_k, 128, code_dim]
  float* scale;        ///< q: [.., q_rows] one per row; k: [.., tiles_k * 128 / block, 4]; per token [.., tiles_k, 128]
  void* mean;          ///< tile_mean: [.., tiles_k, code_dim] in the dtype of x
};

/// What is known of a channel over a sequence: the mean of K (sage), or how V is rounded.
enum class Statistic {
  mean,
  f16,        ///< powers of two for channels beyond f16
  e4m3,       ///< a scale for each channel
  s8_tensor,  ///< one for all
  weights     ///< c[d] of docs/methods.md part 1
};
struct StatisticsParams {
  View x;
  Sequence sequence;
  int heads, head_dim;
  Statistic what;
  float range;            ///< largest code; f16: largest value
  float* tiles;           ///< scratch: [tensor batch, heads, tiles_k, head_dim]
  std::uint32_t* bounds;  ///< scratch, weights: [tensor batch, heads, tiles_k, 8, 2]: largest and smallest sample
  float* result;          ///< [batch, heads, head_dim]: the mean, or what V is multiplied by before it is rounded
  float* v_scale;         ///< V: [batch, heads, head_dim]: multiplies the output's channel
};

/// Signs of the rotation and weights of K's channels, as Q and K are multiplied by them.
struct KeyFactorsParams {
  View x;
  Sequence sequence;
  int heads, head_dim;
  bool weights;                ///< else the signs alone
  float *q_factor, *k_factor;  ///< [batch, heads, code_dim]
};

/// V as the kernels read it.
struct QuantizeVParams {
  View x;
  Sequence sequence;
  int heads, head_dim;
  float flag_ratio;
  const float* factor;    ///< StatisticsParams::result. Null: none
  std::uint16_t* v16;     ///< [tensor batch, rows of k, heads, head_dim] f16 values
  std::uint8_t* v8;       ///< e4m3 codes, the same shape (pre-quantized caches)
  std::int8_t* v8t;       ///< [tensor batch, heads, tiles_k, head_dim, 128]: keys of 16 in the order of an mma thread (value_position); int8 or e4m3
  float* token_scale;     ///< c3: [.., tiles_k, 128]
  float* tile_mean;       ///< c3: [.., tiles_k, head_dim]: mean of the codes
  float* shift_limit;     ///< c3: [.., tiles_k]: tau of a flagged tile, 0 of a plain one
};

/// Slot of key j (0..15) inside its group of 16 in v8t: a thread of mma.m16n8k32 then owns the keys 2t, 2t+1, 8+2t, 8+2t+1 of which it has the scores.
CHITU_HD constexpr int value_position(int j) { return (j & 1) + 4 * ((j >> 1) & 3) + 2 * (j >> 3); }

struct AttentionParams {
  Sequence sequence;
  // 8-bit operands, as written by the pre-pass.
  const std::int8_t* q8;
  const float* q_scale;
  const std::int8_t* k8;
  const float* k_scale;
  const void* k_mean;     ///< tile means; null: none
  const float* mean_dot;  ///< added to lse; null: none
  int k_block;            ///< keys of a scale block: 128, 64; 1: per token
  const std::int8_t* v8t;
  const float* token_scale;
  const float* tile_mean;
  const float* shift_limit;
  const float* v_scale;  ///< [batch, heads_kv, head_dim_v]; null: 1

  View q, k, v;  ///< q: the caller's; k: `exact` only; v: 16 bits
  void* out;
  std::int64_t out_batch, out_seq, out_head;
  DType out_dtype;
  float* lse;  ///< null: not wanted
  std::int64_t lse_batch, lse_head, lse_seq;
  const void* dense;  ///< null: none
  std::int64_t dense_batch, dense_head, dense_row, dense_col;
  DType dense_dtype;  ///< boolean, or added

  int heads_q, heads_kv, head_dim, head_dim_v;
  int q_tiles, splits;
  std::int64_t split_keys;  ///< keys of a split, a multiple of 128
  float* partial_out;       ///< splits > 1: [splits, tensor batch, heads_q, q_rows, head_dim_v], normalised
  float* partial_sum;       ///< [splits, .., q_rows, 2]: log2 of the normaliser, log2 of the true sum
  core::MaskParams mask;
  float scale_log2;     ///< |softmax_scale| * log2 e; `exact`: signed
  float bias_log2;      ///< softmax_scale * log2 e, signed
  float lazy_octaves;   ///< the running maximum is kept until it grows by more than this
  float range_log2;     ///< P is held times 2^range_log2
  bool tile_reference;  ///< P against the tile's own maximum
  bool sum_quantized;   ///< normalise by the sum of the rounded P
  int stages;           ///< tiles in shared memory: 2, or 1 where two do not fit
};

/// Merges the partial results of one call.
struct CombineParams {
  Sequence sequence;
  const float* partial_out;
  const float* partial_sum;
  const float* mean_dot;
  int splits, heads_q, head_dim_v;
  void* out;
  std::int64_t out_batch, out_seq, out_head;
  DType out_dtype;
  float* lse;
  std::int64_t lse_batch, lse_head, lse_seq;
};

struct MergeParams {
  float* out;
  float* lse;
  const float* out_b;
  const float* lse_b;
  std::int64_t batch, seqlen, heads, dim;
  std::int64_t out_stride[3], out_b_stride[3];  ///< batch, seq, head
  std::int64_t lse_stride[3], lse_b_stride[3];  ///< batch, head, seq
};

}  // namespace chitu::cuda
