#pragma once

// Attention of one work item for every method but chitu_int8: exact (f32 or bf16 products), and 8-bit QK with 16-bit, f32 or 8-bit PV.
// Included after float_softmax-inl.h and attend_lut-inl.h.

#include "cpu/device/attend_lut-inl.h"
#include "cpu/device/float_softmax-inl.h"
#include "cpu/device/quantize-inl.h"

namespace chitu::cpu {
namespace {

constexpr int kBlocks = 4;  // blocks of kMq rows per item: they share the packing of K and V

/// Of one block of rows.
struct FloatBlock {
  Item item;
  Visible seen;
  std::int64_t first, end;  // tiles
  float *q, *q_words, *o, *bias, *q_scale, *row_factor, *shift;
  std::int8_t* codes;
  std::int32_t* start;
  FloatState* state;
  FloatBlock() = default;
  FloatBlock(Carver& c, int dk, int dv) {
    q = c.take<float>(dk * kMq);
    q_words = c.take<float>(dk * kMq);
    o = c.take<float>(dv * kMq);
    bias = c.take<float>(8 * kMq);
    q_scale = c.take<float>(kMq);
    row_factor = c.take<float>(kMq);
    shift = c.take<float>(kMq);
    codes = c.take<std::int8_t>(dk * kMq);
    start = c.take<std::int32_t>(kMq);
    state = c.take<FloatState>(1);
  }
};

/// Of the tile and block at hand.
struct FloatScratch {
  float *x, *add, *k_scale, *s, *k, *v;
  std::int32_t* mx;
  std::uint32_t* p;
  std::uint8_t* bits;
  BadValue* bad;
  RowState* result;
  TileFactors* factors;
  FloatScratch(Carver& c, int dk, int dv) {
    x = c.take<float>(larger(dk, 16) * kMq);
    add = c.take<float>(kTile * kMq);
    k_scale = c.take<float>(kTile);
    s = c.take<float>(kTile * kMq);
    k = c.take<float>(kTile * dk);
    v = c.take<float>(kTile * dv);
    mx = c.take<std::int32_t>(kGroups * kMq);
    p = c.take<std::uint32_t>(kTile / 2 * kMq);
    bits = c.take<std::uint8_t>(kTile * kMq / 8);
    bad = c.take<BadValue>(std::int64_t{kTile} * dv);
    result = c.take<RowState>(1);
    factors = c.take<TileFactors>(1);
  }
};

inline std::int64_t float_scratch_bytes(int dk, int dv) {
  Carver c{nullptr};
  FloatScratch(c, dk, dv);
  for (int i = 0; i < kBlocks; ++i) FloatBlock(c, dk, dv);
  return c.used;
}

/// How one item multiplies.
struct FloatPlan {
  bool int8_scores, bf16_scores, pairs;  // pairs: bf16 PV by the dot product of two
  int dk, dv;
};

/// What the blocks share in a tile: K and V in words.
struct TileOperands {
  Words k, v;
  int bad;  // values taken out of v because some row may not see them
};

inline TileOperands tile_operands(const AttendArgs& a, const FloatPlan& plan, const FloatScratch& w, std::int64_t index, bool masked) {
  const TileLayout& l = a.layout;
  const std::int64_t first = index * kTile;
  const int count = static_cast<int>(smaller<std::int64_t>(kTile, a.seqlen_k - first));
  TileOperands t{};
  if (!plan.int8_scores) {
    const bool f32 = a.k.elem == Elem::f32;
    if (count == kTile && (f32 || (plan.bf16_scores && l.head_dim % 2 == 0))) {  // as it lies
      const std::int64_t size = f32 ? 4 : 2;
      t.k = {static_cast<const char*>(a.k.data) + first * a.k.stride * size, a.k.stride * size};
    } else {
      t.k = pack_keys(a.k, first, count, l.head_dim, plan.dk, plan.bf16_scores, w.k);
    }
  }
  if (a.p == PKind::s8) return t;
  t.v = pack_values(a, first, count, plan.dv, plan.pairs, w.v);
  if (masked && absmax_rows(a.v, first, count, 1, l.head_dim_v) >= 0x7f800000) t.bad = take_bad_values(w.v, plan.dv, plan.pairs, w.bad);
  return t;
}

/// Asks for the operands of the next tile: rows of a head lie apart, so no hardware prefetcher follows them.
inline void prefetch_rows(const Rows& rows, std::int64_t first, std::int64_t count, int head_dim) {
  const int size = rows.elem == Elem::f32 ? 4 : 2;
  for (std::int64_t r = first; r < first + count; ++r)
    for (int byte = 0; byte < head_dim * size; byte += 64) Simd::prefetch_l2(static_cast<const char*>(rows.data) + r * rows.stride * size + byte);
}
inline void prefetch_tile(const AttendArgs& a, const FloatPlan& plan, std::int64_t index) {
  const TileLayout& l = a.layout;
  const std::int64_t first = index * kTile, count = smaller<std::int64_t>(kTile, a.seqlen_k - first);
  if (plan.int8_scores) {
    const unsigned char* tile = a.tiles + index * l.bytes;
    for (std::int64_t byte = 0; byte < l.bytes; byte += 64) Simd::prefetch_l2(tile + byte);
  } else {
    prefetch_rows(a.k, first, count, l.head_dim);
  }
  if (a.p != PKind::s8) prefetch_rows(a.v, first, count, l.head_dim_v);
}

/// Q.K of a tile into w.s.
inline Scores tile_scores(const AttendArgs& a, const FloatPlan& plan, const FloatScratch& w, const FloatBlock& block, const Words& k, std::int64_t index,
                          const TileSpan& span) {
  const TileLayout& l = a.layout;
  if (plan.int8_scores) {
    const unsigned char* tile = a.tiles + index * l.bytes;
    scores_int8(tile + l.k, block.codes, block.start, l.dk, span.begin, span.end, reinterpret_cast<std::int32_t*>(w.s), w.mx, {nullptr, 0, 1});
    return a.k_quant == KQuant::tile_groups ? Scores::groups : Scores::tokens;
  }
  if (plan.bf16_scores) scores_float<true>(k, block.q_words, (l.head_dim + 1) / 2, span.begin, span.end, w.s);
  else scores_float<false>(k, block.q_words, l.head_dim, span.begin, span.end, w.s);
  return Scores::f32;
}

/// O = O*keep + P.V of a tile.
inline void tile_values(const AttendArgs& a, const FloatPlan& plan, const FloatScratch& w, const FloatBlock& block, const TileOperands& t, std::int64_t index,
                        const TileSpan& span) {
  const TileLayout& l = a.layout;
  if (a.p == PKind::s8) {
    const unsigned char* tile = a.tiles + index * l.bytes;
    for (int v = 0; v < 2; ++v) {
      Simd::store(w.factors->keep + v * kL, Simd::load(block.state->keep + v * kL));
      Simd::store(w.factors->weight + v * kL, Simd::set(1.0f));
      Simd::store(w.factors->fix + v * kL, Simd::zero());
    }
    w.factors->any_fix = false;
    values_int8(w.p, tile + l.v, nullptr, l.dv, span.begin, span.end, *w.factors, block.o, {nullptr, 0, 1});
    return;
  }
  const float* p = plan.pairs ? reinterpret_cast<const float*>(w.p) : w.s;
  if (plan.pairs) values_float<true>(p, t.v, plan.dv, span.begin / 2, span.end / 2, block.state->keep, block.o);
  else values_float<false>(p, t.v, plan.dv, span.begin, span.end, block.state->keep, block.o);
  if (t.bad > 0 && !span.masked) __builtin_memset(w.bits, 0xff, kTile * kMq / 8);
  add_bad_values(w.bad, t.bad, p, plan.pairs, w.bits, block.o);
}

inline void float_tile(const AttendArgs& a, const FloatPlan& plan, const FloatScratch& w, const FloatBlock& block, const TileOperands& operands,
                       std::int64_t index) {
  const TileLayout& l = a.layout;
  const bool additive = a.mask_kind != MaskKind::none && a.mask_kind != MaskKind::boolean;
  const TileSpan span = block.seen.span(index, a.mask_kind != MaskKind::none);
  const Scores kind = tile_scores(a, plan, w, block, operands.k, index, span);
  if (span.masked) {
    visibility_bits(a, block.item, block.seen, index, span, w.bits);
    if (additive) additive_mask(a, block.item, index, span, w.add, w.bits);
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
  const FloatTile t{.s = w.s,
                    .mx = w.mx,
                    .bits = w.bits,
                    .add = additive ? w.add : nullptr,
                    .row_factor = block.row_factor,
                    .k_scale = k_scale,
                    .bias = has_bias ? block.bias + (index % 8) * kMq : nullptr,
                    .begin = span.begin,
                    .end = span.end,
                    .p_range = a.p_range,
                    .lazy_octaves = a.lazy_octaves,
                    .p = a.p,
                    .pairs = plan.pairs,
                    .codes = plan.pairs || a.p == PKind::s8 ? static_cast<void*>(w.p) : w.s};
  switch (kind) {
    case Scores::f32: float_softmax<Scores::f32>(t, span.masked, *block.state); break;
    case Scores::groups: float_softmax<Scores::groups>(t, span.masked, *block.state); break;
    case Scores::tokens: float_softmax<Scores::tokens>(t, span.masked, *block.state); break;
  }
  tile_values(a, plan, w, block, operands, index, span);
}

/// The query side: codes and row factors, or words and one factor.
inline void float_queries(const AttendArgs& a, const FloatPlan& plan, const FloatScratch& w, const FloatBlock& block, float factor) {
  load_queries(a, block.item, a.layout.head_dim, plan.dk, w.x, block.q);
  for (int v = 0; v < 2; ++v) Simd::store(block.row_factor + v * kL, Simd::set(factor));
  if (plan.int8_scores) {
    quantize_queries(a, block.item, block.q, w.x, block.codes, block.q_scale, block.start);
    for (int v = 0; v < 2; ++v) Simd::store(block.row_factor + v * kL, Simd::mul(Simd::set(factor), Simd::load(block.q_scale + v * kL)));
    return;
  }
  for (int v = 0; v < 2; ++v)
    for (int d = 0; d < plan.dk; d += plan.bf16_scores ? 2 : 1) {
      const I low = Simd::as_i(Simd::load(block.q + (v * plan.dk + d) * kL));
      if (plan.bf16_scores) {  // q is bf16: the low halves are zero
        const I high = Simd::as_i(Simd::load(block.q + (v * plan.dk + d + 1) * kL));
        Simd::store_i(block.q_words + (d / 2 * 2 + v) * kL, Simd::or_i(Simd::shr<16>(low), high));
      } else {
        Simd::store_i(block.q_words + (d * 2 + v) * kL, low);
      }
    }
}

inline FloatBlock float_block(const AttendArgs& a, const FloatPlan& plan, const FloatScratch& w, Carver& carver, std::int64_t row0, float factor) {
  FloatBlock block(carver, plan.dk, plan.dv);
  block.item = {row0, static_cast<int>(smaller<std::int64_t>(kMq, a.group * a.seqlen_q - row0))};
  block.seen = visible_keys(a, block.item);
  block.first = block.seen.first_begin / kTile;
  block.end = block.seen.last_end > block.seen.first_begin ? (block.seen.last_end + kTile - 1) / kTile : block.first;
  float_queries(a, plan, w, block, factor);
  __builtin_memset(block.o, 0, static_cast<std::size_t>(plan.dv) * kMq * sizeof(float));
  for (int v = 0; v < 2; ++v) {
    Simd::store(block.state->m + v * kL, Simd::set(kNegInf));
    Simd::store(block.state->sum + v * kL, Simd::zero());
  }
  return block;
}

inline void finish_float(const AttendArgs& a, const FloatPlan& plan, const FloatScratch& w, const FloatBlock& block, float scale) {
  for (int v = 0; v < 2; ++v) {
    Simd::store(w.result->m + v * kL, Simd::load(block.state->m + v * kL));
    Simd::store(w.result->sum + v * kL, Simd::load(block.state->sum + v * kL));
    Simd::store(w.result->l + v * kL, Simd::mul(Simd::load(block.state->sum + v * kL), Simd::set(a.p_range)));
    if (a.k_mean == nullptr || a.lse == nullptr) continue;
    F dot = Simd::zero();
    for (int d = 0; d < a.layout.head_dim; ++d) dot = Simd::add(dot, Simd::mul(Simd::load(block.q + (v * plan.dk + d) * kL), Simd::set(a.k_mean[d])));
    Simd::store(block.shift + v * kL, Simd::mul(dot, Simd::set(scale)));
  }
  finish_rows(a, block.item, *w.result, block.o, 1.0, a.channel, a.k_mean != nullptr ? block.shift : nullptr, w.x);
}

inline void attend_float(const AttendArgs& a, std::int64_t index, void* scratch) {
  const FloatPlan plan{a.tiles != nullptr, a.tiles == nullptr && Simd::kBf16Dot && a.k.elem == Elem::bf16 && a.p == PKind::bf16,
                       Simd::kBf16Dot && a.p == PKind::bf16, a.layout.dk, (a.layout.head_dim_v + 15) / 16 * 16};
  Carver carver{static_cast<char*>(scratch)};
  const FloatScratch w(carver, plan.dk, plan.dv);
  const float scale = a.softmax_scale < 0.0f ? -a.softmax_scale : a.softmax_scale, factor = scale * kLog2e;
  const std::int64_t row0 = index * kBlocks * kMq, rows = smaller<std::int64_t>(kBlocks * kMq, a.group * a.seqlen_q - row0);
  const int blocks = static_cast<int>((rows + kMq - 1) / kMq);
  FloatBlock block[kBlocks];
  std::int64_t first = INT64_MAX, end = 0;
  for (int i = 0; i < blocks; ++i) {
    block[i] = float_block(a, plan, w, carver, row0 + i * kMq, factor);
    if (block[i].end <= block[i].first) continue;
    first = smaller(first, block[i].first);
    end = larger(end, block[i].end);
  }
  for (std::int64_t tile = first; tile < end; ++tile) {
    bool masked = false;
    for (int i = 0; i < blocks; ++i) masked = masked || block[i].seen.span(tile, a.mask_kind != MaskKind::none).masked;
    const TileOperands operands = tile_operands(a, plan, w, tile, masked);
    if (tile + 1 < end) prefetch_tile(a, plan, tile + 1);
    for (int i = 0; i < blocks; ++i) {
      const FloatBlock& b = block[i];
      if (tile < b.first || tile >= b.end) continue;
      if (plan.int8_scores && a.k_quant == KQuant::tile_groups && (tile == b.first || tile % 8 == 0)) {
        const std::int64_t until = smaller(b.end, (tile / 8 + 1) * 8);
        tile_biases(a.tiles + tile * a.layout.bytes, a.layout, static_cast<int>(until - tile), b.q, factor, b.bias + (tile % 8) * kMq);
      }
      float_tile(a, plan, w, b, operands, tile);
    }
  }
  for (int i = 0; i < blocks; ++i) finish_float(a, plan, w, block[i], scale);
}

}  // namespace
}  // namespace chitu::cpu
