// Scores to weights: masks, the running state of a thread's two rows, and the rounding of P.
//
// A thread holds x[j][e]: row g (e < 2) or g + 8, key 8j + 2t + e % 2 of the tile, g = lane / 4, t = lane % 4; log2 units.
#pragma once
#include <cuda_fp16.h>

#include "cuda/sm80/tiles.cuh"

namespace chitu::cuda::sm80 {

__device__ __forceinline__ float quad_max(float x) {
  x = ptx::max_nan(x, __shfl_xor_sync(~0u, x, 1));
  return ptx::max_nan(x, __shfl_xor_sync(~0u, x, 2));
}
__device__ __forceinline__ float quad_sum(float x) {
  x += __shfl_xor_sync(~0u, x, 1);
  return x + __shfl_xor_sync(~0u, x, 2);
}
__device__ __forceinline__ uint32_t quad_sum(uint32_t x) {
  x += __shfl_xor_sync(~0u, x, 1);
  return x + __shfl_xor_sync(~0u, x, 2);
}

struct RowState {
  float m[2], l[2], lse_sum[2];  // maximum; normaliser; sum of unrounded P. The sums are this thread's share, except with u8 P and where
                                 // the rounded P are summed

  __device__ __forceinline__ void reset() {
#pragma unroll
    for (int r = 0; r < 2; ++r) m[r] = minus_infinity(), l[r] = lse_sum[r] = 0.0f;
  }
};

// How a tile joins the output: o = o * keep + product * weight (+ shift * mean of V's codes, u8 only).
struct Fold {
  float keep[2], weight[2], shift[2];
  bool shifted;  // uniform in the warp
};

template <class T>
__device__ __forceinline__ void mask_band(const Work& w, const RowPlace (&place)[2], int n, float (&x)[T::kBlocks][4]) {
  const int first_key = n * T::kTileN + threadIdx.x % 4 * 2;
#pragma unroll
  for (int r = 0; r < T::kHalves; ++r) {
    const core::KeyRange keys = w.keys(place[r].row);
    const int lo = static_cast<int>(keys.begin) - first_key, count = static_cast<int>(keys.end - keys.begin);
#pragma unroll
    for (int j = 0; j < T::kBlocks; ++j)
#pragma unroll
      for (int e = 0; e < 2; ++e)
        if (static_cast<unsigned>(8 * j + e - lo) >= static_cast<unsigned>(count)) x[j][2 * r + e] = minus_infinity();
  }
}

template <class T>
__device__ __forceinline__ void mask_dense(const AttentionParams& p, const Work& w, int i, int n, float (&x)[T::kBlocks][4]) {
  const int first_key = n * T::kTileN + threadIdx.x % 4 * 2;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int row = min(i + 8 * r, w.q_len - 1);
    const std::int64_t base = w.batch * p.dense_batch + w.head * p.dense_head + row * p.dense_row;
#pragma unroll
    for (int j = 0; j < T::kBlocks; ++j)
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int key = first_key + 8 * j + e;
        if (key >= w.k_len) continue;
        const std::int64_t at = base + key * p.dense_col;
        float& y = x[j][2 * r + e];
        if (p.dense_dtype == DType::boolean) {
          if (static_cast<const uint8_t*>(p.dense)[at] == 0) y = minus_infinity();
        } else {
          float a;
          if (p.dense_dtype == DType::f32) {
            a = static_cast<const float*>(p.dense)[at];
          } else {
            const uint16_t bits = static_cast<const uint16_t*>(p.dense)[at];
            a = p.dense_dtype == DType::f16 ? __half2float(__ushort_as_half(bits)) : core::bf16_to_f32(bits);
          }
          if (y != minus_infinity()) y += a * kLog2e;  // a key outside the band stays hidden even under +Inf
        }
      }
  }
}

