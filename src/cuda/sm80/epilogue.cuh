// Normalised rows and their sums to the caller, or to the partial results of a split.
#pragma once
#include "cuda/sm80/softmax.cuh"

namespace chitu::cuda::sm80 {

__device__ __forceinline__ void store_pair(void* out, DType dtype, std::int64_t at, float a, float b, int valid) {
  if (dtype == DType::f32) {
    float* to = static_cast<float*>(out) + at;
    to[0] = a;
    if (valid > 1) to[1] = b;
    return;
  }
  const uint32_t word = dtype == DType::bf16 ? ptx::pack_bf16(a, b) : ptx::pack_f16(a, b);
  uint16_t* to = static_cast<uint16_t*>(out) + at;
  if (valid > 1 && (reinterpret_cast<uint64_t>(to) & 3) == 0) {
    *reinterpret_cast<uint32_t*>(to) = word;
  } else {
    to[0] = static_cast<uint16_t>(word);
    if (valid > 1) to[1] = static_cast<uint16_t>(word >> 16);
  }
}

// Row of a partial result.
__device__ __forceinline__ std::int64_t partial_row(const Sequence& s, int split, int heads_q, std::int64_t tensor_batch, int head, std::int64_t row) {
  const std::int64_t batches = s.packed ? 1 : s.batch;
  return ((split * batches + tensor_batch) * heads_q + head) * s.q_rows + row;
}

// o: channels 8 * first_block and following, kBlocks blocks of 8.
template <class T, int kBlocks>
__device__ __forceinline__ void epilogue(const AttentionParams& p, const Work& w, const RowPlace (&place)[2], const RowState& state, int first_block,
                                         const float (&o)[kBlocks][4]) {
  const int t = threadIdx.x % 4;
  const float* v_scale = p.v_scale == nullptr ? nullptr : p.v_scale + (static_cast<std::int64_t>(w.batch) * p.heads_kv + w.head_kv) * p.head_dim_v;
#pragma unroll
  for (int r = 0; r < T::kHalves; ++r) {
    constexpr bool kWhole = T::kPv == Pv::u8, kTwoSums = T::kPv == Pv::u8 || T::kPv == Pv::e4m3;
    const float share = quad_sum(state.l[r]);
    const float l = kWhole || p.sum_quantized ? state.l[r] : share;
    const float true_sum = kWhole ? state.lse_sum[r] : kTwoSums ? quad_sum(state.lse_sum[r]) : l;
    const int row = place[r].row, head = place[r].head;
    if (row >= w.q_len) continue;
    const bool empty = l == 0.0f;  // not "l > 0": that would hide NaN
    const float inverse = empty ? 0.0f : 1.0f / l;
    const float log_sum = true_sum == 0.0f ? minus_infinity() : state.m[r] + log2f(true_sum) - p.range_log2;
    std::int64_t at;
    void* out = p.out;
    DType dtype = p.out_dtype;
    if (p.splits > 1) {
      const std::int64_t partial = partial_row(p.sequence, w.split, p.heads_q, w.tensor_batch, head, w.q_row0 + row);
      at = partial * p.head_dim_v;
      out = p.partial_out;
      dtype = DType::f32;
      if (t == 0 && first_block == 0) {
        p.partial_sum[2 * partial] = empty ? minus_infinity() : state.m[r] + log2f(l) - p.range_log2;
        p.partial_sum[2 * partial + 1] = log_sum;
      }
    } else {
      at = w.tensor_batch * p.out_batch + (w.q_begin + row) * p.out_seq + head * p.out_head;
      if (p.lse != nullptr && t == 0 && first_block == 0) {
        float lse = log_sum * 0.6931471805599453f;
        if (p.mean_dot != nullptr && true_sum != 0.0f) {
          lse += p.mean_dot[(w.tensor_batch * p.heads_q + head) * p.sequence.q_rows + w.q_row0 + row];
        }
        p.lse[w.tensor_batch * p.lse_batch + head * p.lse_head + (w.q_begin + row) * p.lse_seq] = lse;
      }
    }
#pragma unroll
    for (int n = 0; n < kBlocks; ++n) {
      const int d = 8 * (first_block + n) + 2 * t, valid = p.head_dim_v - d;
      if (valid <= 0) continue;
      float a = o[n][2 * r] * inverse, b = o[n][2 * r + 1] * inverse;
      if (v_scale != nullptr) {
        a *= v_scale[d];
        if (valid > 1) b *= v_scale[d + 1];
      }
      store_pair(out, dtype, at + d, empty ? 0.0f : a, empty ? 0.0f : b, valid);  // 0 * NaN of a hidden value must not reach the output
    }
  }
}

}  // namespace chitu::cuda::sm80
