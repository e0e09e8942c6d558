#pragma once

// 16-bit and f32 products of one tile: S = Q.K of `exact`, O += P.V with float P. Same shape as the 8-bit ones. Included after block-inl.h.

#include "cpu/device/block-inl.h"

namespace chitu::cpu {
namespace {

/// An operand by broadcast: row r, word w (one f32, or two bf16) is at data + r*row_bytes + 4*w.
struct Words {
  const char* data;
  std::int64_t row_bytes;
};

template <bool bf16>
CHITU_INLINE void accumulate(F& acc, F a, F b) {
  if constexpr (bf16) {
    Simd::dot_bf16(acc, Simd::as_i(a), Simd::as_i(b));
  } else {
    Simd::fma_acc(acc, a, b);
  }
}
CHITU_INLINE F bcast_word(const char* p) {
  float x;
  __builtin_memcpy(&x, p, 4);
  return Simd::set(x);
}

/// s[128][kMq] for the keys of [begin, end); q[words][2][kLanes].
template <bool bf16>
inline void scores_float(const Words& k, const float* q, int words, int begin, int end, float* s) {
  constexpr int kRows = Simd::kTileRows;
  for (int key = begin; key < end; key += kRows) {
    F acc[kRows][2];
    CHITU_UNROLL
    for (int r = 0; r < kRows; ++r) acc[r][0] = acc[r][1] = Simd::zero();
    const char* kp = k.data + key * k.row_bytes;
    const float* qp = q;
    for (int w = 0; w < words; ++w, kp += 4, qp += kMq) {
      const F q0 = Simd::load(qp), q1 = Simd::load(qp + kL);
      CHITU_UNROLL
      for (int r = 0; r < kRows; ++r) {
        const F kr = bcast_word(kp + r * k.row_bytes);
        accumulate<bf16>(acc[r][0], q0, kr);
        accumulate<bf16>(acc[r][1], q1, kr);
      }
    }
    CHITU_UNROLL
    for (int r = 0; r < kRows; ++r) {
      Simd::store(s + (key + r) * kMq, acc[r][0]);
      Simd::store(s + (key + r) * kMq + kL, acc[r][1]);
    }
  }
}

/// o[dv][kMq] = o*keep + P.V; p[steps][kMq] words (a key, or two), V word of step i and channel d at v.data + i*row_bytes + 4*d.
template <bool bf16>
inline void values_float(const float* p, const Words& v, int dv, int begin, int end, const float* keep, float* o) {
  constexpr int kRows = Simd::kTileRows;
  const F keep0 = Simd::load(keep), keep1 = Simd::load(keep + kL);
  for (int d = 0; d < dv; d += kRows) {
    F acc[kRows][2];
    float* to = o + d * kMq;
    CHITU_UNROLL
    for (int r = 0; r < kRows; ++r) {
      acc[r][0] = Simd::mul(Simd::load(to + r * kMq), keep0);
      acc[r][1] = Simd::mul(Simd::load(to + r * kMq + kL), keep1);
    }
    const char* vp = v.data + begin * v.row_bytes + 4 * d;
    const float* pp = p + begin * kMq;
    for (int i = begin; i < end; ++i, vp += v.row_bytes, pp += kMq) {
      const F p0 = Simd::load(pp), p1 = Simd::load(pp + kL);
      CHITU_UNROLL
      for (int r = 0; r < kRows; ++r) {
        const F vr = bcast_word(vp + 4 * r);
        accumulate<bf16>(acc[r][0], p0, vr);
        accumulate<bf16>(acc[r][1], p1, vr);
      }
    }
    CHITU_UNROLL
    for (int r = 0; r < kRows; ++r) {
      Simd::store(to + r * kMq, acc[r][0]);
      Simd::store(to + r * kMq + kL, acc[r][1]);
    }
  }
}

/// K rows [first, first + count) of a tile as words; the rows up to 128 zero. f32: [128][width]; bf16: [128][width/2] pairs.
inline Words pack_keys(const Rows& k, std::int64_t first, int count, int head_dim, int width, bool bf16, float* to) {
  if (!bf16) {
    load_rows(k, first, count, kTile, head_dim, width, to);
    return {reinterpret_cast<const char*>(to), 4 * std::int64_t{width}};
  }
  auto* words = reinterpret_cast<std::uint16_t*>(to);
  for (int r = 0; r < kTile; ++r) {
    std::uint16_t* row = words + r * width;
    __builtin_memset(row, 0, static_cast<std::size_t>(width) * 2);
    if (r < count) __builtin_memcpy(row, static_cast<const std::uint16_t*>(k.data) + (first + r) * k.stride, static_cast<std::size_t>(head_dim) * 2);
  }
  return {reinterpret_cast<const char*>(to), 2 * std::int64_t{width}};
}

/// V of a tile in the kind that P has, rows beyond `count` zero. f32 words [128][dv], or [64][dv] pairs of tokens for the bf16 dot product.
inline Words pack_values(const AttendArgs& a, std::int64_t first, int count, int dv, bool pairs, float* to) {
  const int head_dim_v = a.layout.head_dim_v;
  if (!pairs) {
    load_rows(a.v, first, count, kTile, head_dim_v, dv, to);
    if (a.p == PKind::f16 && a.v.elem != Elem::f16) {
      for (int r = 0; r < count; ++r)
        for (int d = 0; d < dv; d += kL) {
          F x = Simd::load(to + r * dv + d);
          if (a.v_scale != nullptr) x = Simd::mul(x, Simd::load(a.v_scale + d));
          Simd::store(to + r * dv + d, Simd::round_f16(x));
        }
    }
    return {reinterpret_cast<const char*>(to), 4 * std::int64_t{dv}};
  }
  const auto* v = static_cast<const std::uint16_t*>(a.v.data) + first * a.v.stride;
  for (int t = 0; t < kTile; t += 2)
    for (int d = 0; d < dv; d += kL) {
      const int n = larger(0, smaller(kL, head_dim_v - d)), at = n > 0 ? d : 0;
      // bf16 to f32 puts the bits on top: the odd token stays there, the even one comes back down
      const I even = t < count ? Simd::as_i(Simd::load_row_bf16(v + t * a.v.stride + at, n)) : Simd::zero_i();
      const I odd = t + 1 < count ? Simd::as_i(Simd::load_row_bf16(v + (t + 1) * a.v.stride + at, n)) : Simd::zero_i();
      Simd::store_i(to + (t / 2) * dv + d, Simd::or_i(Simd::shr<16>(even), odd));
    }
  return {reinterpret_cast<const char*>(to), 4 * std::int64_t{dv}};
}

/// Takes what is not finite out of packed V and returns it, so that 0 * NaN cannot reach a row that does not see the key.
struct BadValue {
  int key, channel;
  float value;
};
inline int take_bad_values(float* packed, int dv, bool pairs, BadValue* list) {
  int n = 0;
  auto* halves = reinterpret_cast<std::uint16_t*>(packed);
  auto* words = reinterpret_cast<std::uint32_t*>(packed);
  for (int key = 0; key < kTile; ++key)
    for (int d = 0; d < dv; ++d) {
      std::uint16_t* half = halves + ((key / 2) * dv + d) * 2 + key % 2;
      std::uint32_t* word = words + key * dv + d;
      const std::uint32_t bits = pairs ? std::uint32_t{*half} << 16 : *word;
      if ((bits & 0x7f800000u) != 0x7f800000u) continue;
      list[n].key = key;
      list[n].channel = d;
      __builtin_memcpy(&list[n].value, &bits, 4);
      ++n;
      if (pairs) *half = 0;
      else *word = 0;
    }
  return n;
}
/// Adds them back to the rows that see them.
inline void add_bad_values(const BadValue* list, int n, const float* p, bool pairs, const std::uint8_t* bits, float* o) {
  for (int i = 0; i < n; ++i)
    for (int r = 0; r < kMq; ++r) {
      const BadValue& b = list[i];
      if (((bits[b.key * (kMq / 8) + r / 8] >> (r % 8)) & 1) == 0) continue;
      float weight = p[b.key * kMq + r];
      if (pairs) {
        std::uint32_t word;
        __builtin_memcpy(&word, p + (b.key / 2) * kMq + r, 4);
        word = b.key % 2 == 0 ? word << 16 : word & 0xffff0000u;
        __builtin_memcpy(&weight, &word, 4);
      }
      o[b.channel * kMq + r] += weight * b.value;
    }
}

}  // namespace
}  // namespace chitu::cpu
