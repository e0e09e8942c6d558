#pragma once

// The SIMD layer for AVX2 with FMA and F16C. The 8-bit dot product keeps all 8 bits: bytes are widened to 16 bits and multiplied by vpmaddwd, because
// vpmaddubsw would saturate (2 * 255 * 127 > 32767). The side that is loaded as a vector pays for its widening once per kTileRows products.

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

#include <cstdint>

#include "core/lut_exp.h"
#include "cpu/device/common.h"

namespace chitu::cpu {
namespace {

struct WideLut {
  int at[64];
  constexpr WideLut() : at() {
    for (int i = 0; i < 64; ++i) at[i] = core::kLut[i];
  }
};
constexpr WideLut kWideLut{};

struct Simd {
  static constexpr int kLanes = 8;
  static constexpr int kTileRows = 4;  // times 2 vectors: 8 accumulators, 4 halves of the vector side, 2 of the broadcast, of 16 registers
  using I = __m256i;
  using F = __m256;
  using M = __m256i;  // all ones or all zeros per lane
  struct Halves {
    __m256i even, odd;  // bytes 0, 2 and 1, 3 of each lane as 16-bit numbers
  };
  using U8 = Halves;
  using S8 = Halves;

  static U8 split_u8(I x) { return {_mm256_and_si256(x, _mm256_set1_epi16(0xff)), _mm256_srli_epi16(x, 8)}; }
  static S8 split_s8(I x) { return {_mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8), _mm256_srai_epi16(x, 8)}; }
  static U8 load_u8(const void* p) { return split_u8(load_i(p)); }
  static S8 load_s8(const void* p) { return split_s8(load_i(p)); }
  static U8 bcast_u8(const void* p) { return split_u8(_mm256_set1_epi32(load_word(p))); }
  static S8 bcast_s8(const void* p) { return split_s8(_mm256_set1_epi32(load_word(p))); }
  static CHITU_INLINE void dot(I& acc, const U8& u, const S8& s) {
    I t0, t1;
    asm("vpmaddwd %4, %3, %1\n\tvpmaddwd %6, %5, %2\n\tvpaddd %1, %0, %0\n\tvpaddd %2, %0, %0"
        : "+x"(acc), "=&x"(t0), "=&x"(t1)
        : "x"(u.even), "x"(s.even), "x"(u.odd), "x"(s.odd));
  }
  static CHITU_INLINE void fma_acc(F& acc, F a, F b) { asm("vfmadd231ps %2, %1, %0" : "+x"(acc) : "x"(a), "x"(b)); }

  static F zero() { return _mm256_setzero_ps(); }
  static I zero_i() { return _mm256_setzero_si256(); }
  static F set(float x) { return _mm256_set1_ps(x); }
  static I set_i(std::int32_t x) { return _mm256_set1_epi32(x); }
  static F bcast(const float* p) { return _mm256_set1_ps(*p); }
  static F load(const float* p) { return _mm256_loadu_ps(p); }
  static I load_i(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
  static void store(float* p, F x) { _mm256_storeu_ps(p, x); }
  static void store_i(void* p, I x) { _mm256_storeu_si256(static_cast<__m256i*>(p), x); }
  static F as_f(I x) { return _mm256_castsi256_ps(x); }
  static I as_i(F x) { return _mm256_castps_si256(x); }

  static I add_i(I a, I b) { return _mm256_add_epi32(a, b); }
  static I sub_i(I a, I b) { return _mm256_sub_epi32(a, b); }
  static I max_i(I a, I b) { return _mm256_max_epi32(a, b); }
  static I min_i(I a, I b) { return _mm256_min_epi32(a, b); }
  static I min_u(I a, I b) { return _mm256_min_epu32(a, b); }
  static I and_i(I a, I b) { return _mm256_and_si256(a, b); }
  static I or_i(I a, I b) { return _mm256_or_si256(a, b); }
  static I xor_i(I a, I b) { return _mm256_xor_si256(a, b); }
  template <int n>
  static I shl(I a) { return _mm256_slli_epi32(a, n); }
  template <int n>
  static I shr(I a) { return _mm256_srli_epi32(a, n); }
  static F to_f(I x) { return _mm256_cvtepi32_ps(x); }
  static I to_i(F x) { return _mm256_cvtps_epi32(x); }  // nearest even; out of range or NaN: 0x80000000

  static F add(F a, F b) { return _mm256_add_ps(a, b); }
  static F sub(F a, F b) { return _mm256_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm256_mul_ps(a, b); }
  static F div(F a, F b) { return _mm256_div_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  static F max(F a, F b) { return _mm256_max_ps(a, b); }  // b when either is NaN
  static F min(F a, F b) { return _mm256_min_ps(a, b); }

  static M all() { return _mm256_set1_epi32(-1); }
  static M eq_i(I a, I b) { return _mm256_cmpeq_epi32(a, b); }
  static M gt_i(I a, I b) { return _mm256_cmpgt_epi32(a, b); }
  static M lt(F a, F b) { return as_i(_mm256_cmp_ps(a, b, _CMP_LT_OQ)); }
  static M eq(F a, F b) { return as_i(_mm256_cmp_ps(a, b, _CMP_EQ_OQ)); }
  static M is_nan(F a) { return as_i(_mm256_cmp_ps(a, a, _CMP_UNORD_Q)); }
  static M both(M a, M b) { return _mm256_and_si256(a, b); }
  static M either(M a, M b) { return _mm256_or_si256(a, b); }
  static M invert(M a) { return _mm256_xor_si256(a, all()); }
  static bool any(M m) { return _mm256_testz_si256(m, m) == 0; }
  static F select(M m, F yes, F no) { return _mm256_blendv_ps(no, yes, as_f(m)); }
  static I select_i(M m, I yes, I no) { return _mm256_blendv_epi8(no, yes, m); }
  static M load_mask(const std::uint8_t* p) {
    const I bit = lane_bits();
    return _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(*p), bit), bit);
  }
  static void store_mask(std::uint8_t* p, M m) { *p = static_cast<std::uint8_t>(_mm256_movemask_ps(as_f(m))); }