template <class T>
__device__ __forceinline__ void row_max(const float (&x)[T::kBlocks][4], float (&top)[2]) {
  top[1] = minus_infinity();
#pragma unroll
  for (int r = 0; r < T::kHalves; ++r) {
    float a = ptx::max_nan(x[0][2 * r], x[0][2 * r + 1]);
#pragma unroll
    for (int j = 1; j < T::kBlocks; ++j) a = ptx::max_nan(a, ptx::max_nan(x[j][2 * r], x[j][2 * r + 1]));
    top[r] = quad_max(a);
  }
}

// x <- 2^(x + offset), and this thread's share of the sums.
template <class T>
__device__ __forceinline__ void exponentials(float (&x)[T::kBlocks][4], const float (&offset)[2], float (&sum)[2]) {
  float part[4] = {};
#pragma unroll
  for (int j = 0; j < T::kBlocks; ++j)
#pragma unroll
    for (int e = 0; e < 2 * T::kHalves; ++e) {
      x[j][e] = ptx::exp2_approx(x[j][e] + offset[e / 2]);
      part[e] += x[j][e];
    }
  sum[0] = part[0] + part[1];
  sum[1] = part[2] + part[3];
}

__device__ __forceinline__ float finite_or_zero_max(float m) { return m == minus_infinity() ? 0.0f : m; }

// The running maximum of each row with the tile's level; keep = what earlier sums are multiplied by.
template <class T>
__device__ __forceinline__ void raise(const float (&level)[2], const float (&slack)[2], RowState& state, float (&keep)[2]) {
#pragma unroll
  for (int r = 0; r < T::kHalves; ++r) {
    const float m1 = level[r] <= state.m[r] + slack[r] ? state.m[r] : level[r];
    keep[r] = m1 == state.m[r] ? 1.0f : ptx::exp2_approx(state.m[r] - m1);
    state.m[r] = m1;
  }
}

template <bool kBf16>
__device__ __forceinline__ uint32_t pack16(float a, float b) {
  return kBf16 ? ptx::pack_bf16(a, b) : ptx::pack_f16(a, b);
}

// Two non-negative f32 rounded to e4m3, as f16.
__device__ __forceinline__ uint32_t round_e4m3(float a, float b) {
#if __CUDA_ARCH__ >= 890
  return ptx::unpack_e4m3(ptx::pack_e4m3(a, b));
#else
  auto round = [](float x) {
    if (x < 0.015625f) return (x + 16384.0f) - 16384.0f;  // subnormal step 2^-9; NaN falls through
    const uint32_t u = __float_as_uint(x);
    return fminf(__uint_as_float((u + 0x7ffffu + ((u >> 20) & 1)) & 0xfff00000u), 448.0f);
  };
  return ptx::pack_f16(round(a), round(b));
#endif
}

// Four bytes, low byte of each.
__device__ __forceinline__ uint32_t pack_bytes(uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
  return __byte_perm(__byte_perm(a, b, 0x0040), __byte_perm(c, d, 0x0040), 0x5410);
}

// Larger scores are not left behind by a lagging maximum: rounding them could add octaves to its lag, and f16 has none to spare.
constexpr float kLazyLimit = 1048576.0f;

// P of f16 and bf16: against the running maximum, which may lag by p.lazy_octaves.
template <class T>
__device__ __forceinline__ void weights_half(const AttentionParams& p, const float (&bias)[2], float (&x)[T::kBlocks][4], uint32_t (&pk)[T::kWords],
                                             RowState& state, Fold& fold) {
  float top[2], offset[2], sum[2];
  row_max<T>(x, top);
  const float level[2] = {top[0] + bias[0], top[1] + bias[1]};
  const float slack[2] = {fabsf(top[0]) < kLazyLimit ? p.lazy_octaves : 0.0f, fabsf(top[1]) < kLazyLimit ? p.lazy_octaves : 0.0f};
  raise<T>(level, slack, state, fold.keep);
  // bias - m, but not by way of the bias: where it is huge, its rounding would put the level octaves away from the tile's largest key
#pragma unroll
  for (int r = 0; r < 2; ++r) offset[r] = (top[r] == minus_infinity() ? 0.0f : level[r] - state.m[r] - top[r]) + p.range_log2;
  exponentials<T>(x, offset, sum);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    state.l[r] = state.l[r] * fold.keep[r] + sum[r];
    fold.weight[r] = 1.0f;
  }
