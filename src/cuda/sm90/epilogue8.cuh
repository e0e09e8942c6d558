// O * v_scale / l to the caller's rows, lse, for 8-bit PV.
#pragma once
#include "epilogue.cuh"
#include "softmax8.cuh"

namespace chitu::cuda::sm90 {

template <class T>
__device__ __forceinline__ void epilogue8(const AttentionParams& p, const Work& w, float (&o)[T::kHeadDim / 2], const RowState8& state, int row, int lane) {
  // What P of the largest weight is; chitu_int8 folds its 255 into the factors, and its sums are already those of the quad.
  constexpr float kLog2Range = T::kWeights == Weights::e4m3_tile ? 8.f : T::kRunning ? kLog2RunningRange<T::kWeights> : 0.f;
  constexpr bool kWholeRow = T::kWeights == Weights::u8_tile, kOneSum = T::kRunning;
  const Place at = place_of(p, w.sequence);
  const int q = lane % 4;
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
      if (sum != 0.f) lse += mean_dot(p, at, w.head, i);
      p.lse[lse_offset(p, at, w.head, i)] = lse;
    }
  }
  scale_channels<T::kHeadDim>(p, w, o, factor, empty, q);
  store_row<T::kHeadDim, 0>(p, at, w.head, o, row, 1.f, q);
  store_row<T::kHeadDim, 1>(p, at, w.head, o, row + 8, 1.f, q);
}

}  // namespace chitu::cuda::sm90
