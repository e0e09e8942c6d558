// What the sm_90 attention kernels read and write. Plain numbers and device pointers; shapes are row-major, strides count elements.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

#include "cuda/params.h"

namespace chitu::cuda::sm90 {

enum class Float : int { f16, bf16, f32 };

// A [batch, seqlen, num_heads, head_dim] view; head_dim has stride 1.
struct View {
  const void* data;
  int64_t batch_stride, seq_stride, head_stride;
};

// The work of packed sequences: sequences of the longest keys first, each cut into as many pieces as its own rows need.
struct PieceOrder {
  int32_t* sequence;     // [batch]
  int32_t* first_piece;  // [batch + 1]: pieces of those before
};

constexpr int64_t kUnbounded = int64_t{1} << 40;  // window_left / window_right of a side without a bound

struct AttentionParams {
  // Made by the pre-pass; 16-byte aligned. tiles_k = ceil(seqlen_k / 128). Codes of padding rows are never used. Packed sequences: a batch of one, which all
  // share, and sizes as in Sequence (src/cuda/params.h).
  const int8_t* q8;      // [batch, num_heads_q, seqlen_q_padded, head_dim]; negated when softmax_scale < 0
  const float* q_scale;  // [batch, num_heads_q, seqlen_q_padded]; rows beyond seqlen_q may hold anything
  const int8_t* k8;      // [batch, num_heads_kv, tiles_k, 128, head_dim]
  const float* k_scale;  // [batch, num_heads_kv, tiles_k, 128 / k_block, 4]: group g = tokens 8i + 2g + {0, 1} of the block; k_block 1: [.., tiles_k, 128]
  const void* k_mean;    // [batch, num_heads_kv, tiles_k, head_dim], dtype `input`; null: no tile bias
  const float* bias;     // [batch, num_heads_q, tiles_k, seqlen_q_padded], log2 units; takes the place of q . k_mean; null: computed here

  // 8-bit PV, but for v_scale and mean_dot.
  const void* v8t;           // [batch, num_heads_kv, tiles_k, head_dim, 128]: e4m3 or int8 codes, keys of 16 in the order of value_position (src/cuda/params.h)
  const float* v_scale;      // [batch, num_heads_kv, head_dim], also of packed sequences; null: none (16-bit V)
  const float* token_scale;  // chitu_int8: [.., tiles_k, 128]; the first is that of a plain tile
  const float* tile_mean;    // chitu_int8: [.., tiles_k, head_dim]: mean of the codes
  const float* shift_limit;  // chitu_int8: [.., tiles_k]: bounds the correction in a flagged tile, 0 in a plain one
  const float* mean_dot;     // [batch, num_heads_q, seqlen_q_padded], added to lse; null: none

  // The caller's tensors. 16-byte aligned rows: see supports().
  View q, k, v;          // dtype `input`; q is read for the bias (and by `exact`), k only by `exact`, v in 16 bits, perhaps a copy
  void* out;             // dtype `output`
  int64_t out_batch_stride, out_seq_stride, out_head_stride;
  float* lse;            // natural log; null: not wanted
  int64_t lse_batch_stride, lse_head_stride, lse_seq_stride;
  const int32_t* seqlens_k;  // [batch] on the device: keys of each sequence, clamped to seqlen_k; null: seqlen_k
  int32_t* work_counter;     // one int, zero when the kernel starts; null: static schedule

  // Packed sequences: offsets of rows of q and out, of k and v, [batch + 1] on the device; memory that the launch fills, and work_counter with it.
  const int32_t *cu_seqlens_q, *cu_seqlens_k;
  PieceOrder order;

  Float input, output;
  int batch, num_heads_q, num_heads_kv, head_dim;  // batch: sequences
  int seqlen_q, seqlen_k;                          // seqlen_k: keys the views of k and v hold; packed: no sequence is longer
  int total_q, total_k;                            // packed: rows the views hold
  int seqlen_q_padded, tiles_k;
  bool packed;
  float softmax_scale;     // may be negative (8-bit methods)
  int k_block;             // keys that share scales: 128, the peers' methods also 64 or 1
  // Key j is visible to query i iff i + diagonal - window_left <= j <= i + diagonal + window_right.
  int64_t window_left, window_right;
  int64_t diagonal;
  bool diagonal_from_length;  // diagonal = keys of the sequence - seqlen_q, per sequence (bottom-right)
  int num_sms;                // CTAs of the persistent grid

  CHITU_HD Sequence sequence() const {
    return {cu_seqlens_q, cu_seqlens_k, seqlens_k, seqlen_q, seqlen_k, total_q, total_k, seqlen_q_padded, tiles_k, batch, packed};
  }
  // What the tensors hold.
  int tensor_batch() const { return packed ? 1 : batch; }
  int rows_q() const { return packed ? total_q : seqlen_q; }
  int rows_k() const { return packed ? total_k : seqlen_k; }
};

// Row names of src/cuda/kernels.cc. Launches check nothing that supports() checks, allocate nothing, never synchronise.
const char* supports_int8_f16(const AttentionParams& p);  // null, or the reason why not
cudaError_t launch_int8_f16(const AttentionParams& p, cudaStream_t stream);
// sage1 and int_flash_half: no tile bias, any k_block.
cudaError_t launch_int8_f16_peers(const AttentionParams& p, cudaStream_t stream);
// PV of 8 bits: v8t and what belongs to it instead of v.
const char* supports_8bit(const AttentionParams& p);
cudaError_t launch_int8_f8(const AttentionParams& p, cudaStream_t stream);          // chitu_fast
cudaError_t launch_int8_f8_running(const AttentionParams& p, cudaStream_t stream);  // sage2
cudaError_t launch_int8_i8(const AttentionParams& p, cudaStream_t stream);          // chitu_int8
cudaError_t launch_int8_i8_running(const AttentionParams& p, cudaStream_t stream);  // int_flash
const char* supports_f16_f16(const AttentionParams& p);
cudaError_t launch_f16_f16(const AttentionParams& p, cudaStream_t stream);

// Fills p.order and zeroes the counter; tile_m: rows of a piece.
cudaError_t order_pieces(const AttentionParams& p, int tile_m, cudaStream_t stream);

}  // namespace chitu::cuda::sm90