#pragma unroll
  for (int j = 0; j < T::kBlocks; ++j)
#pragma unroll
    for (int r = 0; r < 2; ++r) pk[2 * j + r] = pack16<T::kPv == Pv::bf16>(x[j][2 * r], x[j][2 * r + 1]);
}

// P of e4m3, against the running maximum (sage2) or the tile's own (chitu_fast).
template <class T>
__device__ __forceinline__ void weights_e4m3(const AttentionParams& p, const float (&bias)[2], float (&x)[T::kBlocks][4], uint32_t (&pk)[T::kWords],
                                             RowState& state, Fold& fold) {
  float top[2], offset[2], sum[2];
  row_max<T>(x, top);
  const float level[2] = {top[0] + bias[0], top[1] + bias[1]};
  raise<T>(level, {0.0f, 0.0f}, state, fold.keep);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const float m = finite_or_zero_max(state.m[r]);
    offset[r] = (p.tile_reference ? -finite_or_zero_max(top[r]) : bias[r] - m) + p.range_log2;
    fold.weight[r] = p.tile_reference ? ptx::exp2_approx(level[r] - m) : 1.0f;
  }
  exponentials<T>(x, offset, sum);
#pragma unroll
  for (int j = 0; j < T::kBlocks; ++j)
#pragma unroll
    for (int r = 0; r < 2; ++r) pk[2 * j + r] = round_e4m3(x[j][2 * r], x[j][2 * r + 1]);
  float total[4] = {};  // rows g, g, g + 8, g + 8: sums of the rounded P over all keys, by a column of ones
  if (p.sum_quantized) {
#pragma unroll
    for (int u = 0; u < T::kTileN / 16; ++u) {
      const uint32_t a[4] = {pk[4 * u], pk[4 * u + 1], pk[4 * u + 2], pk[4 * u + 3]};
      ptx::mma_m16n8k16_f16(total, a, 0x3c003c00u, 0x3c003c00u);
    }
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    state.l[r] = state.l[r] * fold.keep[r] + fold.weight[r] * (p.sum_quantized ? total[2 * r] : sum[r]);
    state.lse_sum[r] = state.lse_sum[r] * fold.keep[r] + fold.weight[r] * sum[r];
  }
}

// 8-bit codes of P in [0, 1] and this thread's share of their sum. 2^23 has ulp 1: the product is rounded to an integer in the low byte.
template <class T>
__device__ __forceinline__ void codes_of_p(const float (&x)[T::kBlocks][4], float range, uint32_t (&pk)[T::kWords], uint32_t (&sum)[2]) {
  constexpr float kMagic = 8388608.0f;
  sum[0] = sum[1] = 0;
#pragma unroll
  for (int j = 0; j < T::kBlocks; j += 2)
#pragma unroll
    for (int r = 0; r < T::kHalves; ++r) {
      uint32_t c[4];
#pragma unroll
      for (int e = 0; e < 4; ++e) c[e] = __float_as_uint(fmaf(x[j + e / 2][2 * r + e % 2], range, kMagic));
      const uint32_t word = pack_bytes(c[0], c[1], c[2], c[3]);
      pk[j + r] = word;
      sum[r] = __dp4a(word, 0x01010101u, sum[r]);
    }
}

// int_flash: P of 0..127 against the running maximum, normalised by the sum before rounding.
template <class T>
__device__ __forceinline__ void weights_s8(const float (&bias)[2], float (&x)[T::kBlocks][4], uint32_t (&pk)[T::kWords], RowState& state, Fold& fold) {
  float top[2], offset[2], sum[2];
  row_max<T>(x, top);
  const float level[2] = {top[0] + bias[0], top[1] + bias[1]};
  raise<T>(level, {0.0f, 0.0f}, state, fold.keep);
#pragma unroll
  for (int r = 0; r < 2; ++r) offset[r] = bias[r] - finite_or_zero_max(state.m[r]);
  exponentials<T>(x, offset, sum);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    state.l[r] = state.l[r] * fold.keep[r] + sum[r];
    fold.weight[r] = 1.0f / 127.0f;
  }
  uint32_t unused[2];
  codes_of_p<T>(x, 127.0f, pk, unused);
}

