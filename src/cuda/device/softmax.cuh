// Online softmax on wgmma accumulators. A thread holds two rows: s[4i + {0, 1}] and s[4i + {2, 3}], columns 8i + 2 * (lane % 4) + {0, 1}.
#pragma once
#include <climits>
#include <cstdint>

#include "cuda/device/ptx/mma.cuh"
#include "cuda/device/ptx/wgmma.cuh"

namespace chitu::cuda {

__device__ __forceinline__ float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
  return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}

__device__ __forceinline__ float quad_sum(float x) {
  x += __shfl_xor_sync(~0u, x, 1);
  return x + __shfl_xor_sync(~0u, x, 2);
}

__device__ __forceinline__ int score_max(int a, int b) { return max(a, b); }
__device__ __forceinline__ float score_max(float a, float b) { return fmaxf(a, b); }
__device__ __forceinline__ float to_f32(int x) { return __int2float_rn(x); }
__device__ __forceinline__ float to_f32(float x) { return x; }

template <class Score>
constexpr Score kLowest = Score(-__builtin_huge_valf());
template <>
inline constexpr int kLowest<int> = INT_MIN;

// Columns of a row that are visible, relative to this thread's first column of the tile: first <= 8i + e < first + count.
struct VisibleColumns {
  int first, count;
};

__device__ __forceinline__ bool visible(VisibleColumns v, int column) {
  return static_cast<unsigned>(column - v.first) < static_cast<unsigned>(v.count);
}

// The thread's two rows of a tile: p = 2^(s * factor + bias - m + offset). Columns count from the thread's first; from(n): the same, counted from column n.
struct RowScale {
  float c[2], bias[2];

  __device__ __forceinline__ void set(int, float c0, float c1) { c[0] = c0, c[1] = c1; }
  __device__ __forceinline__ void factors(int r, int, float (&f)[2]) const { f[0] = f[1] = c[r]; }
};

// A factor for each block of 64 keys.
template <int kBlocks>
struct BlockScale {
  float c[kBlocks][2], bias[2];

  __device__ __forceinline__ void set(int block, float c0, float c1) { c[block][0] = c0, c[block][1] = c1; }
  __device__ __forceinline__ float factor(int r, int column) const { return kBlocks == 1 || column < 64 ? c[0][r] : c[kBlocks - 1][r]; }
  __device__ __forceinline__ void factors(int r, int column, float (&f)[2]) const { f[0] = f[1] = factor(r, column); }
  __device__ __forceinline__ RowScale from(int column) const { return {{factor(0, column), factor(1, column)}, {bias[0], bias[1]}}; }
};

// A factor for each key.
struct TokenScale {
  float c[2], bias[2];
  const float* token;  // of the thread's first column

  __device__ __forceinline__ void factors(int r, int column, float (&f)[2]) const {
    const float2 t = *reinterpret_cast<const float2*>(token + column);
    f[0] = __fmul_rn(c[r], t.x);
    f[1] = __fmul_rn(c[r], t.y);
  }
  __device__ __forceinline__ TokenScale from(int column) const { return {{c[0], c[1]}, {bias[0], bias[1]}, token + column}; }
};

// Running state of the thread's two rows: m is the reference the weights are taken against, l this thread's share of their sum.
struct RowState {
  float m[2], l[2], alpha[2];
  bool rescale;  // uniform in the warp: o must be multiplied by alpha

  __device__ __forceinline__ void reset() {
    m[0] = m[1] = -__builtin_huge_valf();
    l[0] = l[1] = 0.f;
    rescale = false;
  }
};

// Logits of this size and more leave their product's exact value octaves away from its rounded one, which m is made of: a row whose base reaches it takes
// rounded products.
constexpr float kHuge = 1048576.f;
__device__ __forceinline__ bool is_huge(float base) { return fabsf(base) >= kHuge; }

// The logit that m and base are made of, without its bias.
template <class Score>
__device__ __forceinline__ float rounded_logit(Score s, float c) {
  return __fmul_rn(to_f32(s), c);
}

