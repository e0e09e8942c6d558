#pragma once

// The SIMD layer for AVX-512 (F, BW, DQ, VL, VNNI; BF16 where the unit is compiled for it). One to three instructions per function; the templates use
// nothing else. Every multiply-accumulate is inline asm: with intrinsics GCC 12 spills the accumulators (6 to 45 % of the speed).

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC 12's own headers: _mm512_undefined_*
#endif
#include <immintrin.h>

#include <cstdint>

#include "core/lut_exp.h"
#include "cpu/device/common.h"

namespace chitu::cpu {
namespace {

struct Simd {
  static constexpr int kLanes = 16;
  static constexpr int kTileRows = 8;  // keys (QK) or channels (PV) per register tile, times 2 vectors of queries: 16 accumulators of 32 registers
  using I = __m512i;
  using F = __m512;
  using M = __mmask16;
  using U8 = __m512i;  // operands of the 8-bit dot product
  using S8 = __m512i;

  // 8-bit dot product: acc += sum of 4 products u8 * s8 per lane
  static U8 load_u8(const void* p) { return _mm512_load_si512(p); }
  static S8 load_s8(const void* p) { return _mm512_load_si512(p); }
  static U8 bcast_u8(const void* p) { return _mm512_set1_epi32(load_word(p)); }
  static S8 bcast_s8(const void* p) { return _mm512_set1_epi32(load_word(p)); }
  // AT&T order: the u8 operand is the middle one; only the s8 operand could be memory
  static CHITU_INLINE void dot(I& acc, U8 u, S8 s) { asm("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(u), "v"(s)); }
  static CHITU_INLINE void fma_acc(F& acc, F a, F b) { asm("vfmadd231ps %2, %1, %0" : "+v"(acc) : "v"(a), "v"(b)); }

  static F zero() { return _mm512_setzero_ps(); }
  static I zero_i() { return _mm512_setzero_si512(); }
  static F set(float x) { return _mm512_set1_ps(x); }
  static I set_i(std::int32_t x) { return _mm512_set1_epi32(x); }
  static F bcast(const float* p) { return _mm512_set1_ps(*p); }
  static F load(const float* p) { return _mm512_loadu_ps(p); }
  static I load_i(const void* p) { return _mm512_loadu_si512(p); }
  static void store(float* p, F x) { _mm512_storeu_ps(p, x); }
  static void store_i(void* p, I x) { _mm512_storeu_si512(p, x); }
  static F as_f(I x) { return _mm512_castsi512_ps(x); }
  static I as_i(F x) { return _mm512_castps_si512(x); }

  static I add_i(I a, I b) { return _mm512_add_epi32(a, b); }
  static I sub_i(I a, I b) { return _mm512_sub_epi32(a, b); }
  static I max_i(I a, I b) { return _mm512_max_epi32(a, b); }
  static I min_i(I a, I b) { return _mm512_min_epi32(a, b); }
  static I min_u(I a, I b) { return _mm512_min_epu32(a, b); }
  static I and_i(I a, I b) { return _mm512_and_si512(a, b); }
  static I or_i(I a, I b) { return _mm512_or_si512(a, b); }
  static I xor_i(I a, I b) { return _mm512_xor_si512(a, b); }
  template <int n>
  static I shl(I a) { return _mm512_slli_epi32(a, n); }
  template <int n>
  static I shr(I a) { return _mm512_srli_epi32(a, n); }
  static F to_f(I x) { return _mm512_cvtepi32_ps(x); }
  static I to_i(F x) { return _mm512_cvtps_epi32(x); }  // nearest even; out of range or NaN: 0x80000000

  static F add(F a, F b) { return _mm512_add_ps(a, b); }
  static F sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F div(F a, F b) { return _mm512_div_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }  // a*b + c, one rounding
  static F max(F a, F b) { return _mm512_max_ps(a, b); }            // b when either is NaN
  static F min(F a, F b) { return _mm512_min_ps(a, b); }

  static M all() { return 0xffff; }
  static M eq_i(I a, I b) { return _mm512_cmpeq_epi32_mask(a, b); }
  static M gt_i(I a, I b) { return _mm512_cmpgt_epi32_mask(a, b); }
  static M lt(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
  static M eq(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
  static M is_nan(F a) { return _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q); }
  static M both(M a, M b) { return _kand_mask16(a, b); }
  static M either(M a, M b) { return _kor_mask16(a, b); }
  static M invert(M a) { return _knot_mask16(a); }
  static bool any(M m) { return m != 0; }
  static F select(M m, F yes, F no) { return _mm512_mask_mov_ps(no, m, yes); }
  static I select_i(M m, I yes, I no) { return _mm512_mask_mov_epi32(no, m, yes); }
  // one bit per lane, lane 0 first
  static M load_mask(const std::uint8_t* p) { return load_half(p); }
  static void store_mask(std::uint8_t* p, M m) {
    p[0] = static_cast<std::uint8_t>(m);
    p[1] = static_cast<std::uint8_t>(m >> 8);
  }
  static I lane_index() { return _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15); }

  // always_inline, or GCC finds functions without effect and drops the calls
  static CHITU_INLINE void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }
  static CHITU_INLINE void prefetch_l2(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T1); }