// What chitu_int8 needs of a tile of V.
struct ValueTile {
  const float* token_scale;  // of this thread's first key
  float tile_scale;
  float shift_limit;  // 0: a plain tile

  static __device__ __forceinline__ ValueTile load(const AttentionParams& p, std::int64_t tile) {
    const float* t = p.token_scale + tile * kTile;
    return {t + threadIdx.x % 4 * 2, t[0], p.shift_limit[tile]};
  }
};

// chitu_int8 (docs/methods.md part 2): u8 against the tile's maximum, three sums, the correction of dominated rows.
template <class T>
__device__ __forceinline__ void weights_u8(const ValueTile& v, const float (&bias)[2], float (&x)[T::kBlocks][4], uint32_t (&pk)[T::kWords], RowState& state,
                                           Fold& fold) {
  float top[2], reference[2], raw[2], visible[2] = {};
  row_max<T>(x, top);
  const float level[2] = {top[0] + bias[0], top[1] + bias[1]};
  raise<T>(level, {0.0f, 0.0f}, state, fold.keep);
  const bool flagged = v.shift_limit != 0.0f;
  if (flagged) {
#pragma unroll
    for (int j = 0; j < T::kBlocks; ++j) {
      const float2 t = *reinterpret_cast<const float2*>(v.token_scale + 8 * j);
      const float log_t[2] = {__log2f(t.x), __log2f(t.y)};
#pragma unroll
      for (int e = 0; e < 2 * T::kHalves; ++e) {
        const float below = x[j][e] - finite_or_zero_max(top[e / 2]);  // first, so that a huge score swallows no log2 t
        visible[e / 2] += ptx::exp2_approx(below);
        x[j][e] = below + log_t[e % 2];
      }
    }
    row_max<T>(x, reference);  // counted from top
  } else {
    reference[0] = top[0];
    reference[1] = top[1];
  }
  const float offset[2] = {-finite_or_zero_max(reference[0]), -finite_or_zero_max(reference[1])};
  exponentials<T>(x, offset, raw);
  uint32_t codes[2];
  codes_of_p<T>(x, 255.0f, pk, codes);
  bool any = false;
#pragma unroll
  for (int r = 0; r < T::kHalves; ++r) {
    const float sum = quad_sum(raw[r]), rounded = static_cast<float>(quad_sum(codes[r])) * (1.0f / 255.0f), lost = sum - rounded;
    const float true_sum = flagged ? quad_sum(visible[r]) : sum;
    const bool correct = flagged || fabsf(lost) > sum * 0.015625f;
    const float m = finite_or_zero_max(state.m[r]);
    const float e = ptx::exp2_approx(level[r] - m);
    float weight = flagged ? e * ptx::exp2_approx(reference[r]) : v.tile_scale * e;
    if (top[r] == minus_infinity()) weight = 0.0f;  // a row that sees nothing of the tile is not touched by a NaN scale
    state.l[r] = state.l[r] * fold.keep[r] + e * (correct ? true_sum : rounded);
    state.lse_sum[r] = state.lse_sum[r] * fold.keep[r] + e * true_sum;
    fold.weight[r] = weight * (1.0f / 255.0f);
    fold.shift[r] = correct ? weight * lost : 0.0f;
    if (flagged) {
      const float most = e * true_sum * v.shift_limit;
      fold.shift[r] = fmaxf(-most, fminf(most, fold.shift[r]));
    }
    any = any || (correct && weight != 0.0f);
  }
  fold.shifted = __any_sync(~0u, any);
}

}  // namespace chitu::cuda::sm80
