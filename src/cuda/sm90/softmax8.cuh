// Scores of a tile to 8-bit weights. A thread holds two rows: s[4i + {0, 1}] and s[4i + {2, 3}], keys 8i + 2 * (lane % 4) + {0, 1}; all its keys share one
// scale. Where each has its own, s holds logits from scale_tokens on. Word w of row r, packed[2w + r], holds the keys 16w + 2 * (lane % 4) + {0, 1, 8, 9}: V's
// keys lie in that order (value_position of the pre-pass), so that the words are the A fragment of PV without a shuffle.
#pragma once
#include <cfloat>

#include "cuda/device/ptx/max.cuh"
#include "cuda/device/softmax.cuh"
#include "traits8.cuh"

namespace chitu::cuda::sm90 {

// Score i (0 .. 3) of word w of row r.
__device__ constexpr int score_of_word(int w, int r, int i) { return 8 * w + 2 * r + i % 2 + i / 2 * 4; }

// Low bytes of the halves of two registers.
__device__ __forceinline__ uint32_t pack_low_bytes(uint32_t a, uint32_t b) { return __byte_perm(a, b, 0x6420); }

__device__ __forceinline__ float quad_max_nan(float x) {
  x = ptx::max_nan(x, __shfl_xor_sync(~0u, x, 1));
  return ptx::max_nan(x, __shfl_xor_sync(~0u, x, 2));
}

// The thread's two rows between tiles.
struct RowState8 {
  float m[2];      // level that l, lse and O are measured against
  float l[2];      // normaliser
  float lse[2];    // sum of the weights before rounding
  float w[2];      // factor of the product in flight; running maximum: of O before that product joins
  float shift[2];  // u8_tile: factor of the tile's mean of V's codes

  __device__ __forceinline__ void reset() {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      m[r] = -FLT_MAX;  // below every level and still a number: 2^(-inf - m) is 0
      l[r] = lse[r] = w[r] = shift[r] = 0.f;
    }
  }
};

// Largest x = s * c of each row that this thread sees, -inf where none is visible, NaN where a scale is.
template <bool kMasked, int kCount>
__device__ __forceinline__ void row_tops(const int32_t (&s)[kCount], float (&top)[2], const float (&c)[2], const VisibleColumns (&columns)[2]) {
  constexpr int kChains = 2;  // maxima of a row that do not wait for one another
  int largest[2][kChains];
#pragma unroll
  for (int i = 0; i < kCount; i += 2) {
    int r = i / 2 % 2, chain = i / 4 % kChains;
    int x0 = s[i], x1 = s[i + 1];
    if constexpr (kMasked) {
      if (!visible(columns[r], i / 4 * 8)) x0 = INT_MIN;
      if (!visible(columns[r], i / 4 * 8 + 1)) x1 = INT_MIN;
    }
    largest[r][chain] = i / 4 < kChains ? max(x0, x1) : max(max(largest[r][chain], x0), x1);
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    int t = largest[r][0];
#pragma unroll
    for (int i = 1; i < kChains; ++i) t = max(t, largest[r][i]);
    float x = rounded_logit(t, c[r]);
    if (kMasked && t == INT_MIN) x = kLowest<float>;
    top[r] = x;
  }
}

// Rare: rows whose scores are so large that the exact product and its rounded value, of which `top` is made, lie octaves apart. Their scores become distances
// from `top` in steps of 2^-16, with c to match.
constexpr float kTameUnit = 0x1p-16f;

template <int kCount>
__device__ __forceinline__ void tame_scores(int32_t (&s)[kCount], const bool (&huge)[2], const float (&top)[2], float (&c)[2]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    int r = i / 2 % 2;
    float below = __fsub_rn(rounded_logit(s[i], c[r]), top[r]);
    int tame = __float2int_rn(fmaxf(fminf(below, 0.f), -1024.f) * (1 / kTameUnit));
    s[i] = huge[r] ? tame : s[i];
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) c[r] = huge[r] ? kTameUnit : c[r];
}

