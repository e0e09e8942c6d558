#pragma once

// chitu_int8: attention of one work item. Included after lut_softmax-inl.h.

#include "cpu/device/lut_softmax-inl.h"

namespace chitu::cpu {
namespace {

/// Cuts 64-byte aligned pieces off a thread's scratch memory; with a null base it only measures.
struct Carver {
  char* base;
  std::int64_t used = 0;
  template <class T>
  T* take(std::int64_t n) {
    char* at = base + used;
    used += (n * static_cast<std::int64_t>(sizeof(T)) + 63) / 64 * 64;
    return reinterpret_cast<T*>(at);
  }
};

struct LutScratch {
  float *q, *x, *o, *o_total, *bias, *add, *q_scale, *q_factor;
  std::int8_t* codes;
  std::int32_t *start, *s, *mx, *seen;
  std::uint32_t* p;
  std::uint8_t* bits;
  RowState *state, *total;
  TileFactors* factors;
  LutScratch(Carver& c, int dk, int dv) {
    q = c.take<float>(dk * kMq);
    x = c.take<float>(larger(dk, 16) * kMq);
    o = c.take<float>(dv * kMq);
    o_total = c.take<float>(dv * kMq);
    bias = c.take<float>(8 * kMq);
    add = c.take<float>(kTile * kMq);
    q_scale = c.take<float>(kMq);
    q_factor = c.take<float>(kMq);
    codes = c.take<std::int8_t>(dk * kMq);
    start = c.take<std::int32_t>(kMq);
    s = c.take<std::int32_t>(kTile * kMq);
    mx = c.take<std::int32_t>(kGroups * kMq);
    seen = c.take<std::int32_t>(kMq);
    p = c.take<std::uint32_t>(kTile / 4 * kMq);
    bits = c.take<std::uint8_t>(kTile * kMq / 8);
    state = c.take<RowState>(1);
    total = c.take<RowState>(1);
    factors = c.take<TileFactors>(1);
  }
};

/// Group maxima and key counts over what each row sees.
inline void masked_maxima(const LutScratch& w, const TileSpan& span) {
  for (int v = 0; v < 2; ++v) {
    I best[kGroups], count = Simd::zero_i();
    for (I& b : best) b = Simd::set_i(INT32_MIN);
    for (int key = span.begin; key < span.end; ++key) {
      const M m = visible_mask(w.bits, key, v);
      I& b = best[key % 8 / 2];
      b = Simd::max_i(b, Simd::select_i(m, Simd::load_i(w.s + key * kMq + v * kL), Simd::set_i(INT32_MIN)));
      count = Simd::add_i(count, Simd::select_i(m, Simd::set_i(1), Simd::zero_i()));
    }
    for (int g = 0; g < kGroups; ++g) Simd::store_i(w.mx + g * kMq + v * kL, best[g]);
    Simd::store_i(w.seen + v * kL, count);
  }
}

inline void reset_state(RowState& s, float* o, int dv) {
  for (int v = 0; v < 2; ++v) {
    Simd::store(s.m + v * kL, Simd::set(kNegInf));
    Simd::store(s.l + v * kL, Simd::zero());
    Simd::store(s.sum + v * kL, Simd::zero());
  }
  __builtin_memset(o, 0, static_cast<std::size_t>(dv) * kMq * sizeof(float));
}

/// total <- merge with a later chunk's part; the factors with which their O are merged.
inline void merge_rows(RowState& total, const RowState& part, float* of_total, float* of_part) {
  for (int v = 0; v < 2; ++v) {
    const int at = v * kL;
    const F none = Simd::set(kNegInf);
    const F ma = Simd::load(total.m + at), mb = Simd::load(part.m + at), m1 = max_nan(ma, mb);
    const F base = Simd::select(Simd::eq(m1, none), Simd::zero(), m1);
    // an empty side must add exactly nothing and leave the other side's bits alone
    const F fa = Simd::select(Simd::eq(ma, none), Simd::zero(), exp2_row(Simd::sub(ma, base)));
    const F fb = Simd::select(Simd::eq(mb, none), Simd::zero(), exp2_row(Simd::sub(mb, base)));
    Simd::store(total.m + at, m1);
    Simd::store(total.l + at, Simd::fma(Simd::load(total.l + at), fa, Simd::mul(Simd::load(part.l + at), fb)));
    Simd::store(total.sum + at, Simd::fma(Simd::load(total.sum + at), fa, Simd::mul(Simd::load(part.sum + at), fb)));
    Simd::store(of_total + at, fa);
    Simd::store(of_part + at, fb);
  }
}
inline void merge_chunk(RowState& total, float* o_total, const RowState& part, const float* o, int dv) {
  float fa[kMq], fb[kMq];
  merge_rows(total, part, fa, fb);
  for (int d = 0; d < dv * kMq; d += kL)
    Simd::store(o_total + d, Simd::fma(Simd::load(o_total + d), Simd::load(fa + d % kMq), Simd::mul(Simd::load(o + d), Simd::load(fb + d % kMq))));
}

inline void lut_tile(const AttendArgs& a, const Item& item, const Visible& seen, std::int64_t index, std::int64_t last, const LutScratch& w) {
  const TileLayout& l = a.layout;
  const unsigned char* tile = a.tiles + index * l.bytes;
  const bool additive = a.mask_kind != MaskKind::none && a.mask_kind != MaskKind::boolean;
  const TileSpan span = seen.span(index, a.mask_kind != MaskKind::none);
  const auto* head = reinterpret_cast<const TileHead*>(tile + l.head);

  scores_int8(tile + l.k, w.codes, w.start, l.dk, span.begin, span.end, w.s, w.mx, {tile + l.v, l.dv * kTile, (span.end - span.begin) / 8});
  if (span.masked) {
    visibility_bits(a, item, seen, index, span, w.bits);
    if (additive) additive_mask(a, item, index, span, w.add, w.bits);
    masked_maxima(w, span);
  }
  LutTile t{w.s, w.mx, w.bits, span.masked ? w.seen : nullptr, additive ? w.add : nullptr,
            head->flagged != 0 ? reinterpret_cast<const float*>(tile + l.token) : nullptr, w.q_factor, w.bias + (index % 8) * kMq, head, span.begin, span.end,
            a.lse != nullptr};
  w.factors->any_fix = false;
  for (int v = 0; v < 2; ++v) {
    if (head->flagged != 0 || additive) {
      span.masked ? lut_softmax_general<true>(t, v, *w.state, *w.factors, w.p) : lut_softmax_general<false>(t, v, *w.state, *w.factors, w.p);
    } else {
      span.masked ? lut_softmax_plain<true>(t, v, *w.state, *w.factors, w.p) : lut_softmax_plain<false>(t, v, *w.state, *w.factors, w.p);
    }
  }
  values_int8(w.p, tile + l.v, reinterpret_cast<const float*>(tile + l.vbar), l.dv, span.begin, span.end, *w.factors, w.o,
              {index < last ? tile + l.bytes + l.k : nullptr, l.dk * kTile, l.dv / Simd::kTileRows});
}

inline void finish_rows(const AttendArgs& a, const Item& item, const RowState& state, const float* o, double unit, const float* channel, const float* shift,
                        float* t) {
  float inv[kMq];
  for (int r = 0; r < kMq; ++r) inv[r] = state.m[r] == kNegInf && state.l[r] == 0.0f ? 0.0f : 1.0f / state.l[r];
  store_output(a, item, o, inv, channel, a.layout.head_dim_v, t);
  store_lse(a, item, state.m, state.sum, unit, shift);
}

inline std::int64_t lut_scratch_bytes(int dk, int dv) {
  Carver c{nullptr};
  LutScratch(c, dk, dv);
  return c.used;
}

inline void attend_lut(const AttendArgs& a, std::int64_t index, void* scratch) {
  const TileLayout& l = a.layout;
  Carver carver{static_cast<char*>(scratch)};
  const LutScratch w(carver, l.dk, l.dv);
  const Item item{index * kMq, static_cast<int>(smaller<std::int64_t>(kMq, a.group * a.seqlen_q - index * kMq))};
  const Visible seen = visible_keys(a, item);
  load_queries(a, item, l.head_dim, l.dk, w.x, w.q);
  quantize_queries(a, item, w.q, w.x, w.codes, w.q_scale, w.start);
  const float factor = (a.softmax_scale < 0.0f ? -a.softmax_scale : a.softmax_scale) * kLog2e;
  for (int v = 0; v < 2; ++v) Simd::store(w.q_factor + v * kL, Simd::mul(Simd::set(factor), Simd::load(w.q_scale + v * kL)));

  const std::int64_t first = seen.first_begin / kTile, end = seen.last_end > seen.first_begin ? (seen.last_end + kTile - 1) / kTile : first;
  reset_state(*w.total, w.o_total, l.dv);
  reset_state(*w.state, w.o, l.dv);
  bool merged = false;
  for (std::int64_t tile = first; tile < end;) {
    const std::int64_t chunk_end = smaller(end, (tile / kTilesPerChunk + 1) * kTilesPerChunk);
    reset_state(*w.state, w.o, l.dv);
    for (std::int64_t biased = tile; tile < chunk_end; ++tile) {
      if (tile == biased) {  // up to the next multiple of 8
        biased = smaller(chunk_end, (tile / 8 + 1) * 8);
        tile_biases(a.tiles + tile * l.bytes, l, static_cast<int>(biased - tile), w.q, factor, w.bias + (tile % 8) * kMq);
      }
      lut_tile(a, item, seen, tile, end - 1, w);
    }
    if (!merged && tile == end) break;  // one chunk: its state is the result
    merge_chunk(*w.total, w.o_total, *w.state, w.o, l.dv);
    merged = true;
  }
  finish_rows(a, item, merged ? *w.total : *w.state, merged ? w.o_total : w.o, 1.0 / core::kLutOne, a.channel, nullptr, w.x);
}

}  // namespace
}  // namespace chitu::cpu
