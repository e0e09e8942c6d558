#pragma once

// The SIMD layer in plain loops: runs everywhere, and says what each operation means.

#include <cstdint>

#include "core/codec.h"
#include "core/lut_exp.h"
#include "cpu/device/common.h"

namespace chitu::cpu {
namespace {

struct Simd {
  static constexpr int kLanes = 8;
  static constexpr int kTileRows = 4;
  template <class T>
  struct Vec {
    T at[kLanes];
  };
  using I = Vec<std::int32_t>;
  using F = Vec<float>;
  struct M {
    bool at[kLanes];
  };
  using U8 = I;
  using S8 = I;

  template <class V, class Fn>
  static V make(Fn fn) {
    V r;
    for (int i = 0; i < kLanes; ++i) r.at[i] = fn(i);
    return r;
  }
  static std::uint32_t u(std::int32_t x) { return static_cast<std::uint32_t>(x); }
  static std::int32_t s(std::uint32_t x) { return static_cast<std::int32_t>(x); }
  static std::int32_t word(const void* p) {
    std::int32_t x;
    __builtin_memcpy(&x, p, 4);
    return x;
  }

  static U8 load_u8(const void* p) { return load_i(p); }
  static S8 load_s8(const void* p) { return load_i(p); }
  static U8 bcast_u8(const void* p) { return set_i(word(p)); }
  static S8 bcast_s8(const void* p) { return set_i(word(p)); }
  static void dot(I& acc, const U8& a, const S8& b) {
    for (int i = 0; i < kLanes; ++i)
      for (int byte = 0; byte < 32; byte += 8)
        acc.at[i] += static_cast<std::int32_t>((u(a.at[i]) >> byte) & 0xff) * static_cast<std::int8_t>((u(b.at[i]) >> byte) & 0xff);
  }
  static void fma_acc(F& acc, const F& a, const F& b) {
    for (int i = 0; i < kLanes; ++i) acc.at[i] = acc.at[i] + a.at[i] * b.at[i];
  }

  static F zero() { return set(0.0f); }
  static I zero_i() { return set_i(0); }
  static F set(float x) { return make<F>([=](int) { return x; }); }
  static I set_i(std::int32_t x) { return make<I>([=](int) { return x; }); }
  static F bcast(const float* p) { return set(*p); }
  template <class V>
  static V copy(const void* p) {
    V v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
  }
  static F load(const float* p) { return copy<F>(p); }
  static I load_i(const void* p) { return copy<I>(p); }
  static void store(float* p, const F& x) { __builtin_memcpy(p, &x, sizeof x); }
  static void store_i(void* p, const I& x) { __builtin_memcpy(p, &x, sizeof x); }
  static F as_f(const I& x) { return copy<F>(&x); }
  static I as_i(const F& x) { return copy<I>(&x); }

  static I add_i(const I& a, const I& b) { return make<I>([&](int i) { return s(u(a.at[i]) + u(b.at[i])); }); }
  static I sub_i(const I& a, const I& b) { return make<I>([&](int i) { return s(u(a.at[i]) - u(b.at[i])); }); }
  static I max_i(const I& a, const I& b) { return make<I>([&](int i) { return a.at[i] > b.at[i] ? a.at[i] : b.at[i]; }); }
  static I min_i(const I& a, const I& b) { return make<I>([&](int i) { return a.at[i] < b.at[i] ? a.at[i] : b.at[i]; }); }
  static I min_u(const I& a, const I& b) { return make<I>([&](int i) { return u(a.at[i]) < u(b.at[i]) ? a.at[i] : b.at[i]; }); }
  static I and_i(const I& a, const I& b) { return make<I>([&](int i) { return a.at[i] & b.at[i]; }); }
  static I or_i(const I& a, const I& b) { return make<I>([&](int i) { return a.at[i] | b.at[i]; }); }
  static I xor_i(const I& a, const I& b) { return make<I>([&](int i) { return a.at[i] ^ b.at[i]; }); }
  template <int n>
  static I shl(const I& a) { return make<I>([&](int i) { return s(u(a.at[i]) << n); }); }
  template <int n>
  static I shr(const I& a) { return make<I>([&](int i) { return s(u(a.at[i]) >> n); }); }
  static F to_f(const I& x) { return make<F>([&](int i) { return static_cast<float>(x.at[i]); }); }
  static I to_i(const F& x) { return make<I>([&](int i) { return round(x.at[i]); }); }

  static F add(const F& a, const F& b) { return make<F>([&](int i) { return a.at[i] + b.at[i]; }); }
  static F sub(const F& a, const F& b) { return make<F>([&](int i) { return a.at[i] - b.at[i]; }); }
  static F mul(const F& a, const F& b) { return make<F>([&](int i) { return a.at[i] * b.at[i]; }); }
  static F div(const F& a, const F& b) { return make<F>([&](int i) { return a.at[i] / b.at[i]; }); }
  static F fma(const F& a, const F& b, const F& c) { return make<F>([&](int i) { return __builtin_fmaf(a.at[i], b.at[i], c.at[i]); }); }
  static F max(const F& a, const F& b) { return make<F>([&](int i) { return a.at[i] > b.at[i] ? a.at[i] : b.at[i]; }); }  // b when either is NaN
  static F min(const F& a, const F& b) { return make<F>([&](int i) { return a.at[i] < b.at[i] ? a.at[i] : b.at[i]; }); }