// Every key has its own scale: scores become logits, the bits of a float, in place.
template <int kCount>
__device__ __forceinline__ void scale_tokens(int32_t (&s)[kCount], const TokenScale& scale) {
#pragma unroll
  for (int i = 0; i < kCount; i += 2) {
    float c[2];
    scale.factors(i / 2 % 2, i / 4 * 8, c);
    s[i] = __float_as_int(rounded_logit(s[i], c[0]));
    s[i + 1] = __float_as_int(rounded_logit(s[i + 1], c[1]));
  }
}

// row_tops of logits.
template <bool kMasked, int kCount>
__device__ __forceinline__ void logit_tops(const int32_t (&x)[kCount], float (&top)[2], const VisibleColumns (&columns)[2]) {
  constexpr int kChains = 2;
  float largest[2][kChains];
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    int r = i / 2 % 2, chain = i / 4 % kChains;
    const float y = !kMasked || visible(columns[r], i / 4 * 8 + i % 2) ? __int_as_float(x[i]) : kLowest<float>;
    largest[r][chain] = i / 4 < kChains && i % 2 == 0 ? y : ptx::max_nan(largest[r][chain], y);
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) top[r] = ptx::max_nan(largest[r][0], largest[r][1]);
}

// Rare: huge logits become distances from `top`, because base could not hold a constant beside it.
template <int kCount>
__device__ __forceinline__ void tame_logits(int32_t (&x)[kCount], const bool (&huge)[2], const float (&top)[2]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) x[i] = huge[i / 2 % 2] ? __float_as_int(__fsub_rn(__int_as_float(x[i]), top[i / 2 % 2])) : x[i];
}

// s * c + base in word w of row r, -inf where masked. kLogits: s holds logits, and c is nothing.
template <bool kMasked, bool kLogits = false, int kCount>
__device__ __forceinline__ void word_logits(const int32_t (&s)[kCount], int w, int r, float c, float base, const VisibleColumns& columns, float (&x)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int32_t y = s[score_of_word(w, r, i)];
    x[i] = kLogits ? __fadd_rn(__int_as_float(y), base) : fmaf(to_f32(y), c, base);
    if (kMasked && !visible(columns, 16 * w + i % 2 + i / 2 * 8)) x[i] = kLowest<float>;
  }
}

// What one tile's weights need and leave, for the thread's two rows.
struct TileWeights {
  float top[2], level[2];         // largest x of the tile, from which the weights count; that plus the tile's bias
  bool moves;                     // some row of the warp may have outgrown m
  float base[2];                  // P = 2^(s * c + base)
  float margin[2];                // u8_tile: octaves by which base lowers P
  float w[2], shift[2];           // factors with which the product joins O (RowState8)
  float raw[2][2];                // this thread's sums of P before rounding, two chains
  uint32_t code[2];               // u8_tile: of the codes
  float true_sum[2], largest[2];  // u8_tile, flagged: sum of the weights; largest weight times token scale
};

// P = e4m3(2^(s * c + base)) of every word. raw sums the exact words only. Log-code words: the bits of e4m3 are 8 * x + 56, rounded; as a
// multiple of 2^-24 that is the bit pattern of an f16, so one conversion rounds and packs two. kShift of a code centres the error (docs/methods.md 2).
template <class T, bool kMasked>
__device__ __forceinline__ void weights_e4m3(const int32_t (&s)[T::kScores], uint32_t (&packed)[T::kWords], TileWeights& tile, const float (&c)[2],
                                             const VisibleColumns (&columns)[2]) {
  constexpr float kUnit = 0x1p-24f, kShift = -0.46f;
#pragma unroll
  for (int w = 0; w < T::kTileN / 16; ++w) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float x[4];
      if (T::kLogWords >> w & 1) {
        word_logits<kMasked>(s, w, r, c[r] * (8 * kUnit), fmaf(tile.base[r], 8 * kUnit, (56 + kShift) * kUnit), columns[r], x);
        packed[2 * w + r] = pack_low_bytes(ptx::pack_f16_relu(x[0], x[1]), ptx::pack_f16_relu(x[2], x[3]));
      } else {
        word_logits<kMasked>(s, w, r, c[r], tile.base[r], columns[r], x);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          x[i] = ptx::exp2_approx(x[i]);
          tile.raw[r][i % 2] += x[i];
        }
        packed[2 * w + r] = ptx::pack_e4m3(x[0], x[1], x[2], x[3]);
      }
    }
  }
}

