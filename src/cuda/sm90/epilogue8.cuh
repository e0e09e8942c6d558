// O * v_scale / l to the caller's rows, lse, for 8-bit PV.
#pragma once
#include "epilogue.cuh"
#include "softmax8.cuh"

namespace chitu::cuda::sm90 {

template <class T>
__device__ __forceinline__ void epilogue8(const AttentionParams& p, const Work& w, float (&o)[T::kHeadDim / 2], const RowState8& state, int row, int lane) {
  // What P of the largest weight is; chitu_int8 folds its 255 into the factors, and its sums are already those of the quad.
  constexpr float kLog2Range = T::kWeights == Weights::e4m3_tile ? 8.f : T::kWeights == Weights::e4m3_running ? 8.807354922057604f : 0.f;
  constexpr bool kWholeRow = T::kWeights == Weights::u8_tile, kOneSum = T::kWeights == Weights::e4m3_running;
  const Place at = place_of(p, w.sequence);
  const int q = lane % 4;
  const float* v_scale = p.v_scale + static_cast<int64_t>(w.sequence * p.num_heads_kv + w.head_kv) * T::kHeadDim + q * 2;
  float factor[2];
  bool empty[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const float l = kWholeRow ? state.l[r] : quad_sum(state.l[r]), sum = kOneSum ? l : kWholeRow ? state.lse[r] : quad_sum(state.lse[r]);
    empty[r] = l == 0.f;  // not "l > 0": that would hide NaN
    factor[r] = 1.f / l;
    const int i = row + r * 8;
    if (p.lse && q == 0 && i < at.q_len) {
      float lse = sum == 0.f ? -__builtin_huge_valf() : 0.6931471805599453f * (state.m[r] - kLog2Range + log2f(sum));
      if (p.mean_dot && sum != 0.f) lse += __ldg(p.mean_dot + (static_cast<int64_t>(at.batch) * p.num_heads_q + w.head) * p.seqlen_q_padded + at.q_begin + i);
      p.lse[lse_offset(p, at, w.head, i)] = lse;
    }
  }
#pragma unroll
  for (int j = 0; j < T::kHeadDim / 8; ++j) {
    const float2 scale = __ldg(reinterpret_cast<const float2*>(v_scale + 8 * j));
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      float& x = o[4 * j + e];
      x = empty[e / 2] ? 0.f : x * factor[e / 2] * (e % 2 ? scale.y : scale.x);  // 0 * NaN of a hidden value must not reach the output
    }
  }
  store_row<T::kHeadDim, 0>(p, at, w.head, o, row, 1.f, q);
  store_row<T::kHeadDim, 1>(p, at, w.head, o, row + 8, 1.f, q);
}

}  // namespace chitu::cuda::sm90
