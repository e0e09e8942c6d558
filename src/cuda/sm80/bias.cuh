// bias[i, T] = softmax_scale * log2(e) * (q_i . mean of tile T), eight tiles at a time.
#pragma once
#include "cuda/sm80/tiles.cuh"

namespace chitu::cuda::sm80 {

constexpr int kBiasTiles = 8;

// A thread ends with rows i, i + 8 and the tiles 2t, 2t + 1 of the eight.
struct TileBias {
  float value[4];

  __device__ __forceinline__ float of(int tile, int r) const {
    const float mine = tile & 1 ? value[2 * r + 1] : value[2 * r];
    return __shfl_sync(~0u, mine, (threadIdx.x & 28) | (tile % kBiasTiles >> 1));
  }

  __device__ __forceinline__ void compute(const AttentionParams& p, const Work& w, int i, int first_tile) {
    const int lane = threadIdx.x % 32, last_tile = (w.k_len - 1) / kTile, dim = code_dim(p.head_dim);
    const std::int64_t mean_row = (w.tensor_batch * p.heads_kv + w.head_kv) * p.sequence.tiles_k + w.tile0;
    const std::int64_t rows[2] = {w.q_begin + min(i, w.q_len - 1), w.q_begin + min(i + 8, w.q_len - 1)};
#pragma unroll
    for (int e = 0; e < 4; ++e) value[e] = 0.0f;
    if (p.q.dtype == DType::f32) {
      in_f32(p, w, rows, mean_row + first_tile, min(2, last_tile - first_tile - lane % 4 * 2 + 1), dim);
    } else {
      const uint16_t* q[2] = {row_of<uint16_t>(p.q, w.tensor_batch, rows[0], w.head), row_of<uint16_t>(p.q, w.tensor_batch, rows[1], w.head)};
      const uint16_t* mean = static_cast<const uint16_t*>(p.k_mean) + (mean_row + min(first_tile + lane / 4, last_tile)) * dim + lane % 4 * 2;
#pragma unroll 4  // loads of four steps in flight: nothing else hides them
      for (int d = 0; d < dim; d += 16) {
        uint32_t a[4];
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          const int at = d + k / 2 * 8 + lane % 4 * 2;
          a[k] = load_pair(q[k % 2] + at, p.head_dim - at);
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
  __device__ __forceinline__ void in_f32(const AttentionParams& p, const Work& w, const std::int64_t (&rows)[2], std::int64_t mean_row, int tiles, int dim) {
    const float* mean = static_cast<const float*>(p.k_mean) + (mean_row + threadIdx.x % 4 * 2) * dim;
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      if (e % 2 >= tiles) continue;
      const float* q = row_of<float>(p.q, w.tensor_batch, rows[e / 2], w.head);
#pragma unroll 1
      for (int d = 0; d < p.head_dim; ++d) value[e] = fmaf(q[d], mean[e % 2 * dim + d], value[e]);
    }
  }
};

}  // namespace chitu::cuda::sm80