// 8-bit codes held as f16 subnormals: the value k * 2^-24 has the bits k.
constexpr float kCodeUnit = 255 * 0x1p-24f;
constexpr float kLog2CodeUnit = 7.994353436858858f - 24;  // log2 of it

// Against the running maximum: log2 of the largest weight's code, 448 in e4m3 and 127 in s8.
template <Weights kWeights>
constexpr float kLog2RunningRange = kWeights == Weights::e4m3_running ? 8.807354922057604f : 6.988684686772166f;

__device__ __forceinline__ void pack_codes(const float (&p)[4], uint32_t& word, float (&raw)[2], uint32_t& code) {
#pragma unroll
  for (int i = 0; i < 4; ++i) raw[i % 2] += p[i];
  word = pack_low_bytes(ptx::pack_f16(p[0], p[1]), ptx::pack_f16(p[2], p[3]));
  code = __dp4a(word, 0x01010101u, code);
}

// Plain tile: codes of 2^(s * c + base), base = kLog2CodeUnit - top. int_flash: of 2^(s + base), base = log2 127 - 24 - m.
template <class T, bool kMasked>
__device__ __forceinline__ void weights_u8(const int32_t (&s)[T::kScores], uint32_t (&packed)[T::kWords], TileWeights& tile, const float (&c)[2],
                                           const VisibleColumns (&columns)[2]) {
#pragma unroll
  for (int w = 0; w < T::kTileN / 16; ++w) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float x[4];
      word_logits<kMasked, T::kKeyScales == KeyScales::token>(s, w, r, c[r], tile.base[r], columns[r], x);
#pragma unroll
      for (int i = 0; i < 4; ++i) x[i] = ptx::exp2_approx(x[i]);
      pack_codes(x, packed[2 * w + r], tile.raw[r], tile.code[r]);
    }
  }
}

// Flagged tile: every token has its own scale t. First half: z = 2^(s * c + base) * t, in place. t: of the thread's first key.
template <class T, bool kMasked>
__device__ __forceinline__ void scaled_weights(int32_t (&s)[T::kScores], TileWeights& tile, const float* t, const float (&c)[2],
                                               const VisibleColumns (&columns)[2]) {
#pragma unroll
  for (int r = 0; r < 2; ++r) tile.largest[r] = 0.f;
#pragma unroll
  for (int w = 0; w < T::kTileN / 16; ++w) {
    const float2 t01 = __ldg(reinterpret_cast<const float2*>(t + 16 * w)), t89 = __ldg(reinterpret_cast<const float2*>(t + 16 * w + 8));
    const float scale[4] = {t01.x, t01.y, t89.x, t89.y};
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float x[4];
      word_logits<kMasked>(s, w, r, c[r], tile.base[r], columns[r], x);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        x[i] = ptx::exp2_approx(x[i]);
        tile.raw[r][i % 2] += x[i];
        x[i] *= scale[i];
        tile.largest[r] = fmaxf(tile.largest[r], x[i]);
        s[score_of_word(w, r, i)] = __float_as_int(x[i]);
      }
    }
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    tile.true_sum[r] = tile.raw[r][0] + tile.raw[r][1];
    tile.largest[r] = quad_max(tile.largest[r]);
    tile.raw[r][0] = tile.raw[r][1] = 0.f;
  }
}

// Second half: codes of z / (largest z of the row).
template <class T>
__device__ __forceinline__ void weights_of_scaled(const int32_t (&s)[T::kScores], uint32_t (&packed)[T::kWords], TileWeights& tile) {
  float factor[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) factor[r] = tile.largest[r] > 0.f ? kCodeUnit * ptx::reciprocal_approx(tile.largest[r]) : 0.f;
#pragma unroll
  for (int w = 0; w < T::kTileN / 16; ++w) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float x[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) x[i] = __int_as_float(s[score_of_word(w, r, i)]) * factor[r];
      pack_codes(x, packed[2 * w + r], tile.raw[r], tile.code[r]);
    }
  }
}

}  // namespace chitu::cuda::sm90
