#pragma once

// The softmax of chitu_int8 on one tile (core/lut_exp.h): u8 codes against the tile's own maximum, three sums, the factors of PV.
// Included after int8-inl.h.

#include "cpu/device/int8-inl.h"

namespace chitu::cpu {
namespace {

/// Running state of the rows: maximum m (log2 units), normaliser l in units of 1/255, true sum for lse in units of 1/32640.
struct RowState {
  float m[kMq], l[kMq], sum[kMq];
};

struct LutTile {
  std::int32_t* s;             // [128][kMq]; the general path overwrites it with x
  const std::int32_t* mx;      // [kGroups][kMq] over the keys that each row sees
  const std::uint8_t* bits;    // [128][kMq/8], where masked
  const std::int32_t* seen;    // [kMq] keys that each row sees; null: 128
  const float* add;            // [128][kMq] additive mask in log2 units, or null
  const float* log2_t;         // [128] flagged tile, or null
  const float* q_factor;       // [kMq] f32(f32(|s|*L2E) * q_scale)
  const float* bias;           // [kMq]
  const TileHead* head;
  int begin, end;
  bool want_lse;
};

CHITU_INLINE I clamp_index(I index, const LutTile& t, bool masked, int key, int v) {
  const I last = Simd::set_i(core::kLutLastIndex);
  const I x = Simd::min_u(index, last);  // unsigned: 0x80000000 of an overflow or NaN lands at the end too
  return masked ? Simd::select_i(visible_mask(t.bits, key, v), x, last) : x;
}

/// Second half, common to both paths: state and factors from the sums. by: level of a flagged tile's codes, counted from b.
CHITU_INLINE void finish_tile(const LutTile& t, int v, F b, F by, I raw, I codes, F lse_sum, bool flagged, RowState& state, TileFactors& f) {
  const F none = Simd::set(kNegInf);
  const M hidden = Simd::eq(b, none);
  const F bias = Simd::load(t.bias + v * kL);
  const F level = Simd::select(hidden, none, Simd::add(b, bias));
  const F m = Simd::load(state.m + v * kL), m1 = max_nan(m, level);
  const F base = Simd::select(Simd::eq(m1, none), Simd::zero(), m1);
  const F keep = exp2_row(Simd::sub(m, base));
  const F beta = Simd::select(hidden, Simd::zero(), exp2_row(Simd::sub(level, base)));
  const F code_beta = flagged ? Simd::select(hidden, Simd::zero(), Simd::mul(beta, exp2_row(by))) : beta;

  const I diff = Simd::sub_i(raw, Simd::shl<7>(codes));  // R - 128 Q
  const I size = Simd::max_i(diff, Simd::sub_i(Simd::zero_i(), diff));
  const M fixed = flagged ? Simd::all() : Simd::gt_i(Simd::shl<6>(size), raw);
  F fix = Simd::select(fixed, Simd::mul(Simd::to_f(diff), Simd::set(1.0f / 128)), Simd::zero());
  const F raw_part = Simd::mul(flagged ? lse_sum : Simd::to_f(raw), Simd::set(1.0f / 128));
  if (flagged) {
    const F limit = Simd::div(Simd::mul(raw_part, Simd::set(t.head->shift_limit)), exp2_row(by));
    fix = Simd::max(Simd::sub(Simd::zero(), limit), Simd::min(limit, fix));
  }
  const F norm = Simd::select(fixed, raw_part, Simd::to_f(codes));
  const F weight = flagged ? code_beta : Simd::select(hidden, Simd::zero(), Simd::mul(beta, Simd::set(t.head->v_scale)));

  Simd::store(state.m + v * kL, m1);
  Simd::store(state.l + v * kL, Simd::fma(Simd::load(state.l + v * kL), keep, Simd::mul(beta, norm)));
  Simd::store(state.sum + v * kL, Simd::fma(Simd::load(state.sum + v * kL), keep, Simd::mul(beta, lse_sum)));
  Simd::store(f.keep + v * kL, keep);
  Simd::store(f.weight + v * kL, weight);
  Simd::store(f.fix + v * kL, fix);
  f.any_fix = f.any_fix || Simd::any(fixed);
}

/// Keys that see `flat` rows sum the unrounded exponentials; the others keep the table's sum.
CHITU_INLINE F flat_sum(const LutTile& t, int v, I raw, M& flat) {
  const I keys = t.seen != nullptr ? Simd::load_i(t.seen + v * kL) : Simd::set_i(kTile);
  // 32640 n = 2^15 n - 2^7 n
  flat = Simd::gt_i(Simd::shl<1>(raw), Simd::sub_i(Simd::shl<15>(keys), Simd::shl<7>(keys)));
  return Simd::to_f(raw);
}

template <bool masked>
inline void lut_softmax_plain(const LutTile& t, int v, RowState& state, TileFactors& f, std::uint32_t* p) {
  I mx[kGroups];
  F c[kGroups], off[kGroups];
  F b = Simd::set(kNegInf);
  for (int g = 0; g < kGroups; ++g) {
    mx[g] = Simd::load_i(t.mx + g * kMq + v * kL);
    c[g] = Simd::mul(Simd::load(t.q_factor + v * kL), Simd::set(t.head->k_scale[g]));
    off[g] = Simd::select(Simd::eq_i(mx[g], Simd::set_i(INT32_MIN)), Simd::set(kNegInf), Simd::mul(Simd::to_f(mx[g]), c[g]));
    b = max_nan(b, off[g]);
  }
  const F k64 = Simd::set(64.0f);
  for (int g = 0; g < kGroups; ++g) {
    off[g] = Simd::mul(Simd::sub(b, off[g]), k64);
    c[g] = Simd::mul(c[g], k64);
  }
  const Simd::Lut lut = Simd::lut();
  I raw = Simd::zero_i(), codes = Simd::zero_i();
  for (int key = t.begin; key < t.end; key += 8) {
    const std::int32_t* s = t.s + key * kMq + v * kL;
    CHITU_UNROLL
    for (int half = 0; half < 2; ++half) {
      I x[4];
      CHITU_UNROLL
      for (int i = 0; i < 4; ++i) {
        const int at = 4 * half + i, g = at / 2;
        const F below = Simd::to_f(Simd::sub_i(mx[g], Simd::load_i(s + at * kMq)));
        x[i] = clamp_index(Simd::to_i(Simd::fma(below, c[g], off[g])), t, masked, key + at, v);
      }
      Simd::store_i(p + (key / 4 + half) * kMq + v * kL, Simd::lut_codes(lut, x[0], x[1], x[2], x[3], raw, codes));
    }
  }
  F lse_sum = Simd::to_f(raw);
  if (t.want_lse) {
    M flat;
    lse_sum = flat_sum(t, v, raw, flat);
    if (Simd::any(flat)) {
      F sum = Simd::zero();
      for (int key = t.begin; key < t.end; ++key) {
        const int g = key % 8 / 2;
        const F x = Simd::fma(Simd::to_f(Simd::sub_i(mx[g], Simd::load_i(t.s + key * kMq + v * kL))), c[g], off[g]);
        const F e = exp2_fast(Simd::mul(x, Simd::set(-1.0f / 64)));
        sum = Simd::add(sum, masked ? Simd::select(visible_mask(t.bits, key, v), e, Simd::zero()) : e);
      }
      lse_sum = Simd::select(flat, Simd::mul(sum, Simd::set(static_cast<float>(core::kLutOne))), lse_sum);
    }
  }
  finish_tile(t, v, b, Simd::zero(), raw, codes, lse_sum, false, state, f);
}

/// Flagged tiles and additive masks: x in f32 first, then indices below the maximum b of x (sums) and of y = x - b + log2 t (codes).
template <bool masked>
inline void lut_softmax_general(const LutTile& t, int v, RowState& state, TileFactors& f, std::uint32_t* p) {
  const bool flagged = t.log2_t != nullptr;
  const F none = Simd::set(kNegInf), k64 = Simd::set(64.0f);
  F c[kGroups], b = none;
  for (int g = 0; g < kGroups; ++g) c[g] = Simd::mul(Simd::load(t.q_factor + v * kL), Simd::set(t.head->k_scale[g]));
  auto* xs = reinterpret_cast<float*>(t.s) + v * kL;
  M nan = Simd::invert(Simd::all());
  for (int key = t.begin; key < t.end; ++key) {
    F x = Simd::mul(Simd::to_f(Simd::load_i(t.s + key * kMq + v * kL)), c[key % 8 / 2]);
    if (t.add != nullptr) x = Simd::add(x, Simd::load(t.add + key * kMq + v * kL));
    if (masked) x = Simd::select(visible_mask(t.bits, key, v), x, none);
    Simd::store(xs + key * kMq, x);
    nan = Simd::either(nan, Simd::is_nan(x));
    b = Simd::max(b, x);
  }
  b = Simd::select(nan, Simd::set(__builtin_nanf("")), b);
  F by = flagged ? none : Simd::zero();
  auto y_of = [&](int key) { return Simd::add(Simd::sub(Simd::load(xs + key * kMq), b), Simd::set(t.log2_t[key])); };
  if (flagged) {
    for (int key = t.begin; key < t.end; ++key) by = Simd::max(by, y_of(key));
    by = Simd::select(nan, b, by);
  }
  const Simd::Lut lut = Simd::lut();
  I raw = Simd::zero_i(), codes = Simd::zero_i(), raw_x = Simd::zero_i();
  for (int key = t.begin; key < t.end; key += 4) {
    I x[4], y[4];
    CHITU_UNROLL
    for (int i = 0; i < 4; ++i) {
      const F s = Simd::load(xs + (key + i) * kMq);
      x[i] = clamp_index(Simd::to_i(Simd::mul(Simd::sub(b, s), k64)), t, masked, key + i, v);
      y[i] = x[i];
      if (flagged) y[i] = clamp_index(Simd::to_i(Simd::mul(Simd::sub(by, y_of(key + i)), k64)), t, masked, key + i, v);
    }
    if (flagged) {
      Simd::lut_sum(lut, x[0], x[1], raw_x);
      Simd::lut_sum(lut, x[2], x[3], raw_x);
    }
    Simd::store_i(p + key / 4 * kMq + v * kL, Simd::lut_codes(lut, y[0], y[1], y[2], y[3], raw, codes));
  }
  if (!flagged) raw_x = raw;
  M flat;
  F lse_sum = flat_sum(t, v, raw_x, flat);
  if ((t.want_lse || flagged) && Simd::any(flat)) {  // in flagged tiles it is the normaliser, too
    F sum = Simd::zero();
    for (int key = t.begin; key < t.end; ++key) {
      const F e = exp2_fast(Simd::sub(Simd::load(xs + key * kMq), b));
      sum = Simd::add(sum, masked ? Simd::select(visible_mask(t.bits, key, v), e, Simd::zero()) : e);
    }
    lse_sum = Simd::select(flat, Simd::mul(sum, Simd::set(static_cast<float>(core::kLutOne))), lse_sum);
  }
  finish_tile(t, v, b, by, raw, codes, lse_sum, flagged, state, f);
}

}  // namespace
}  // namespace chitu::cpu