  static M all() { return make<M>([](int) { return true; }); }
  static M eq_i(const I& a, const I& b) { return make<M>([&](int i) { return a.at[i] == b.at[i]; }); }
  static M gt_i(const I& a, const I& b) { return make<M>([&](int i) { return a.at[i] > b.at[i]; }); }
  static M lt(const F& a, const F& b) { return make<M>([&](int i) { return a.at[i] < b.at[i]; }); }
  static M eq(const F& a, const F& b) { return make<M>([&](int i) { return a.at[i] == b.at[i]; }); }
  static M is_nan(const F& a) { return make<M>([&](int i) { return a.at[i] != a.at[i]; }); }
  static M both(const M& a, const M& b) { return make<M>([&](int i) { return a.at[i] && b.at[i]; }); }
  static M either(const M& a, const M& b) { return make<M>([&](int i) { return a.at[i] || b.at[i]; }); }
  static M invert(const M& a) { return make<M>([&](int i) { return !a.at[i]; }); }
  static bool any(const M& m) {
    bool r = false;
    for (bool b : m.at) r = r || b;
    return r;
  }
  static F select(const M& m, const F& yes, const F& no) { return make<F>([&](int i) { return m.at[i] ? yes.at[i] : no.at[i]; }); }
  static I select_i(const M& m, const I& yes, const I& no) { return make<I>([&](int i) { return m.at[i] ? yes.at[i] : no.at[i]; }); }
  static M load_mask(const std::uint8_t* p) { return make<M>([&](int i) { return ((*p >> i) & 1) != 0; }); }
  static void store_mask(std::uint8_t* p, const M& m) {
    *p = 0;
    for (int i = 0; i < kLanes; ++i) *p = static_cast<std::uint8_t>(*p | (m.at[i] ? 1u << i : 0u));
  }

  static CHITU_INLINE void prefetch(const void* p) { __builtin_prefetch(p); }
  static CHITU_INLINE void prefetch_l2(const void* p) { __builtin_prefetch(p, 0, 2); }

  static F load_row(const float* p, int n) { return make<F>([=](int i) { return i < n ? p[i] : 0.0f; }); }
  static F load_row_f16(const std::uint16_t* p, int n) { return make<F>([=](int i) { return i < n ? half_to_float(p[i]) : 0.0f; }); }
  static F load_row_bf16(const std::uint16_t* p, int n) { return make<F>([=](int i) { return i < n ? brain_to_float(p[i]) : 0.0f; }); }
  static void store_row(float* p, const F& x, int n) {
    for (int i = 0; i < kLanes && i < n; ++i) p[i] = x.at[i];
  }
  static void store_row_f16(std::uint16_t* p, const F& x, int n) {
    for (int i = 0; i < kLanes && i < n; ++i) p[i] = float_to_half(x.at[i]);
  }
  static void store_row_bf16(std::uint16_t* p, const F& x, int n) {
    for (int i = 0; i < kLanes && i < n; ++i) p[i] = float_to_brain(x.at[i]);
  }
  static F round_f16(const F& x) { return make<F>([&](int i) { return half_to_float(float_to_half(x.at[i])); }); }
  static F round_bf16(const F& x) { return make<F>([&](int i) { return brain_to_float(float_to_brain(x.at[i])); }); }

  static void transpose(const float* from, std::int64_t from_stride, float* to, std::int64_t to_stride) {
    for (int i = 0; i < kLanes; ++i)
      for (int j = 0; j < kLanes; ++j) to[j * to_stride + i] = from[i * from_stride + j];
  }

  struct Lut {};
  static Lut lut() { return {}; }
  static I lut_codes(const Lut&, const I& a, const I& b, const I& c, const I& e, I& raw_sum, I& code_sum) {
    I words;
    for (int i = 0; i < kLanes; ++i) {
      std::uint32_t code[4];
      const std::int32_t index[4] = {a.at[i], b.at[i], c.at[i], e.at[i]};
      for (int j = 0; j < 4; ++j) {
        const std::uint32_t raw = core::lut_raw(u(index[j]));
        code[j] = core::lut_code(raw);
        raw_sum.at[i] += s(raw);
        code_sum.at[i] += s(code[j]);
      }
      words.at[i] = s(code[0] | (code[2] << 8) | (code[1] << 16) | (code[3] << 24));
    }
    return words;
  }
  static void lut_sum(const Lut&, const I& a, const I& b, I& raw_sum) {
    for (int i = 0; i < kLanes; ++i) raw_sum.at[i] += s(core::lut_raw(u(a.at[i])) + core::lut_raw(u(b.at[i])));
  }

  static constexpr bool kBf16Dot = false;
  static I pack_bf16(const F&, const F&) { return zero_i(); }
  static void dot_bf16(F&, const I&, const I&) {}

 private:
  // baseline code only, so core's inline functions are safe to use here: any copy the linker keeps runs everywhere
  static float half_to_float(std::uint16_t h) { return core::f16_to_f32(h); }
  static std::uint16_t float_to_half(float x) { return core::f32_to_f16(x); }
  static float brain_to_float(std::uint16_t h) { return core::bf16_to_f32(h); }
  static std::uint16_t float_to_brain(float x) { return core::f32_to_bf16(x); }

  /// Nearest even as cvtps2dq: 0x80000000 where the integer does not fit, and for NaN.
  static std::int32_t round(float x) {
    constexpr float magic = 12582912.0f;
    if (x > -4194304.0f && x < 4194304.0f) return static_cast<std::int32_t>((x + magic) - magic);
    if (x >= -2147483648.0f && x < 2147483648.0f) return static_cast<std::int32_t>(__builtin_lrintf(x));
    return INT32_MIN;
  }
};

}  // namespace
}  // namespace chitu::cpu