// Scores to packed weights. Masked columns get 0, by predicate. sum: of the unrounded weights, two terms per row. kHugeRows: rows may be huge.
// block: of 8 keys, the scores' first in the tile.
template <bool kMasked, bool kBf16, bool kHugeRows = false, int kCount, class Score, class Scale>
__device__ __forceinline__ void make_weights(const Score (&s)[kCount], uint32_t (&packed)[kCount / 2], float (&sum)[4], const float (&base)[2],
                                             const Scale& scale, const VisibleColumns (&columns)[2], int block = 0) {
#pragma unroll
  for (int i = 0; i < kCount; i += 2) {
    int r = i / 2 % 2;
    float p[2], c[2];
    scale.factors(r, (block + i / 4) * 8, c);
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      float x = fmaf(to_f32(s[i + e]), c[e], base[r]);
      if constexpr (kHugeRows) x = is_huge(base[r]) ? __fadd_rn(rounded_logit(s[i + e], c[e]), base[r]) : x;
      if constexpr (kMasked) x = visible(columns[r], (block + i / 4) * 8 + e) ? x : kLowest<float>;
      p[e] = ptx::exp2_approx(x);
      sum[r * 2 + e] += p[e];
    }
    packed[i / 2] = kBf16 ? ptx::pack_bf16(p[0], p[1]) : ptx::pack_f16(p[0], p[1]);
  }
}

// The largest value this thread sees in each row, the lowest if none is visible. block: as above.
template <bool kMasked, int kCount, class Value>
__device__ __forceinline__ void largest_visible(const Value (&s)[kCount], Value (&largest)[2], const VisibleColumns (&columns)[2], int block) {
  constexpr int kChains = 4;  // independent maxima per row: one chain alone would wait for itself
  Value top[2][kChains];
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    int r = i / 2 % 2, chain = i / 4 % kChains;
    Value x = s[i];
    if constexpr (kMasked) x = visible(columns[r], (block + i / 4) * 8 + i % 2) ? x : kLowest<Value>;
    top[r][chain] = i / 4 < kChains && i % 2 == 0 ? x : score_max(top[r][chain], x);
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) largest[r] = score_max(score_max(top[r][0], top[r][1]), score_max(top[r][2], top[r][3]));
}

// The largest logit this thread sees in each row, -inf if none is visible. block: as above.
template <bool kMasked, int kCount, class Score>
__device__ __forceinline__ void row_levels(const Score (&s)[kCount], float (&level)[2], const RowScale& scale, const VisibleColumns (&columns)[2],
                                           int block = 0) {
  Score top[2];
  largest_visible<kMasked>(s, top, columns, block);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    level[r] = __fadd_rn(rounded_logit(top[r], scale.c[r]), scale.bias[r]);
    if (kMasked && top[r] == kLowest<Score>) level[r] = kLowest<float>;
  }
}

template <bool kMasked, int kCount, class Score, int kBlocks>
__device__ __forceinline__ void row_levels(const Score (&s)[kCount], float (&level)[2], const BlockScale<kBlocks>& scale, const VisibleColumns (&columns)[2]) {
  constexpr int kPart = kCount / kBlocks;
#pragma unroll
  for (int b = 0; b < kBlocks; ++b) {
    float of_block[2];
    row_levels<kMasked>(reinterpret_cast<const Score(&)[kPart]>(s[b * kPart]), of_block, scale.from(b * 64), columns, b * 8);
#pragma unroll
    for (int r = 0; r < 2; ++r) level[r] = b == 0 ? of_block[r] : fmaxf(level[r], of_block[r]);
  }
}

template <bool kMasked, int kCount, class Score>
__device__ __forceinline__ void row_levels(const Score (&s)[kCount], float (&level)[2], const TokenScale& scale, const VisibleColumns (&columns)[2]) {
  float x[kCount], c[2];
#pragma unroll
  for (int i = 0; i < kCount; i += 2) {
    scale.factors(i / 2 % 2, i / 4 * 8, c);
    x[i] = rounded_logit(s[i], c[0]);
    x[i + 1] = rounded_logit(s[i + 1], c[1]);
  }
  largest_visible<kMasked>(x, level, columns, 0);
}

// A row whose weights may have left the range of the tensor cores moves its m to the tile's maximum. Both tests look at one row only, so
// a row's bits do not depend on its neighbours.
constexpr float kSlack = 3.f;  // octaves above m that are left alone: 32 weights of a thread then sum to at most kWeightLimit
template <bool kBf16>
constexpr float kWeightLimit = kBf16 ? 0x1p8f : 0x1p15f;

__device__ __forceinline__ void raise_reference(RowState& row, const float (&level)[2], const bool (&outgrown)[2]) {
  row.rescale = true;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float top = quad_max(level[r]);
    bool moves = quad_max(outgrown[r] ? 1.f : 0.f) > 0.f && top > row.m[r] + kSlack;
    row.alpha[r] = moves ? ptx::exp2_approx(row.m[r] - top) : 1.f;
    row.m[r] = moves ? top : row.m[r];
    row.l[r] *= row.alpha[r];
  }
}

}  // namespace chitu::cuda