  // always_inline, or GCC finds functions without effect and drops the calls
  static CHITU_INLINE void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }
  static CHITU_INLINE void prefetch_l2(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T1); }

  static F load_row(const float* p, int n) { return _mm256_maskload_ps(p, first(n)); }
  static F load_row_f16(const std::uint16_t* p, int n) { return _mm256_cvtph_ps(load_words(p, n)); }
  static F load_row_bf16(const std::uint16_t* p, int n) { return as_f(shl<16>(_mm256_cvtepu16_epi32(load_words(p, n)))); }
  static void store_row(float* p, F x, int n) { _mm256_maskstore_ps(p, first(n), x); }
  static void store_row_f16(std::uint16_t* p, F x, int n) { store_words(p, to_f16(x), n); }
  static void store_row_bf16(std::uint16_t* p, F x, int n) { store_words(p, to_bf16(x), n); }
  static F round_f16(F x) { return _mm256_cvtph_ps(to_f16(x)); }
  static F round_bf16(F x) { return as_f(shl<16>(_mm256_cvtepu16_epi32(to_bf16(x)))); }

  static void transpose(const float* from, std::int64_t from_stride, float* to, std::int64_t to_stride) {
    F r[8], t[8];
    CHITU_UNROLL
    for (int i = 0; i < 8; ++i) r[i] = load(from + i * from_stride);
    CHITU_UNROLL
    for (int i = 0; i < 8; i += 2) {
      t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
      t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
    CHITU_UNROLL
    for (int i = 0; i < 8; i += 4) {
      r[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
      r[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
      r[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
      r[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
    }
    CHITU_UNROLL
    for (int c = 0; c < 4; ++c) {
      store(to + c * to_stride, _mm256_permute2f128_ps(r[c], r[4 + c], 0x20));
      store(to + (4 + c) * to_stride, _mm256_permute2f128_ps(r[c], r[4 + c], 0x31));
    }
  }

  // The table exponential by gather
  struct Lut {};
  static Lut lut() { return {}; }
  static I raw(I index) {
    const I entry = _mm256_i32gather_epi32(kWideLut.at, and_i(index, set_i(63)), 4);
    return _mm256_srlv_epi32(entry, shr<6>(index));
  }
  static CHITU_INLINE I lut_codes(const Lut&, I a, I b, I c, I e, I& raw_sum, I& code_sum) {
    const I half = set_i(64);
    const I ra = raw(a), rb = raw(b), rc = raw(c), re = raw(e);
    raw_sum = add_i(raw_sum, add_i(add_i(ra, rb), add_i(rc, re)));
    const I pa = shr<7>(add_i(ra, half)), pb = shr<7>(add_i(rb, half)), pc = shr<7>(add_i(rc, half)), pe = shr<7>(add_i(re, half));
    code_sum = add_i(code_sum, add_i(add_i(pa, pb), add_i(pc, pe)));
    return or_i(or_i(pa, shl<8>(pc)), or_i(shl<16>(pb), shl<24>(pe)));
  }
  static CHITU_INLINE void lut_sum(const Lut&, I a, I b, I& raw_sum) { raw_sum = add_i(raw_sum, add_i(raw(a), raw(b))); }

  static constexpr bool kBf16Dot = false;
  static I pack_bf16(F, F) { return zero_i(); }
  static void dot_bf16(F&, I, I) {}

 private:
  static std::int32_t load_word(const void* p) {
    std::int32_t x;
    __builtin_memcpy(&x, p, 4);
    return x;
  }
  static I lane_bits() { return _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128); }
  static I first(int n) { return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)); }
  static __m128i load_words(const std::uint16_t* p, int n) {
    if (n >= 8) return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    std::uint16_t t[8] = {};
    for (int i = 0; i < n; ++i) t[i] = p[i];
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(t));
  }
  static void store_words(std::uint16_t* p, __m128i x, int n) {
    if (n >= 8) return _mm_storeu_si128(reinterpret_cast<__m128i*>(p), x);
    std::uint16_t t[8];
    _mm_storeu_si128(reinterpret_cast<__m128i*>(t), x);
    for (int i = 0; i < n; ++i) p[i] = t[i];
  }
  static __m128i to_f16(F x) { return _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static __m128i to_bf16(F x) {
    const I u = as_i(x);
    const I rounded = add_i(add_i(u, set_i(0x7fff)), and_i(shr<16>(u), set_i(1)));
    const I kept = shr<16>(select_i(is_nan(x), or_i(u, set_i(0x400000)), rounded));
    return _mm_packus_epi32(_mm256_castsi256_si128(kept), _mm256_extracti128_si256(kept, 1));
  }
};

}  // namespace
}  // namespace chitu::cpu
