#pragma once

// Attention of one work item for every method but chitu_int8: exact (f32 or bf16 products), and 8-bit QK with 16-bit, f32 or 8-bit PV.
// Included after float_softmax-inl.h and attend_lut-inl.h.

#include "cpu/device/attend_lut-inl.h"
#include "cpu/device/float_softmax-inl.h"
#include "cpu/device/quantize-inl.h"

namespace chitu::cpu {
namespace {

struct FloatScratch {
  float *q, *q_words, *x, *o, *bias, *add, *q_scale, *row_factor, *k_scale, *s, *k, *v, *shift;
  std::int8_t* codes;
  std::int32_t *start, *mx;
  std::uint32_t* p;
  std::uint8_t* bits;
  BadValue* bad;
  FloatState* state;
  RowState* result;
  TileFactors* factors;
  FloatScratch(Carver& c, int dk, int dv) {
    q = c.take<float>(dk * kMq);
    q_words = c.take<float>(dk * kMq);
    x = c.take<float>(larger(dk, 16) * kMq);
    o = c.take<float>(dv * kMq);
    bias = c.take<float>(8 * kMq);
    add = c.take<float>(kTile * kMq);
    q_scale = c.take<float>(kMq);
    row_factor = c.take<float>(kMq);
    k_scale = c.take<float>(kTile);
    shift = c.take<float>(kMq);
    s = c.take<float>(kTile * kMq);
    k = c.take<float>(kTile * dk);
    v = c.take<float>(kTile * dv);
    codes = c.take<std::int8_t>(dk * kMq);
    start = c.take<std::int32_t>(kMq);
    mx = c.take<std::int32_t>(kGroups * kMq);
    p = c.take<std::uint32_t>(kTile / 2 * kMq);
    bits = c.take<std::uint8_t>(kTile * kMq / 8);
    bad = c.take<BadValue>(std::int64_t{kTile} * dv);
    state = c.take<FloatState>(1);
    result = c.take<RowState>(1);
    factors = c.take<TileFactors>(1);
  }
};

inline std::int64_t float_scratch_bytes(int dk, int dv) {
  Carver c{nullptr};
  FloatScratch(c, dk, dv);
  return c.used;
}

/// How one item multiplies.
struct FloatPlan {
  bool int8_scores, bf16_scores, pairs;  // pairs: bf16 PV by the dot product of two
  int dk, dv;
};

/// Q.K of a tile into w.s.
inline Scores tile_scores(const AttendArgs& a, const FloatPlan& plan, const FloatScratch& w, std::int64_t index, const TileSpan& span) {
  const TileLayout& l = a.layout;
  if (plan.int8_scores) {
    const unsigned char* tile = a.tiles + index * l.bytes;
    scores_int8(tile + l.k, w.codes, w.start, l.dk, span.begin, span.end, reinterpret_cast<std::int32_t*>(w.s), w.mx, {nullptr, 0, 1});
    return a.k_quant == KQuant::tile_groups ? Scores::groups : Scores::tokens;
  }
  const std::int64_t first = index * kTile;
  const int count = static_cast<int>(smaller<std::int64_t>(kTile, a.seqlen_k - first));
  const bool f32 = a.k.elem == Elem::f32;
  Words k{};
  if (count == kTile && (f32 || (plan.bf16_scores && l.head_dim % 2 == 0))) {  // as it lies
    const std::int64_t size = f32 ? 4 : 2;
    k = {static_cast<const char*>(a.k.data) + first * a.k.stride * size, a.k.stride * size};
  } else {
    k = pack_keys(a.k, first, count, l.head_dim, plan.dk, plan.bf16_scores, w.k);
  }
  if (plan.bf16_scores) scores_float<true>(k, w.q_words, (l.head_dim + 1) / 2, span.begin, span.end, w.s);
  else scores_float<false>(k, w.q_words, l.head_dim, span.begin, span.end, w.s);
  return Scores::f32;
}

/// O = O*keep + P.V of a tile.
inline void tile_values(const AttendArgs& a, const FloatPlan& plan, const FloatScratch& w, std::int64_t index, const TileSpan& span) {
  const TileLayout& l = a.layout;
  if (a.p == PKind::s8) {
    const unsigned char* tile = a.tiles + index * l.bytes;
    for (int v = 0; v < 2; ++v) {
      Simd::store(w.factors->keep + v * kL, Simd::load(w.state->keep + v * kL));
      Simd::store(w.factors->weight + v * kL, Simd::set(1.0f));
    }
    w.factors->any_fix = false;
    values_int8(w.p, tile + l.v, nullptr, l.dv, span.begin, span.end, *w.factors, w.o, {nullptr, 0, 1});
    return;
  }
  const std::int64_t first = index * kTile;
  const int count = static_cast<int>(smaller<std::int64_t>(kTile, a.seqlen_k - first));
  const float* p = plan.pairs ? reinterpret_cast<const float*>(w.p) : w.s;
  const int step = plan.pairs ? 2 : 1;
  int bad = 0;
  Words v{};
  if (!span.masked && a.p == PKind::f32 && a.v.elem == Elem::f32 && l.head_dim_v == plan.dv) {
    v = {static_cast<const char*>(a.v.data) + first * a.v.stride * 4, a.v.stride * 4};
  } else {
    v = pack_values(a, first, count, plan.dv, plan.pairs, w.v);
    if (span.masked && absmax_rows(a.v, first, count, 1, l.head_dim_v) >= 0x7f800000) bad = take_bad_values(w.v, plan.dv, plan.pairs, w.bad);
  }
  if (plan.pairs) values_float<true>(p, v, plan.dv, span.begin / step, span.end / step, w.state->keep, w.o);
  else values_float<false>(p, v, plan.dv, span.begin, span.end, w.state->keep, w.o);
  add_bad_values(w.bad, bad, p, plan.pairs, w.bits, w.o);
}

inline void float_tile(const AttendArgs& a, const Item& item, const FloatPlan& plan, const Visible& seen, std::int64_t index, const FloatScratch& w) {
  const TileLayout& l = a.layout;
  const bool additive = a.mask_kind != MaskKind::none && a.mask_kind != MaskKind::boolean;
  const TileSpan span = seen.span(index, a.mask_kind != MaskKind::none);
  const Scores kind = tile_scores(a, plan, w, index, span);
  if (span.masked) {
    visibility_bits(a, item, seen, index, span, w.bits);
    if (additive) additive_mask(a, item, index, span, w.add, w.bits);
  }
  const float* k_scale = w.k_scale;
  if (plan.int8_scores) {
    const unsigned char* tile = a.tiles + index * l.bytes;
    const auto* head = reinterpret_cast<const TileHead*>(tile + l.head);
    if (a.k_quant == KQuant::tile_groups) k_scale = head->k_scale;
    if (a.k_quant == KQuant::per_token) k_scale = reinterpret_cast<const float*>(tile + l.token);
    if (a.k_quant == KQuant::per_64)
      for (int j = 0; j < kTile; ++j) w.k_scale[j] = head->k_scale[j / 64];
  }
  const bool has_bias = plan.int8_scores && a.k_quant == KQuant::tile_groups;
  const FloatTile t{w.s,      w.mx,          w.bits, additive ? w.add : nullptr, w.row_factor, k_scale, has_bias ? w.bias + (index % 8) * kMq : nullptr, span.begin,
                    span.end, a.p_range, a.lazy_octaves, a.p, plan.pairs, plan.pairs || a.p == PKind::s8 ? static_cast<void*>(w.p) : w.s};
  switch (kind) {
    case Scores::f32: float_softmax<Scores::f32>(t, span.masked, *w.state); break;
    case Scores::groups: float_softmax<Scores::groups>(t, span.masked, *w.state); break;
    case Scores::tokens: float_softmax<Scores::tokens>(t, span.masked, *w.state); break;
  }
  tile_values(a, plan, w, index, span);
}

/// The query side: codes and row factors, or words and one factor.
inline void float_queries(const AttendArgs& a, const Item& item, const FloatPlan& plan, const FloatScratch& w, float factor) {
  load_queries(a, item, a.layout.head_dim, plan.dk, w.x, w.q);
  for (int v = 0; v < 2; ++v) Simd::store(w.row_factor + v * kL, Simd::set(factor));
  if (plan.int8_scores) {
    quantize_queries(a, item, w.q, w.x, w.codes, w.q_scale, w.start);
    for (int v = 0; v < 2; ++v) Simd::store(w.row_factor + v * kL, Simd::mul(Simd::set(factor), Simd::load(w.q_scale + v * kL)));
    return;
  }
  for (int v = 0; v < 2; ++v)
    for (int d = 0; d < plan.dk; d += plan.bf16_scores ? 2 : 1) {
      const I low = Simd::as_i(Simd::load(w.q + (v * plan.dk + d) * kL));
      if (plan.bf16_scores) {  // q is bf16: the low halves are zero
        const I high = Simd::as_i(Simd::load(w.q + (v * plan.dk + d + 1) * kL));
        Simd::store_i(w.q_words + (d / 2 * 2 + v) * kL, Simd::or_i(Simd::shr<16>(low), high));
      } else {
        Simd::store_i(w.q_words + (d * 2 + v) * kL, low);
      }
    }
}

inline void attend_float(const AttendArgs& a, std::int64_t index, void* scratch) {
  const TileLayout& l = a.layout;
  const FloatPlan plan{a.tiles != nullptr, a.tiles == nullptr && Simd::kBf16Dot && a.k.elem == Elem::bf16 && a.p == PKind::bf16,
                       Simd::kBf16Dot && a.p == PKind::bf16, l.dk, (l.head_dim_v + 15) / 16 * 16};
  Carver carver{static_cast<char*>(scratch)};
  const FloatScratch w(carver, plan.dk, plan.dv);
  const Item item{index * kMq, static_cast<int>(smaller<std::int64_t>(kMq, a.group * a.seqlen_q - index * kMq))};
  const Visible seen = visible_keys(a, item);
  const float scale = a.softmax_scale < 0.0f ? -a.softmax_scale : a.softmax_scale, factor = scale * kLog2e;
  float_queries(a, item, plan, w, factor);
  reset_state(*w.result, w.o, plan.dv);
  for (int v = 0; v < 2; ++v) {
    Simd::store(w.state->m + v * kL, Simd::set(kNegInf));
    Simd::store(w.state->sum + v * kL, Simd::zero());
  }
  const std::int64_t first = seen.first_begin / kTile, end = seen.last_end > seen.first_begin ? (seen.last_end + kTile - 1) / kTile : first;
  std::int64_t biased = first;
  for (std::int64_t tile = first; tile < end; ++tile) {
    if (tile == biased && plan.int8_scores && a.k_quant == KQuant::tile_groups) {
      biased = smaller(end, (tile / 8 + 1) * 8);
      tile_biases(a.tiles + tile * l.bytes, l, static_cast<int>(biased - tile), w.q, factor, w.bias + (tile % 8) * kMq);
    }
    float_tile(a, item, plan, seen, tile, w);
  }
  for (int v = 0; v < 2; ++v) {
    Simd::store(w.result->m + v * kL, Simd::load(w.state->m + v * kL));
    Simd::store(w.result->sum + v * kL, Simd::load(w.state->sum + v * kL));
    Simd::store(w.result->l + v * kL, Simd::mul(Simd::load(w.state->sum + v * kL), Simd::set(a.p_range)));
  }
  if (a.k_mean != nullptr && a.lse != nullptr) {
    for (int v = 0; v < 2; ++v) {
      F dot = Simd::zero();
      for (int d = 0; d < l.head_dim; ++d) dot = Simd::add(dot, Simd::mul(Simd::load(w.q + (v * plan.dk + d) * kL), Simd::set(a.k_mean[d])));
      Simd::store(w.shift + v * kL, Simd::mul(dot, Simd::set(scale)));
    }
  }
  finish_rows(a, item, *w.result, w.o, 1.0, a.channel, a.k_mean != nullptr ? w.shift : nullptr, w.x);
}

}  // namespace
}  // namespace chitu::cpu
