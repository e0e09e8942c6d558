#pragma once

// 8-bit products: S = Q.K for one tile, O += P.V for one tile. Scores are transposed: queries in lanes, keys (or channels) by broadcast, so maxima,
// sums and factors are lane-wise and nothing is shuffled. Included after block-inl.h.

#include "cpu/device/block-inl.h"

namespace chitu::cpu {
namespace {

/// Lines of memory to fetch while computing: `step()` touches the next few.
struct Prefetcher {
  const unsigned char* at;
  const unsigned char* end;
  int lines;
  Prefetcher(const void* p, std::int64_t bytes, int steps) : at(static_cast<const unsigned char*>(p)), end(at + bytes), lines(0) {
    if (p == nullptr) end = at;
    lines = static_cast<int>((bytes / 64 + steps - 1) / steps);
  }
  CHITU_INLINE void step() {
    for (int i = 0; i < lines && at < end; ++i, at += 64) Simd::prefetch(at);
  }
};

/// s[128][kMq] for the keys of the span; mx[kGroups][kMq]: largest score per scale group (token pairs of every 8), over all keys of the span.
inline void scores_int8(const unsigned char* k, const std::int8_t* q, const std::int32_t* start, int dk, int begin, int end, std::int32_t* s, std::int32_t* mx,
                        Prefetcher next) {
  constexpr int kRows = Simd::kTileRows;
  I best[kGroups][2];
  for (auto& b : best) b[0] = b[1] = Simd::set_i(INT32_MIN);
  const I start0 = Simd::load_i(start), start1 = Simd::load_i(start + kL);
  for (int key8 = begin; key8 < end; key8 += 8) {
    const unsigned char* k8 = k + static_cast<std::int64_t>(key8 / 16) * 16 * dk + (key8 % 16) * 4;
    next.step();
    CHITU_UNROLL
    for (int r0 = 0; r0 < 8; r0 += kRows) {
      I acc[kRows][2];
      CHITU_UNROLL
      for (int r = 0; r < kRows; ++r) {
        acc[r][0] = start0;
        acc[r][1] = start1;
      }
      const unsigned char* kp = k8 + r0 * 4;
      const std::int8_t* qp = q;
      for (int d = 0; d < dk; d += 4, kp += 64, qp += kMq * 4) {
        const Simd::S8 q0 = Simd::load_s8(qp), q1 = Simd::load_s8(qp + kL * 4);
        CHITU_UNROLL
        for (int r = 0; r < kRows; ++r) {
          const Simd::U8 kr = Simd::bcast_u8(kp + r * 4);
          Simd::dot(acc[r][0], kr, q0);
          Simd::dot(acc[r][1], kr, q1);
        }
      }
      CHITU_UNROLL
      for (int r = 0; r < kRows; ++r)
        CHITU_UNROLL
        for (int v = 0; v < 2; ++v) {
          Simd::store_i(s + (key8 + r0 + r) * kMq + v * kL, acc[r][v]);
          best[(r0 + r) / 2][v] = Simd::max_i(best[(r0 + r) / 2][v], acc[r][v]);
        }
    }
  }
  for (int g = 0; g < kGroups; ++g)
    for (int v = 0; v < 2; ++v) Simd::store_i(mx + g * kMq + v * kL, best[g][v]);
}

/// Offset of the word of token group g (tokens 4g..4g+3) and channel d among a tile's V codes.
CHITU_INLINE std::int64_t v_offset(int g, int d) { return (static_cast<std::int64_t>(d / 16) * (kTile / 4) + g) * 64 + d % 16 * 4; }

/// What a tile's softmax hands to PV, per row: O = O*keep + weight*(P.V + fix*vbar).
struct TileFactors {
  float keep[kMq], weight[kMq], fix[kMq];
  bool any_fix;
};

/// o[dv][kMq] of the tile; p[32][kMq] words of 4 codes, groups of 4 keys in [begin, end).
inline void values_int8(const std::uint32_t* p, const unsigned char* v, const float* vbar, int dv, int begin, int end, const TileFactors& f, float* o,
                        Prefetcher next) {
  constexpr int kRows = Simd::kTileRows;
  const F keep0 = Simd::load(f.keep), keep1 = Simd::load(f.keep + kL), w0 = Simd::load(f.weight), w1 = Simd::load(f.weight + kL);
  const F fix0 = Simd::load(f.fix), fix1 = Simd::load(f.fix + kL);
  for (int d = 0; d < dv; d += kRows) {
    I acc[kRows][2];
    CHITU_UNROLL
    for (int r = 0; r < kRows; ++r) acc[r][0] = acc[r][1] = Simd::zero_i();
    const unsigned char* vp = v + v_offset(begin / 4, d);
    const std::uint32_t* pp = p + begin / 4 * kMq;
    next.step();
    for (int g = begin; g < end; g += 4, vp += 64, pp += kMq) {
      const Simd::U8 p0 = Simd::load_u8(pp), p1 = Simd::load_u8(pp + kL);
      CHITU_UNROLL
      for (int r = 0; r < kRows; ++r) {
        const Simd::S8 vr = Simd::bcast_s8(vp + r * 4);
        Simd::dot(acc[r][0], p0, vr);
        Simd::dot(acc[r][1], p1, vr);
      }
    }
    CHITU_UNROLL
    for (int r = 0; r < kRows; ++r) {
      F a0 = Simd::to_f(acc[r][0]), a1 = Simd::to_f(acc[r][1]);
      if (f.any_fix) {
        const F mean = Simd::set(vbar[d + r]);
        a0 = Simd::fma(fix0, mean, a0);
        a1 = Simd::fma(fix1, mean, a1);
      }
      float* to = o + (d + r) * kMq;
      Simd::store(to, Simd::fma(Simd::load(to), keep0, Simd::mul(w0, a0)));
      Simd::store(to + kL, Simd::fma(Simd::load(to + kL), keep1, Simd::mul(w1, a1)));
    }
  }
}

template <int kCount>
inline void tile_biases_of(const unsigned char* tile, const TileLayout& l, int count, const float* q, float factor, float* bias) {
  F acc[kCount][2];
  const float* mean[kCount];
  CHITU_UNROLL
  for (int t = 0; t < kCount; ++t) {
    acc[t][0] = acc[t][1] = Simd::zero();
    mean[t] = reinterpret_cast<const float*>(tile + smaller(t, count - 1) * l.bytes + l.mean);
  }
  for (int d = 0; d < l.head_dim; ++d) {
    const F q0 = Simd::load(q + d * kL), q1 = Simd::load(q + (l.dk + d) * kL);
    CHITU_UNROLL
    for (int t = 0; t < kCount; ++t) {
      const F m = Simd::set(mean[t][d]);
      Simd::fma_acc(acc[t][0], q0, m);
      Simd::fma_acc(acc[t][1], q1, m);
    }
  }
  CHITU_UNROLL
  for (int t = 0; t < kCount; ++t)
    if (t < count) {
      Simd::store(bias + t * kMq, Simd::mul(acc[t][0], Simd::set(factor)));
      Simd::store(bias + t * kMq + kL, Simd::mul(acc[t][1], Simd::set(factor)));
    }
}

/// bias[count][kMq]: |s|*L2E * (q . mean) of `count` <= 8 consecutive tiles; q[2][dk][kL] unrotated.
inline void tile_biases(const unsigned char* tile, const TileLayout& l, int count, const float* q, float factor, float* bias) {
  constexpr int kStep = Simd::kTileRows;
  for (int t = 0; t < count; t += kStep) tile_biases_of<kStep>(tile + t * l.bytes, l, count - t, q, factor, bias + t * kMq);
}

}  // namespace
}  // namespace chitu::cpu
