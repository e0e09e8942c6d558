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
      auto f16 = [&](const uint32_t(&a)[4], uint32_t b0, uint32_t b1) { ptx::mma_m16n8k16_f16(value, a, b0, b1); };
      auto bf16 = [&](const uint32_t(&a)[4], uint32_t b0, uint32_t b1) { ptx::mma_m16n8k16_bf16(value, a, b0, b1); };
      if (T::kEagerBias && p.q.aligned16 && p.head_dim % 16 == 0) {
        if (p.q.dtype == DType::f16) {
          in_16_bits<T, true>(q, mean, p.head_dim, dim, f16);
        } else {
          in_16_bits<T, true>(q, mean, p.head_dim, dim, bf16);
        }
      } else {
        in_16_bits<T, false>(q, mean, p.head_dim, dim,
                             [&](const uint32_t(&a)[4], uint32_t b0, uint32_t b1) { p.q.dtype == DType::f16 ? f16(a, b0, b1) : bf16(a, b0, b1); });
      }
    }
#pragma unroll
    for (int e = 0; e < 4; ++e) value[e] *= p.bias_log2;
  }

 private:
  // kWords: any pair of q is a word inside of its row. Without a branch between them the loads of four steps are on their way together.
  template <class T, bool kWords, class Multiply>
  __device__ __forceinline__ static void in_16_bits(const uint16_t* const (&q)[2], const uint16_t* mean, int head_dim, int dim, Multiply multiply) {
#pragma unroll 4
    for (int d = 0; d < dim; d += 16) {
      uint32_t a[4];
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const int at = d + k / 2 * 8 + threadIdx.x % 4 * 2;
        if (k % 2 >= T::kHalves) {
          a[k] = 0;
        } else if constexpr (kWords) {
          a[k] = *reinterpret_cast<const uint32_t*>(q[k % 2] + at);
        } else {
          a[k] = load_pair(q[k % 2] + at, head_dim - at);
        }
      }
      multiply(a, *reinterpret_cast<const uint32_t*>(mean + d), *reinterpret_cast<const uint32_t*>(mean + d + 8));
    }
  }

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