  // first n lanes of a row in memory as f32, the rest 0; masked loads do not touch what they do not load
  static F load_row(const float* p, int n) { return _mm512_maskz_loadu_ps(first(n), p); }
  static F load_row_f16(const std::uint16_t* p, int n) { return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first(n), p)); }
  static F load_row_bf16(const std::uint16_t* p, int n) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(first(n), p)), 16));
  }
  static void store_row(float* p, F x, int n) { _mm512_mask_storeu_ps(p, first(n), x); }
  static void store_row_f16(std::uint16_t* p, F x, int n) { _mm256_mask_storeu_epi16(p, first(n), to_f16(x)); }
  static void store_row_bf16(std::uint16_t* p, F x, int n) { _mm256_mask_storeu_epi16(p, first(n), to_bf16(x)); }
  static F round_f16(F x) { return _mm512_cvtph_ps(to_f16(x)); }
  static F round_bf16(F x) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(to_bf16(x)), 16)); }

  // 16x16 transpose; rows of `from` may be shorter than 16 floats only in memory that exists
  static void transpose(const float* from, std::int64_t from_stride, float* to, std::int64_t to_stride) {
    F r[16], t[16];
    CHITU_UNROLL
    for (int i = 0; i < 16; ++i) r[i] = load(from + i * from_stride);
    CHITU_UNROLL
    for (int i = 0; i < 16; i += 2) {
      t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
      t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
    }
    CHITU_UNROLL
    for (int i = 0; i < 16; i += 4) {
      r[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(t[i]), _mm512_castps_pd(t[i + 2])));
      r[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(t[i]), _mm512_castps_pd(t[i + 2])));
      r[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(t[i + 1]), _mm512_castps_pd(t[i + 3])));
      r[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(t[i + 1]), _mm512_castps_pd(t[i + 3])));
    }
    // r[4a + c] now holds, in 128-bit lane l, column 4l + c of rows 4a..4a+3
    CHITU_UNROLL
    for (int c = 0; c < 4; ++c) {
      const F p = _mm512_shuffle_f32x4(r[c], r[4 + c], 0x88), q = _mm512_shuffle_f32x4(r[c], r[4 + c], 0xdd);
      const F u = _mm512_shuffle_f32x4(r[8 + c], r[12 + c], 0x88), v = _mm512_shuffle_f32x4(r[8 + c], r[12 + c], 0xdd);
      store(to + c * to_stride, _mm512_shuffle_f32x4(p, u, 0x88));
      store(to + (8 + c) * to_stride, _mm512_shuffle_f32x4(p, u, 0xdd));
      store(to + (4 + c) * to_stride, _mm512_shuffle_f32x4(q, v, 0x88));
      store(to + (12 + c) * to_stride, _mm512_shuffle_f32x4(q, v, 0xdd));
    }
  }

  // The table exponential (core/lut_exp.h) of 4 keys: codes packed in token order 0, 2, 1, 3; both sums go on.
  struct Lut {
    I lo, hi;
  };
  static Lut lut() { return {_mm512_loadu_si512(core::kLut), _mm512_loadu_si512(core::kLut + 32)}; }
  static I raw_pair(const Lut& l, I two) {  // vpermt2w reads 6 bits of each index
    return _mm512_srlv_epi16(_mm512_permutex2var_epi16(l.lo, two, l.hi), _mm512_srli_epi16(two, 6));
  }
  static CHITU_INLINE void add_pairs(I& acc, I raw) {
    const I ones = _mm512_set1_epi16(1);
    asm("vpdpwssd %2, %1, %0" : "+v"(acc) : "v"(raw), "v"(ones));
  }
  static CHITU_INLINE I lut_codes(const Lut& l, I a, I b, I c, I e, I& raw_sum, I& code_sum) {
    const I half = _mm512_set1_epi16(64);
    const I u = raw_pair(l, or_i(a, shl<16>(b))), w = raw_pair(l, or_i(c, shl<16>(e)));
    add_pairs(raw_sum, u);
    add_pairs(raw_sum, w);
    const I ru = _mm512_srli_epi16(_mm512_add_epi16(u, half), 7), rw = _mm512_srli_epi16(_mm512_add_epi16(w, half), 7);
    const I p = or_i(ru, _mm512_slli_epi16(rw, 8));
    dot(code_sum, p, _mm512_set1_epi8(1));
    return p;
  }
  static CHITU_INLINE void lut_sum(const Lut& l, I a, I b, I& raw_sum) { add_pairs(raw_sum, raw_pair(l, or_i(a, shl<16>(b)))); }

  // 16-bit P of two keys, interleaved per lane: key a in the low half
#if defined(__AVX512BF16__)
  static constexpr bool kBf16Dot = true;
  static I pack_bf16(F a, F b) {
    const I both = reinterpret_cast<I>(_mm512_cvtne2ps_pbh(b, a));
    const I order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return _mm512_permutexvar_epi16(order, both);
  }
  static CHITU_INLINE void dot_bf16(F& acc, I a, I b) { asm("vdpbf16ps %2, %1, %0" : "+v"(acc) : "v"(a), "v"(b)); }
#else
  static constexpr bool kBf16Dot = false;
  static I pack_bf16(F, F) { return zero_i(); }
  static void dot_bf16(F&, I, I) {}
#endif

 private:
  static std::int32_t load_word(const void* p) {
    std::int32_t x;
    __builtin_memcpy(&x, p, 4);
    return x;
  }
  static M load_half(const void* p) {
    std::uint16_t x;
    __builtin_memcpy(&x, p, 2);
    return x;
  }
  static M first(int n) { return n >= 16 ? M(0xffff) : M((1u << n) - 1); }
  static __m256i to_f16(F x) { return _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static __m256i to_bf16(F x) {  // not vcvtneps2bf16: it flushes subnormals
    const I u = as_i(x);
    const I rounded = add_i(add_i(u, set_i(0x7fff)), and_i(shr<16>(u), set_i(1)));
    const I kept = select_i(is_nan(x), or_i(u, set_i(0x400000)), rounded);
    return _mm512_cvtepi32_epi16(shr<16>(kept));
  }
};

}  // namespace
}  // namespace chitu::cpu
