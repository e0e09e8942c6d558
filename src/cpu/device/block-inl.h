#pragma once

// A work item: kMq rows (query i of query head g, row = i * group + g) of one KV head, in lanes. What they see, their Q operand, their results.
// Included after rows-inl.h.

#include "cpu/device/rows-inl.h"

namespace chitu::cpu {
namespace {

constexpr int kMq = 2 * kL;  // rows per item: two vectors
constexpr float kLog2e = 1.4426950408889634f;
constexpr float kNegInf = -__builtin_inff();

/// 2^x, relative error 2e-7 (Taylor, degree 6 on [-1/2, 1/2]); exactly 1 at 0; below -125 it stays at 2^-125. NaN needs the caller's care.
CHITU_INLINE F exp2_fast(F x) {
  const F y = Simd::max(Simd::set(-125.0f), x);
  const F magic = Simd::set(12582912.0f);
  const F t = Simd::add(y, magic);
  const F f = Simd::sub(y, Simd::sub(t, magic));
  F p = Simd::fma(f, Simd::set(1.5403530e-4f), Simd::set(1.3333558e-3f));
  p = Simd::fma(p, f, Simd::set(9.6181291e-3f));
  p = Simd::fma(p, f, Simd::set(5.5504109e-2f));
  p = Simd::fma(p, f, Simd::set(2.4022651e-1f));
  p = Simd::fma(p, f, Simd::set(6.9314718e-1f));
  p = Simd::fma(p, f, Simd::set(1.0f));
  return Simd::as_f(Simd::add_i(Simd::as_i(p), Simd::shl<23>(Simd::as_i(t))));
}
/// The same with NaN in, NaN out: for values that decide about a whole row.
CHITU_INLINE F exp2_row(F x) { return Simd::select(Simd::is_nan(x), x, exp2_fast(x)); }
CHITU_INLINE F max_nan(F a, F b) { return Simd::select(Simd::is_nan(a), a, Simd::max(a, b)); }

/// Keys that a tile's loops must visit, relative to the tile, multiples of 16; `masked`: some row does not see all of them.
struct TileSpan {
  int begin, end;
  bool masked;
};

/// Which keys the rows see.
struct Visible {
  std::int64_t begin[kMq], end[kMq];  // lanes without a row repeat the last one
  std::int64_t first_begin, last_begin, first_end, last_end;

