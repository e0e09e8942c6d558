#pragma once

// chitu_int8 for few query rows: keys (QK, softmax) and channels (PV) in lanes, so that a tile is read once and nothing is computed for absent rows.
// Every element goes through the operations of the other path in the same order, so a row has the same bits whichever path it takes.
// An item is one chunk of kTilesPerChunk tiles. Included after attend_lut-inl.h.

#include "cpu/device/attend_lut-inl.h"

namespace chitu::cpu {
namespace {

constexpr int kVectors = kTile / kL;        // vectors of keys in a tile
// Into L2, not L1: lines on their way from memory to L1 hold one of its 24 miss buffers each, which is slower than no prefetch at all (10 GB/s per core
// where this gives 16).
constexpr int kDecodeAhead = 16384;
CHITU_INLINE void prefetch_ahead(const unsigned char* p) {
  Simd::prefetch_l2(p + kDecodeAhead);
  Simd::prefetch_l2(p + kDecodeAhead + 64);
}
constexpr int kDecodeRows = kMq / 4;        // beyond, queries in lanes are faster

/// s[row][128] for kRows rows; codes as quantize_queries leaves them, from the first row on. Reads K from front to back.
template <int kRows>
inline void scores_decode(const unsigned char* k, const std::int8_t* codes, const std::int32_t* start, int dk, std::int32_t* s) {
  for (int t0 = 0; t0 < kTile; t0 += kL) {
    I acc[2][kRows];  // two chains, for the latency of the dot product
    CHITU_UNROLL
    for (int r = 0; r < kRows; ++r) {
      acc[0][r] = Simd::set_i(start[r]);
      acc[1][r] = Simd::zero_i();
    }
    const unsigned char* kp = k + static_cast<std::int64_t>(t0 / 16) * 16 * dk + t0 % 16 * 4;
    const std::int8_t* q = codes;
    for (int d = 0; d < dk; d += 8, kp += 128, q += 2 * kMq * 4) {
      const Simd::U8 u0 = Simd::load_u8(kp), u1 = Simd::load_u8(kp + 64);
      prefetch_ahead(kp);
      CHITU_UNROLL
      for (int r = 0; r < kRows; ++r) {
        Simd::dot(acc[0][r], u0, Simd::bcast_s8(q + 4 * r));
        Simd::dot(acc[1][r], u1, Simd::bcast_s8(q + kMq * 4 + 4 * r));
      }
    }
    CHITU_UNROLL
    for (int r = 0; r < kRows; ++r) Simd::store_i(s + r * kTile + t0, Simd::add_i(acc[0][r], acc[1][r]));
  }
}

/// What a row brings to finish_tile.
struct DecodeSums {
  alignas(64) float b[kL], by[kL], sum[kL];
  std::int32_t raw[kL], codes[kL];
};

inline std::int32_t sum_lanes(I x) {
  std::int32_t lane[kL], sum = 0;
  Simd::store_i(lane, x);
  for (std::int32_t v : lane) sum += v;
  return sum;
}

/// Keys [begin, end) of the tile are visible.
struct KeySpan {
  int begin, end;
  CHITU_INLINE M mask(int vector) const {
    std::int32_t index[kL];
    for (int i = 0; i < kL; ++i) index[i] = vector * kL + i;
    const I at = Simd::load_i(index);
    return Simd::both(Simd::invert(Simd::gt_i(Simd::set_i(begin), at)), Simd::gt_i(Simd::set_i(end), at));
  }
};

/// In the order in which the other path adds, one key after the other.
inline float ordered_sum(const float* e) {
  float sum = 0.0f;
  for (int j = 0; j < kTile; ++j) sum = sum + e[j];
  return sum;
}

/// Codes of one row from indices x[kVectors], to p[32] words in token order 0, 2, 1, 3; sums.
inline void decode_codes(const I* x, std::uint32_t* p, std::int32_t& raw_sum, std::int32_t& code_sum) {
  const Simd::Lut lut = Simd::lut();
  I raw = Simd::zero_i(), codes = Simd::zero_i();
  std::uint8_t bytes[kL * 4];
  auto* to = reinterpret_cast<std::uint8_t*>(p);
  for (int j = 0; j < kVectors; j += 4) {
    Simd::store_i(bytes, Simd::lut_codes(lut, x[j], x[j + 1], x[j + 2], x[j + 3], raw, codes));
    for (int i = 0; i < 4; ++i) {
      const int at = i == 1 ? 2 : i == 2 ? 1 : i;  // the byte in which vector j + i lies
      for (int l = 0; l < kL; l += 4) {
        std::uint8_t* word = to + (j + i) * kL + l;
        word[0] = bytes[4 * l + at];
        word[1] = bytes[4 * (l + 2) + at];
        word[2] = bytes[4 * (l + 1) + at];
        word[3] = bytes[4 * (l + 3) + at];
      }
    }
  }
  raw_sum = sum_lanes(raw);
  code_sum = sum_lanes(codes);
}

inline void decode_plain(const std::int32_t* s, const TileHead* head, float q_factor, const KeySpan& span, bool want_lse, int row, std::uint32_t* p,
                         DecodeSums& out) {
  const I lowest = Simd::set_i(INT32_MIN), last = Simd::set_i(core::kLutLastIndex);
  const bool masked = span.begin > 0 || span.end < kTile;
  I best = lowest;
  for (int j = 0; j < kVectors; ++j) {
    const I x = Simd::load_i(s + j * kL);
    best = Simd::max_i(best, masked ? Simd::select_i(span.mask(j), x, lowest) : x);
  }
  std::int32_t lane_best[kL], mx[kGroups], lane_mx[kL];
  Simd::store_i(lane_best, best);
  for (std::int32_t& m : mx) m = INT32_MIN;
  for (int l = 0; l < kL; ++l) mx[l % 8 / 2] = larger(mx[l % 8 / 2], lane_best[l]);
  float c[kGroups], level[kGroups], b = kNegInf, lane_c[kL], lane_off[kL];
  bool nan = false;
  for (int g = 0; g < kGroups; ++g) {
    c[g] = q_factor * head->k_scale[g];
    level[g] = mx[g] == INT32_MIN ? kNegInf : static_cast<float>(mx[g]) * c[g];
    nan = nan || level[g] != level[g];
    b = level[g] > b ? level[g] : b;
  }
  if (nan) b = __builtin_nanf("");
  for (int l = 0; l < kL; ++l) {
    const int g = l % 8 / 2;
    lane_mx[l] = mx[g];
    lane_c[l] = c[g] * 64.0f;
    lane_off[l] = (b - level[g]) * 64.0f;
  }
  const I vmx = Simd::load_i(lane_mx);
  const F vc = Simd::load(lane_c), voff = Simd::load(lane_off);
  I x[kVectors];
  for (int j = 0; j < kVectors; ++j) {
    x[j] = Simd::min_u(Simd::to_i(Simd::fma(Simd::to_f(Simd::sub_i(vmx, Simd::load_i(s + j * kL))), vc, voff)), last);
    if (masked) x[j] = Simd::select_i(span.mask(j), x[j], last);
  }
  decode_codes(x, p, out.raw[row], out.codes[row]);
  out.b[row] = b;
  out.by[row] = 0.0f;
  out.sum[row] = static_cast<float>(out.raw[row]);
  if (want_lse && 2 * out.raw[row] > static_cast<std::int32_t>(core::kLutOne) * (span.end - span.begin)) {
    float e[kTile];
    for (int j = 0; j < kVectors; ++j) {
      const F t = Simd::fma(Simd::to_f(Simd::sub_i(vmx, Simd::load_i(s + j * kL))), vc, voff);
      Simd::store(e + j * kL, Simd::select(span.mask(j), exp2_fast(Simd::mul(t, Simd::set(-1.0f / 64))), Simd::zero()));
    }
    out.sum[row] = ordered_sum(e) * static_cast<float>(core::kLutOne);
  }
}

/// Flagged tiles.
inline void decode_flagged(const std::int32_t* s, const TileHead* head, const float* log2_t, float q_factor, const KeySpan& span, int row, std::uint32_t* p,
                           DecodeSums& out) {
  const F none = Simd::set(kNegInf), k64 = Simd::set(64.0f);
  const I last = Simd::set_i(core::kLutLastIndex);
  float lane_c[kL], xs[kTile];
  for (int l = 0; l < kL; ++l) lane_c[l] = q_factor * head->k_scale[l % 8 / 2];
  const F c = Simd::load(lane_c);
  F vb = none, vby = none;
  M nan = Simd::invert(Simd::all());
  for (int j = 0; j < kVectors; ++j) {
    const F x = Simd::select(span.mask(j), Simd::mul(Simd::to_f(Simd::load_i(s + j * kL)), c), none);
    Simd::store(xs + j * kL, x);
    nan = Simd::either(nan, Simd::is_nan(x));
    vb = Simd::max(vb, x);
  }
  float lanes[2][kL], b = kNegInf, by = kNegInf;
  Simd::store(lanes[0], vb);
  for (int l = 0; l < kL; ++l) b = larger(b, lanes[0][l]);
  if (Simd::any(nan)) b = __builtin_nanf("");
  F ys[kVectors];
  for (int j = 0; j < kVectors; ++j) {
    ys[j] = Simd::add(Simd::sub(Simd::load(xs + j * kL), Simd::set(b)), Simd::load(log2_t + j * kL));
    vby = Simd::max(vby, ys[j]);
  }
  Simd::store(lanes[1], vby);
  for (int l = 0; l < kL; ++l) by = larger(by, lanes[1][l]);
  if (Simd::any(nan)) by = b;
  const Simd::Lut lut = Simd::lut();
  I x[kVectors], y[kVectors], raw_x = Simd::zero_i();
  for (int j = 0; j < kVectors; ++j) {
    const F v = Simd::load(xs + j * kL);
    const M m = span.mask(j);
    x[j] = Simd::select_i(m, Simd::min_u(Simd::to_i(Simd::mul(Simd::sub(Simd::set(b), v), k64)), last), last);
    y[j] = Simd::select_i(m, Simd::min_u(Simd::to_i(Simd::mul(Simd::sub(Simd::set(by), ys[j]), k64)), last), last);
  }
  for (int j = 0; j < kVectors; j += 2) Simd::lut_sum(lut, x[j], x[j + 1], raw_x);
  decode_codes(y, p, out.raw[row], out.codes[row]);
  const std::int32_t sum = sum_lanes(raw_x);
  out.b[row] = b;
  out.by[row] = by;
  out.sum[row] = static_cast<float>(sum);
  if (2 * sum > static_cast<std::int32_t>(core::kLutOne) * (span.end - span.begin)) {
    float e[kTile];
    for (int j = 0; j < kVectors; ++j)
      Simd::store(e + j * kL, Simd::select(span.mask(j), exp2_fast(Simd::sub(Simd::load(xs + j * kL), Simd::set(b))), Simd::zero()));
    out.sum[row] = ordered_sum(e) * static_cast<float>(core::kLutOne);
  }
}

/// o[row][dv] of kRows rows; p[row][32] words.
template <int kRows>
inline void values_decode(const std::uint32_t* p, const unsigned char* v, const float* vbar, int dv, const TileFactors& f, int row0, float* o) {
  for (int d = 0; d < dv; d += kL) {
    I acc[2][kRows];
    CHITU_UNROLL
    for (int r = 0; r < kRows; ++r) acc[0][r] = acc[1][r] = Simd::zero_i();
    const unsigned char* vp = v + v_offset(0, d);
    for (int g = 0; g < kTile / 4; g += 2, vp += 128) {
      const Simd::S8 v0 = Simd::load_s8(vp), v1 = Simd::load_s8(vp + 64);
      prefetch_ahead(vp);
      CHITU_UNROLL
      for (int r = 0; r < kRows; ++r) {
        Simd::dot(acc[0][r], Simd::bcast_u8(p + r * (kTile / 4) + g), v0);
        Simd::dot(acc[1][r], Simd::bcast_u8(p + r * (kTile / 4) + g + 1), v1);
      }
    }
    CHITU_UNROLL
    for (int r = 0; r < kRows; ++r) {
      F x = Simd::to_f(Simd::add_i(acc[0][r], acc[1][r]));
      const int row = row0 + r;
      if (f.any_fix) x = Simd::fma(Simd::set(f.fix[row]), Simd::load(vbar + d), x);
      float* to = o + r * dv + d;
      Simd::store(to, Simd::fma(Simd::load(to), Simd::set(f.keep[row]), Simd::mul(Simd::set(f.weight[row]), x)));
    }
  }
}

inline void decode_tile(const AttendArgs& a, int rows, const Visible& seen, std::int64_t index, const LutScratch& w) {
  const TileLayout& l = a.layout;
  const unsigned char* tile = a.tiles + index * l.bytes;
  const auto* head = reinterpret_cast<const TileHead*>(tile + l.head);
  const float* log2_t = head->flagged != 0 ? reinterpret_cast<const float*>(tile + l.token) : nullptr;
  DecodeSums sums = {};
  for (int r = 0; r < rows;) {
    const int step = rows - r >= 4 ? 4 : rows - r >= 2 ? 2 : 1;
    std::int32_t* s = w.s + r * kTile;
    const std::int8_t* codes = w.codes + r * 4;
    if (step == 4) scores_decode<4>(tile + l.k, codes, w.start + r, l.dk, s);
    if (step == 2) scores_decode<2>(tile + l.k, codes, w.start + r, l.dk, s);
    if (step == 1) scores_decode<1>(tile + l.k, codes, w.start + r, l.dk, s);
    r += step;
  }
  for (int r = 0; r < rows; ++r) {
    const KeySpan span{static_cast<int>(smaller<std::int64_t>(kTile, larger<std::int64_t>(0, seen.begin[r] - index * kTile))),
                       static_cast<int>(smaller<std::int64_t>(kTile, larger<std::int64_t>(0, seen.end[r] - index * kTile)))};
    const KeySpan used{span.begin, larger(span.begin, span.end)};
    std::uint32_t* p = w.p + r * (kTile / 4);
    if (log2_t != nullptr) decode_flagged(w.s + r * kTile, head, log2_t, w.q_factor[r], used, r, p, sums);
    else decode_plain(w.s + r * kTile, head, w.q_factor[r], used, a.lse != nullptr, r, p, sums);
  }
  LutTile t{};
  t.bias = w.bias + (index % 8) * kMq;
  t.head = head;
  w.factors->any_fix = false;
  finish_tile(t, 0, Simd::load(sums.b), Simd::load(sums.by), Simd::load_i(sums.raw), Simd::load_i(sums.codes), Simd::load(sums.sum), log2_t != nullptr, *w.state,
              *w.factors);
  const auto* vbar = reinterpret_cast<const float*>(tile + l.vbar);
  for (int r = 0; r < rows;) {
    const int step = rows - r >= 4 ? 4 : rows - r >= 2 ? 2 : 1;
    const std::uint32_t* p = w.p + r * (kTile / 4);
    float* o = w.o + r * l.dv;
    if (step == 4) values_decode<4>(p, tile + l.v, vbar, l.dv, *w.factors, r, o);
    if (step == 2) values_decode<2>(p, tile + l.v, vbar, l.dv, *w.factors, r, o);
    if (step == 1) values_decode<1>(p, tile + l.v, vbar, l.dv, *w.factors, r, o);
    r += step;
  }
}

/// Floats of a chunk's result: the state, then o[rows][dv].
inline std::int64_t decode_floats(int rows, int dv) { return 3 * kMq + std::int64_t{rows} * dv; }

inline void attend_decode(const AttendArgs& a, std::int64_t chunk, float* result, void* scratch) {
  const TileLayout& l = a.layout;
  Carver carver{static_cast<char*>(scratch)};
  const LutScratch w(carver, l.dk, l.dv);
  const Item item{0, static_cast<int>(a.group * a.seqlen_q)};
  const Visible seen = visible_keys(a, item);
  load_queries(a, item, l.head_dim, l.dk, w.x, w.q);
  quantize_queries(a, item, w.q, w.x, w.codes, w.q_scale, w.start);
  const float factor = (a.softmax_scale < 0.0f ? -a.softmax_scale : a.softmax_scale) * kLog2e;
  for (int v = 0; v < 2; ++v) Simd::store(w.q_factor + v * kL, Simd::mul(Simd::set(factor), Simd::load(w.q_scale + v * kL)));
  reset_state(*w.state, w.o, l.dv);
  const std::int64_t end = smaller((seen.last_end + kTile - 1) / kTile, (chunk + 1) * kTilesPerChunk);
  std::int64_t tile = larger(seen.first_begin / kTile, chunk * kTilesPerChunk);
  for (std::int64_t biased = tile; tile < end; ++tile) {
    if (tile == biased) {
      biased = smaller(end, (tile / 8 + 1) * 8);
      tile_biases(a.tiles + tile * l.bytes, l, static_cast<int>(biased - tile), w.q, factor, w.bias + (tile % 8) * kMq);
    }
    decode_tile(a, item.rows, seen, tile, w);
  }
  __builtin_memcpy(result, w.state->m, sizeof w.state->m);
  __builtin_memcpy(result + kMq, w.state->l, sizeof w.state->l);
  __builtin_memcpy(result + 2 * kMq, w.state->sum, sizeof w.state->sum);
  __builtin_memcpy(result + 3 * kMq, w.o, static_cast<std::size_t>(item.rows) * l.dv * sizeof(float));
}

/// Merges the chunks' results in order and writes out and lse.
inline void finish_decode(const AttendArgs& a, std::int64_t chunks, const float* results, std::int64_t floats, void* scratch) {
  const TileLayout& l = a.layout;
  Carver carver{static_cast<char*>(scratch)};
  const LutScratch w(carver, l.dk, l.dv);
  const Item item{0, static_cast<int>(a.group * a.seqlen_q)};
  reset_state(*w.total, w.o_total, l.dv);
  float fa[kMq], fb[kMq];
  for (std::int64_t c = 0; c < chunks; ++c) {
    const float* part = results + c * floats;
    RowState state;
    __builtin_memcpy(state.m, part, sizeof state.m);
    __builtin_memcpy(state.l, part + kMq, sizeof state.l);
    __builtin_memcpy(state.sum, part + 2 * kMq, sizeof state.sum);
    merge_rows(*w.total, state, fa, fb);
    for (int r = 0; r < item.rows; ++r)
      for (int d = 0; d < l.dv; d += kL) {
        float* to = w.o_total + r * l.dv + d;
        Simd::store(to, Simd::fma(Simd::load(to), Simd::set(fa[r]), Simd::mul(Simd::load(part + 3 * kMq + r * l.dv + d), Simd::set(fb[r]))));
      }
  }
  for (int r = 0; r < item.rows; ++r)
    for (int d = 0; d < l.dv; ++d) w.o[d * kMq + r] = w.o_total[r * l.dv + d];  // as the other path's epilogue wants it
  finish_rows(a, item, *w.total, w.o, 1.0 / core::kLutOne, a.channel, nullptr, w.x);
}

}  // namespace
}  // namespace chitu::cpu
