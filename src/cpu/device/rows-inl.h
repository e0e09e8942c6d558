#pragma once

// Rows of a tensor <-> blocks of kLanes rows with channels as vectors ("columns"), and the rotation on such blocks. Included after an ops header.

#include <cstdint>

#include "cpu/device/params.h"

namespace chitu::cpu {
namespace {

constexpr int kL = Simd::kLanes;
using F = Simd::F;
using I = Simd::I;
using M = Simd::M;

template <class T>
T smaller(T a, T b) { return a < b ? a : b; }
template <class T>
T larger(T a, T b) { return a > b ? a : b; }

CHITU_INLINE F load_elems(const void* base, Elem elem, std::int64_t offset, int n) {
  switch (elem) {
    case Elem::f32: return Simd::load_row(static_cast<const float*>(base) + offset, n);
    case Elem::f16: return Simd::load_row_f16(static_cast<const std::uint16_t*>(base) + offset, n);
    case Elem::bf16: return Simd::load_row_bf16(static_cast<const std::uint16_t*>(base) + offset, n);
  }
  return Simd::zero();
}
CHITU_INLINE void store_elems(void* base, Elem elem, std::int64_t offset, F x, int n) {
  switch (elem) {
    case Elem::f32: return Simd::store_row(static_cast<float*>(base) + offset, x, n);
    case Elem::f16: return Simd::store_row_f16(static_cast<std::uint16_t*>(base) + offset, x, n);
    case Elem::bf16: return Simd::store_row_bf16(static_cast<std::uint16_t*>(base) + offset, x, n);
  }
}
CHITU_INLINE F round_to(F x, Elem elem) {
  return elem == Elem::f32 ? x : elem == Elem::f16 ? Simd::round_f16(x) : Simd::round_bf16(x);
}

/// rows [first, first + count) as f32 into to[rows][width], the rest (channels from head_dim, rows from count) zero.
template <Elem elem>
void load_rows_of(const Rows& from, std::int64_t first, int count, int rows, int head_dim, int width, float* to) {
  constexpr int kSize = elem == Elem::f32 ? 4 : 2, kAhead = 16;  // rows of one head lie far apart: no hardware prefetcher follows them
  for (int r = 0; r < count; ++r) {
    const std::int64_t at = (first + r) * from.stride;
    if (r + kAhead < count)
      for (int byte = 0; byte < head_dim * kSize; byte += 64) Simd::prefetch(static_cast<const char*>(from.data) + (at + kAhead * from.stride) * kSize + byte);
    for (int d = 0; d < width; d += kL) Simd::store(to + r * width + d, load_elems(from.data, elem, at + (d < head_dim ? d : 0), larger(0, smaller(kL, head_dim - d))));
  }
  for (int r = count; r < rows; ++r)
    for (int d = 0; d < width; d += kL) Simd::store(to + r * width + d, Simd::zero());
}
inline void load_rows(const Rows& from, std::int64_t first, int count, int rows, int head_dim, int width, float* to) {
  switch (from.elem) {
    case Elem::f32: return load_rows_of<Elem::f32>(from, first, count, rows, head_dim, width, to);
    case Elem::f16: return load_rows_of<Elem::f16>(from, first, count, rows, head_dim, width, to);
    case Elem::bf16: return load_rows_of<Elem::bf16>(from, first, count, rows, head_dim, width, to);
  }
}

/// Columns of `block` channels: butterflies of stride 1, 2, 4, .. in that order; three strides per pass over the memory.
template <int radix>
void butterfly_pass(float* y, int block, int h) {
  for (int base = 0; base < block; base += radix * h)
    for (int i = base; i < base + h; ++i) {
      F v[radix];
      CHITU_UNROLL
      for (int r = 0; r < radix; ++r) v[r] = Simd::load(y + (i + r * h) * kL);
      CHITU_UNROLL
      for (int s = 1; s < radix; s *= 2) {
        CHITU_UNROLL
        for (int r = 0; r < radix; ++r)
          if ((r & s) == 0) {
            const F a = v[r], b = v[r + s];
            v[r] = Simd::add(a, b);
            v[r + s] = Simd::sub(a, b);
          }
      }
      CHITU_UNROLL
      for (int r = 0; r < radix; ++r) Simd::store(y + (i + r * h) * kL, v[r]);
    }
}

/// docs/methods.md 1, Rotation: columns y[head_dim][kLanes] in place, times factor[d] (sign and weight, exact) first. Returns the absolute maximum of each lane
/// as bits (NaN above Inf above the rest).
inline I rotate_columns(float* y, int head_dim, const float* factor) {
  for (int d = 0; d < head_dim; ++d) Simd::store(y + d * kL, Simd::mul(Simd::load(y + d * kL), Simd::set(factor[d])));
  I amax = Simd::zero_i();
  for (int base = 0; base < head_dim;) {
    int log2_block = 0;
    while ((2 << log2_block) <= head_dim - base) ++log2_block;
    const int block = 1 << log2_block;
    float* z = y + base * kL;
    int h = 1;
    for (; block / h >= 8; h *= 8) butterfly_pass<8>(z, block, h);
    if (block / h == 4) butterfly_pass<4>(z, block, h);
    if (block / h == 2) butterfly_pass<2>(z, block, h);
    constexpr float even[5] = {1.0f, 0.5f, 0.25f, 0.125f, 0.0625f};
    const F norm = Simd::set((log2_block & 1) ? even[log2_block / 2] * 0.70710678118654752f : even[log2_block / 2]);
    for (int d = 0; d < block; ++d) {
      const F v = Simd::mul(Simd::load(z + d * kL), norm);
      Simd::store(z + d * kL, v);
      amax = Simd::max_i(amax, Simd::and_i(Simd::as_i(v), Simd::set_i(0x7fffffff)));
    }
    base += block;
  }
  return amax;
}
inline I absmax_columns(const float* y, int head_dim) {
  I amax = Simd::zero_i();
  for (int d = 0; d < head_dim; ++d) amax = Simd::max_i(amax, Simd::and_i(Simd::as_i(Simd::load(y + d * kL)), Simd::set_i(0x7fffffff)));
  return amax;
}

/// int8 group of docs/methods.md 1 from the absolute maximum's bits.
struct GroupScale {
  float scale, inv;
};
inline GroupScale group_scale(std::int32_t amax_bits) {
  if (amax_bits >= 0x7f800000) return {__builtin_nanf(""), 0.0f};
  float a;
  __builtin_memcpy(&a, &amax_bits, 4);
  if (a < 0x1p-100f) return {0.0f, 0.0f};
  return {a / 127.0f, 127.0f / a};
}
/// Codes in -127..127; a zero inverse gives 0 whatever x is.
CHITU_INLINE I int8_codes(F x, F inv) {
  const F y = Simd::max(Simd::set(-127.0f), Simd::min(Simd::set(127.0f), Simd::mul(x, inv)));
  return Simd::to_i(Simd::select(Simd::eq(inv, Simd::zero()), Simd::zero(), y));
}
CHITU_INLINE I pack4(I a, I b, I c, I d) {  // low bytes, a lowest
  const I low = Simd::set_i(0xff);
  return Simd::or_i(Simd::or_i(Simd::and_i(a, low), Simd::shl<8>(Simd::and_i(b, low))),
                    Simd::or_i(Simd::shl<16>(Simd::and_i(c, low)), Simd::shl<24>(d)));
}

}  // namespace
}  // namespace chitu::cpu