  TileSpan span(std::int64_t tile, bool dense) const {
    const std::int64_t j0 = tile * kTile;
    const std::int64_t b = larger<std::int64_t>(0, first_begin - j0), e = smaller<std::int64_t>(kTile, last_end - j0);
    TileSpan s;
    s.begin = static_cast<int>(b) / 16 * 16;
    s.end = (static_cast<int>(larger<std::int64_t>(e, 0)) + 15) / 16 * 16;
    s.masked = dense || last_begin > j0 || first_end < j0 + kTile;
    return s;
  }
};

struct Item {
  std::int64_t row0;
  int rows;
};

inline Visible visible_keys(const AttendArgs& a, const Item& item) {
  Visible v;
  for (int r = 0; r < kMq; ++r) {
    const std::int64_t i = (item.row0 + smaller(r, item.rows - 1)) / a.group;
    v.begin[r] = smaller(a.seqlen_k, larger<std::int64_t>(0, i + a.diagonal - a.left));  // a row without keys must not name tiles beyond the last
    v.end[r] = larger(v.begin[r], smaller<std::int64_t>(a.seqlen_k, i + a.diagonal + a.right + 1));
    if (r == 0) {
      v.first_begin = v.last_begin = v.begin[0];
      v.first_end = v.last_end = v.end[0];
    }
    v.first_begin = smaller(v.first_begin, v.begin[r]);
    v.last_begin = larger(v.last_begin, v.begin[r]);
    v.first_end = smaller(v.first_end, v.end[r]);
    v.last_end = larger(v.last_end, v.end[r]);
  }
  return v;
}

/// One bit per row for each key of a span: bits[128][kMq/8]. A dense boolean mask is part of it.
inline void visibility_bits(const AttendArgs& a, const Item& item, const Visible& seen, std::int64_t tile, const TileSpan& span, std::uint8_t* bits) {
  std::int32_t begin[kMq], end[kMq];
  for (int r = 0; r < kMq; ++r) {
    begin[r] = static_cast<std::int32_t>(smaller<std::int64_t>(kTile, larger<std::int64_t>(0, seen.begin[r] - tile * kTile)));
    end[r] = static_cast<std::int32_t>(smaller<std::int64_t>(kTile, larger<std::int64_t>(0, seen.end[r] - tile * kTile)));
  }
  for (int j = span.begin; j < span.end; ++j)
    for (int v = 0; v < 2; ++v) {
      const I at = Simd::set_i(j);
      const M m = Simd::both(Simd::invert(Simd::gt_i(Simd::load_i(begin + v * kL), at)), Simd::gt_i(Simd::load_i(end + v * kL), at));
      Simd::store_mask(bits + j * (kMq / 8) + v * (kL / 8), m);
    }
  if (a.mask_kind != MaskKind::boolean) return;
  for (int r = 0; r < kMq; ++r) {
    const std::int64_t row = item.row0 + smaller(r, item.rows - 1);
    const auto* mask = static_cast<const std::uint8_t*>(a.mask) + row % a.group * a.mask_head_stride + row / a.group * a.mask_query_stride;
    for (int j = span.begin; j < span.end; ++j) {
      std::uint8_t& byte = bits[j * (kMq / 8) + r / 8];
      const std::int64_t key = tile * kTile + j;
      if (key >= a.seqlen_k || mask[key * a.mask_key_stride] == 0) byte = static_cast<std::uint8_t>(byte & ~(1u << (r % 8)));
    }
  }
}
CHITU_INLINE M visible_mask(const std::uint8_t* bits, int key, int v) { return Simd::load_mask(bits + key * (kMq / 8) + v * (kL / 8)); }

/// Additive mask in log2 units, add[128][kMq]. A key whose element is -inf does not exist for the row: its bit goes, too.
inline void additive_mask(const AttendArgs& a, const Item& item, std::int64_t tile, const TileSpan& span, float* add, std::uint8_t* bits) {
  const Elem elem = a.mask_kind == MaskKind::f32 ? Elem::f32 : a.mask_kind == MaskKind::f16 ? Elem::f16 : Elem::bf16;
  for (int r = 0; r < kMq; ++r) {
    const std::int64_t row = item.row0 + smaller(r, item.rows - 1);
    const std::int64_t at = row % a.group * a.mask_head_stride + row / a.group * a.mask_query_stride;
    for (int j = span.begin; j < span.end; ++j) {
      const std::int64_t key = tile * kTile + j;
      float x[kL] = {};
      if (key < a.seqlen_k) Simd::store(x, load_elems(a.mask, elem, at + key * a.mask_key_stride, 1));
      std::uint8_t& byte = bits[j * (kMq / 8) + r / 8];
      if (x[0] == kNegInf) byte = static_cast<std::uint8_t>(byte & ~(1u << (r % 8)));
      add[j * kMq + r] = x[0] * kLog2e;
    }
  }
}

/// Q of the item as columns q[2][dk][kLanes] in f32, the sign of softmax_scale folded in; x is scratch for kMq * dk floats.
inline void load_queries(const AttendArgs& a, const Item& item, int head_dim, int dk, float* x, float* q) {
  const I flip = Simd::set_i(a.softmax_scale < 0.0f ? static_cast<std::int32_t>(0x80000000u) : 0);
  for (int r = 0; r < kMq; ++r) {
    const std::int64_t row = item.row0 + smaller(r, item.rows - 1);
    const std::int64_t at = row / a.group * a.q.stride + row % a.group * a.q_head_stride;
    for (int d = 0; d < dk; d += kL) {
      const int n = larger(0, smaller(kL, head_dim - d));
      const F v = load_elems(a.q.data, a.q.elem, at + (n > 0 ? d : 0), n);
      Simd::store(x + r * dk + d, Simd::as_f(Simd::xor_i(Simd::as_i(v), flip)));
    }
  }
  for (int v = 0; v < 2; ++v)
    for (int d = 0; d < dk; d += kL) Simd::transpose(x + v * kL * dk + d, dk, q + v * dk * kL + d * kL, kL);
}

/// 8-bit operand of QK from the columns: codes[dk/4][2][kLanes][4], scales q_scale[kMq], start of the accumulators -128 * sum of codes
/// (K is held as code + 128). `y` is scratch for dk * kLanes floats.
inline void quantize_queries(const AttendArgs& a, const Item& item, const float* q, float* y, std::int8_t* codes, float* q_scale, std::int32_t* start) {
  const TileLayout& l = a.layout;
  for (int v = 0; v < 2; ++v) {
    const float* from = q + v * l.dk * kL;
    __builtin_memcpy(y, from, static_cast<std::size_t>(l.dk) * kL * sizeof(float));
    std::int32_t amax[kL];
    float inv[kL];
    Simd::store_i(amax, a.factor != nullptr ? rotate_columns(y, l.head_dim, a.factor) : absmax_columns(y, l.head_dim));
    for (int i = 0; i < kL; ++i) {
      const std::int64_t row = item.row0 + smaller(v * kL + i, item.rows - 1);
      const GroupScale s = group_scale(a.q_absmax == nullptr ? amax[i] : a.q_absmax[row % a.group * a.q_blocks + row / a.group / 128]);
      q_scale[v * kL + i] = s.scale;
      inv[i] = s.inv;
    }
    I sum = Simd::zero_i();
    const F scale = Simd::load(inv);
    for (int d = 0; d < l.dk; d += 4) {
      I c[4];
      for (int i = 0; i < 4; ++i) {
        c[i] = int8_codes(Simd::load(y + (d + i) * kL), scale);
        sum = Simd::add_i(sum, c[i]);
      }
      Simd::store_i(codes + (static_cast<std::int64_t>(d) / 4 * 2 + v) * kL * 4, pack4(c[0], c[1], c[2], c[3]));
    }
    Simd::store_i(start + v * kL, Simd::sub_i(Simd::zero_i(), Simd::shl<7>(sum)));
  }
}

/// out rows from o[width][kMq] times inv (per row) times channel (per channel, or null). t is scratch for kLanes * kLanes floats.
inline void store_output(const AttendArgs& a, const Item& item, const float* o, const float* inv, const float* channel, int head_dim_v, float* t) {
  for (int v = 0; v < 2; ++v)
    for (int d = 0; d < head_dim_v; d += kL) {
      alignas(64) float block[kL * kL];
      for (int i = 0; i < kL; ++i) {
        F x = Simd::mul(Simd::load(o + (d + i) * kMq + v * kL), Simd::load(inv + v * kL));
        if (channel != nullptr) x = Simd::mul(x, Simd::set(channel[d + i]));
        // a row without keys has inv 0, and 0 even where c[d] is NaN
        x = Simd::select(Simd::eq(Simd::load(inv + v * kL), Simd::zero()), Simd::zero(), x);
        Simd::store(block + i * kL, x);
      }
      Simd::transpose(block, kL, t, kL);
      for (int i = 0; i < kL && v * kL + i < item.rows; ++i) {
        const std::int64_t row = item.row0 + v * kL + i;
        store_elems(a.out, a.out_elem, row / a.group * a.out_stride + row % a.group * a.out_head_stride + d, Simd::load(t + i * kL), smaller(kL, head_dim_v - d));
      }
    }
}

/// lse = ln2 * (m + log2 sum) + shift, -inf for a row without a key.
inline void store_lse(const AttendArgs& a, const Item& item, const float* m, const float* sum, double unit, const float* shift) {
  if (a.lse == nullptr) return;
  for (int r = 0; r < item.rows; ++r) {
    const std::int64_t row = item.row0 + r;
    const bool empty = m[r] == kNegInf && sum[r] == 0.0f;
    double x = 0.69314718055994531 * (static_cast<double>(m[r]) + __builtin_log2(static_cast<double>(sum[r]) * unit));
    if (shift != nullptr) x += static_cast<double>(shift[r]);
    a.lse[row / a.group * a.lse_stride + row % a.group * a.lse_head_stride] = empty ? kNegInf : static_cast<float>(x);
  }
}

}  // namespace
}  // namespace chitu::cpu
