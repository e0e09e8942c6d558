#pragma once

// Softmax with f32 exponentials against the running maximum (or one that lags by up to lazy_octaves). Included after float-inl.h.

#include "cpu/device/float-inl.h"

namespace chitu::cpu {
namespace {

enum class Scores { f32, groups, tokens };  // how s becomes octaves: times the row's factor; int32 times row and group factor; int32 times row and token factor

struct FloatTile {
  float* s;                  // [128][kMq] f32 or int32 scores; octaves afterwards, unless they are not needed
  const std::int32_t* mx;    // groups: [kGroups][kMq] maxima of all keys
  const std::uint8_t* bits;  // where masked
  const float* add;          // or null
  const float* row_factor;   // [kMq]
  const float* k_scale;      // [kGroups] or [128]
  const float* bias;         // [kMq] or null
  int begin, end;
  float p_range, lazy_octaves;
  PKind p;
  bool pairs;                // bf16 P of two keys in a word
  void* codes;               // P: float [128][kMq], words [64][kMq] or code words [32][kMq]
};

struct FloatState {
  float m[kMq], sum[kMq], keep[kMq];
};

/// New maximum from the tile's (level, bias not in it): sets state.m and keep, multiplies sum; returns what is subtracted from the octaves.
CHITU_INLINE F move_max(const FloatTile& t, int v, F level, FloatState& state) {
  const F none = Simd::set(kNegInf), bias = t.bias != nullptr ? Simd::load(t.bias + v * kL) : Simd::zero();
  const F top = Simd::select(Simd::eq(level, none), none, Simd::add(level, bias));
  const F m = Simd::load(state.m + v * kL);
  F m1 = max_nan(m, top);
  if (t.lazy_octaves > 0.0f) {  // stay unless the top is more than lazy_octaves above; NaN moves
    const M first = Simd::eq(m, none), high = Simd::lt(Simd::set(t.lazy_octaves), Simd::sub(top, m));
    const M move = Simd::either(Simd::either(first, high), Simd::is_nan(top));
    m1 = Simd::select(move, top, m);
  }
  const F keep = Simd::select(Simd::eq(m, m1), Simd::set(1.0f), exp2_row(Simd::sub(m, Simd::select(Simd::eq(m1, none), Simd::zero(), m1))));
  Simd::store(state.m + v * kL, m1);
  Simd::store(state.keep + v * kL, keep);
  Simd::store(state.sum + v * kL, Simd::mul(Simd::load(state.sum + v * kL), keep));
  // m1 - bias, but not by way of the bias: where it is huge, its rounding would put the level octaves away from the tile's largest key
  return Simd::select(Simd::eq(level, none), Simd::zero(), Simd::add(level, Simd::sub(m1, top)));
}

CHITU_INLINE F rounded(const FloatTile& t, F p) {
  const F x = Simd::mul(p, Simd::set(t.p_range));
  return t.p == PKind::f16 ? Simd::round_f16(x) : t.p == PKind::bf16 ? Simd::round_bf16(x) : x;
}

/// Stores P of 4 keys from `key` on.
CHITU_INLINE void store_weights(const FloatTile& t, int key, int v, const F* p) {
  if (t.p == PKind::s8) {
    I c[4];
    for (int i = 0; i < 4; ++i) c[i] = Simd::to_i(Simd::mul(p[i], Simd::set(t.p_range)));
    Simd::store_i(static_cast<std::uint32_t*>(t.codes) + key / 4 * kMq + v * kL, pack4(c[0], c[2], c[1], c[3]));
  } else if (t.pairs) {
    auto* to = static_cast<std::uint32_t*>(t.codes) + key / 2 * kMq + v * kL;
    Simd::store_i(to, Simd::pack_bf16(p[0], p[1]));
    Simd::store_i(to + kMq, Simd::pack_bf16(p[2], p[3]));
  } else {
    for (int i = 0; i < 4; ++i) Simd::store(static_cast<float*>(t.codes) + (key + i) * kMq + v * kL, rounded(t, p[i]));
  }
}

template <Scores kind>
CHITU_INLINE F octaves(const FloatTile& t, int key, int v, F row_factor, const F* group_factor) {
  const float* s = t.s + key * kMq + v * kL;
  if constexpr (kind == Scores::f32) return Simd::mul(Simd::load(s), row_factor);
  if constexpr (kind == Scores::groups) return Simd::mul(Simd::to_f(Simd::load_i(s)), group_factor[key % 8 / 2]);
  return Simd::mul(Simd::to_f(Simd::load_i(s)), Simd::mul(row_factor, Simd::set(t.k_scale[key])));
}

template <Scores kind, bool masked>
inline void float_softmax(const FloatTile& t, int v, FloatState& state) {
  const F none = Simd::set(kNegInf), factor = Simd::load(t.row_factor + v * kL);
  F group_factor[kGroups];
  for (int g = 0; g < kGroups; ++g) group_factor[g] = kind == Scores::groups ? Simd::mul(factor, Simd::set(t.k_scale[g])) : factor;
  F level = none;
  constexpr bool single_pass = kind == Scores::groups && !masked;  // the integer maxima are enough
  if constexpr (single_pass) {
    for (int g = 0; g < kGroups; ++g) level = max_nan(level, Simd::mul(Simd::to_f(Simd::load_i(t.mx + g * kMq + v * kL)), group_factor[g]));
  } else {
    M nan = Simd::invert(Simd::all());
    for (int key = t.begin; key < t.end; ++key) {
      F x = octaves<kind>(t, key, v, factor, group_factor);
      if (masked && t.add != nullptr) x = Simd::add(x, Simd::load(t.add + key * kMq + v * kL));
      if (masked) x = Simd::select(visible_mask(t.bits, key, v), x, none);
      Simd::store(t.s + key * kMq + v * kL, x);
      nan = Simd::either(nan, Simd::is_nan(x));
      level = Simd::max(level, x);
    }
    level = Simd::select(nan, Simd::set(__builtin_nanf("")), level);
  }
  const F base = move_max(t, v, level, state);
  F sum[4] = {Simd::load(state.sum + v * kL), Simd::zero(), Simd::zero(), Simd::zero()};
  for (int key = t.begin; key < t.end; key += 4) {
    F p[4];
    CHITU_UNROLL
    for (int i = 0; i < 4; ++i) {
      const F x = single_pass ? octaves<kind>(t, key + i, v, factor, group_factor) : Simd::load(t.s + (key + i) * kMq + v * kL);
      p[i] = exp2_fast(Simd::sub(x, base));
      if (masked) p[i] = Simd::select(visible_mask(t.bits, key + i, v), p[i], Simd::zero());
      sum[i] = Simd::add(sum[i], p[i]);
    }
    store_weights(t, key, v, p);
  }
  Simd::store(state.sum + v * kL, Simd::add(Simd::add(sum[0], sum[1]), Simd::add(sum[2], sum[3])));
}

template <Scores kind>
inline void float_softmax(const FloatTile& t, bool masked, FloatState& state) {
  for (int v = 0; v < 2; ++v) masked ? float_softmax<kind, true>(t, v, state) : float_softmax<kind, false>(t, v, state);
}

}  // namespace
}  // namespace chitu::cpu
