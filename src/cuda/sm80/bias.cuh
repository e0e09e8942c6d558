// bias[i, T] = softmax_scale * log2(e) * (q_i . mean of tile T), eight tiles at a time: those of a block one after the other, or every `stride`-th.
#pragma once
#include "cuda/sm80/tiles.cuh"

namespace chitu::cuda::sm80 {

constexpr int kBiasTiles = 8;

// A thread ends with its two rows and the tiles 2t, 2t + 1 of the eight.
struct TileBias {
  float value[4];

  // index: of the tile among those `stride` apart.
  __device__ __forceinline__ float of(int index, int r) const {
    const float mine = index & 1 ? value[2 * r + 1] : value[2 * r];
    return __shfl_sync(~0u, mine, (threadIdx.x & 28) | (index % kBiasTiles >> 1));
  }

  template <class T>
  __device__ __forceinline__ void compute(const AttentionParams& p, const Work& w, const RowPlace (&place)[2], int first_tile, int stride) {
    const int lane = threadIdx.x % 32, last_tile = (w.k_len - 1) / kTile, dim = code_dim(p.head_dim);
    const std::int64_t mean_row = (w.tensor_batch * p.heads_kv + w.head_kv) * p.sequence.tiles_k + w.tile0;
    const std::int64_t rows[2] = {w.q_begin + min(place[0].row, w.q_len - 1), w.q_begin + min(place[1].row, w.q_len - 1)};
#pragma unroll
    for (int e = 0; e < 4; ++e) value[e] = 0.0f;
    if (p.q.dtype == DType::f32) {
      in_f32<T>(p, w, rows, place, mean_row, first_tile + lane % 4 * 2 * stride, stride, last_tile, dim);
    } else {
      const uint16_t* q[2] = {row_of<uint16_t>(p.q, w.tensor_batch, rows[0], place[0].head), row_of<uint16_t>(p.q, w.tensor_batch, rows[1], place[1].head)};
      const uint16_t* mean = static_cast<const uint16_t*>(p.k_mean) + (mean_row + min(first_tile + lane / 4 * stride, last_tile)) * dim + lane % 4 * 2;
#pragma unroll 4  // loads of four steps in flight: nothing else hides them
      for (int d = 0; d < dim; d += 16) {
        uint32_t a[4];
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          const int at = d + k / 2 * 8 + lane % 4 * 2;
          a[k] = k % 2 < T::kHalves ? load_pair(q[k % 2] + at, p.head_dim - at) : 0;
        }
        const uint32_t b0 = *reinterpret_cast<const uint32_t*>(mean + d), b1 = *reinterpret_cast<const uint32_t*>(mean + d + 8);
        if (p.q.dtype == DType::f16) {
          ptx::mma_m16n8k16_f16(value, a, b0, b1);
        } else {
          ptx::mma_m16n8k16_bf16(value, a, b0, b1);
        }
      }
    }
#pragma unroll
    for (int e = 0; e < 4; ++e) value[e] *= p.bias_log2;
  }

 private:
  // f32 inputs keep f32 means, and no tensor core instruction multiplies them exactly.
  template <class T>
  __device__ __forceinline__ void in_f32(const AttentionParams& p, const Work& w, const std::int64_t (&rows)[2], const RowPlace (&place)[2],
                                         std::int64_t mean_row, int tile, int stride, int last_tile, int dim) {
    const float* mean = static_cast<const float*>(p.k_mean) + (mean_row + tile) * dim;
#pragma unroll
    for (int e = 0; e < 2 * T::kHalves; ++e) {
      if (tile + e % 2 * stride > last_tile) continue;
      const float* q = row_of<float>(p.q, w.tensor_batch, rows[e / 2], place[e / 2].head);
#pragma unroll 1
      for (int d = 0; d < p.head_dim; ++d) value[e] = fmaf(q[d], mean[e % 2 * stride * dim + d], value[e]);
    }
  }
};

}  // namespace chitu::cuda::sm80
