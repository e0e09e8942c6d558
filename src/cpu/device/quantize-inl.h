#pragma once

// The 8-bit copies of K and V, one tile of 128 keys at a time (docs/methods.md 1 and 2; bit for bit). Included after rows-inl.h.

#include "core/lut_exp.h"
#include "cpu/device/rows-inl.h"

namespace chitu::cpu {
namespace {

/// Tree sum of 128 slots holding x * 2^-7; x is [128][width], one vector of channels at x.
inline F tile_sum_of(const float* x, std::int64_t width) {
  const F scale = Simd::set(0x1p-7f);
  F t[64];
  for (int i = 0; i < 64; ++i) t[i] = Simd::add(Simd::mul(Simd::load(x + i * width), scale), Simd::mul(Simd::load(x + (i + 64) * width), scale));
  for (int stride = 32; stride >= 1; stride /= 2)
    for (int i = 0; i < stride; ++i) t[i] = Simd::add(t[i], t[i + stride]);
  return t[0];
}

inline void tile_sum(const Rows& rows, std::int64_t first, int count, int head_dim, int width, float* sum, void* scratch) {
  auto* x = static_cast<float*>(scratch);
  load_rows(rows, first, count, kTile, head_dim, width, x);
  for (int d = 0; d < width; d += kL) Simd::store(sum + d, tile_sum_of(x + d, width));
}

/// Mean absolute residual of each channel over the first 128 rows: tree sum of |k - mean| * 2^-7.
inline void key_residuals(const Rows& k, int head_dim, int dk, float* residual, void* scratch) {
  auto* x = static_cast<float*>(scratch);
  load_rows(k, 0, kTile, kTile, head_dim, dk, x);
  for (int d = 0; d < dk; d += kL) {
    const F mu = round_to(tile_sum_of(x + d, dk), k.elem);
    for (int r = 0; r < kTile; ++r) {
      float* at = x + r * dk + d;
      Simd::store(at, Simd::as_f(Simd::and_i(Simd::as_i(Simd::sub(Simd::load(at), mu)), Simd::set_i(0x7fffffff))));
    }
    Simd::store(residual + d, tile_sum_of(x + d, dk));
  }
}

/// Bits of the largest absolute value of rows [first, first + count) in steps of `step`.
inline std::int32_t absmax_rows(const Rows& rows, std::int64_t first, std::int64_t count, std::int64_t step, int head_dim) {
  I amax = Simd::zero_i();
  for (std::int64_t r = 0; r < count; r += step)
    for (int d = 0; d < head_dim; d += kL) {
      const F x = load_elems(rows.data, rows.elem, (first + r) * rows.stride + d, smaller(kL, head_dim - d));
      amax = Simd::max_i(amax, Simd::and_i(Simd::as_i(x), Simd::set_i(0x7fffffff)));
    }
  std::int32_t lanes[kL], all = 0;
  Simd::store_i(lanes, amax);
  for (std::int32_t a : lanes) all = larger(all, a);
  return all;
}
/// The same per channel, joined into bits[head_dim].
inline void absmax_channels(const Rows& rows, std::int64_t first, std::int64_t count, int head_dim, std::int32_t* bits) {
  for (int d = 0; d < head_dim; d += kL) {
    std::int32_t lanes[kL];
    const int n = smaller(kL, head_dim - d);
    for (int i = 0; i < kL; ++i) lanes[i] = i < n ? bits[d + i] : 0;
    I amax = Simd::load_i(lanes);
    for (std::int64_t r = 0; r < count; ++r)
      amax = Simd::max_i(amax, Simd::and_i(Simd::as_i(load_elems(rows.data, rows.elem, (first + r) * rows.stride + d, n)), Simd::set_i(0x7fffffff)));
    Simd::store_i(lanes, amax);
    for (int i = 0; i < n; ++i) bits[d + i] = lanes[i];
  }
}

/// rms of every kStep-th token, unscaled by 2^-e: fills rms[head_dim] from the samples. `scale` = 2^-e.
template <int kStep>
inline void sampled_rms(const Rows& v, std::int64_t seqlen, int head_dim, float scale, float* rms) {
  constexpr int kSlots = kTile / kStep;
  const std::int64_t tiles = (seqlen + kTile - 1) / kTile, samples = (seqlen + kStep - 1) / kStep;
  for (int d = 0; d < head_dim; d += kL) {
    const int n = smaller(kL, head_dim - d);
    F lanes[32];
    for (F& l : lanes) l = Simd::zero();
    for (std::int64_t tile = 0; tile < tiles; ++tile) {
      F u[kSlots];
      for (int i = 0; i < kSlots; ++i) {
        const std::int64_t t = tile * kTile + kStep * i;
        const F x = t < seqlen ? Simd::mul(load_elems(v.data, v.elem, t * v.stride + d, n), Simd::set(scale)) : Simd::zero();
        u[i] = Simd::mul(x, x);
      }
      for (int stride = kSlots / 2; stride >= 1; stride /= 2)
        for (int i = 0; i < stride; ++i) u[i] = Simd::add(u[i], u[i + stride]);
      lanes[tile & 31] = Simd::add(lanes[tile & 31], u[0]);
    }
    for (int stride = 16; stride >= 1; stride /= 2)
      for (int i = 0; i < stride; ++i) lanes[i] = Simd::add(lanes[i], lanes[i + stride]);
    float sums[kL];
    Simd::store(sums, lanes[0]);
    for (int i = 0; i < n; ++i) rms[d + i] = __builtin_sqrtf(sums[i] / static_cast<float>(samples));
  }
}

/// c[d] of C3 and f32(1/c[d]), both padded with 0.
inline void channel_weights(const Rows& v, std::int64_t seqlen, int head_dim, int padded, float* c, float* inv) {
  for (int d = 0; d < padded; ++d) c[d] = inv[d] = d < head_dim ? 1.0f : 0.0f;
  if (seqlen == 0) return;
  const bool few = seqlen <= kTile;
  const std::int32_t amax_bits = absmax_rows(v, 0, seqlen, few ? 1 : 8, head_dim);
  if (amax_bits >= 0x7f800000) {
    for (int d = 0; d < head_dim; ++d) c[d] = inv[d] = __builtin_nanf("");
    return;
  }
  float amax;
  __builtin_memcpy(&amax, &amax_bits, 4);
  if (amax < 0x1p-100f) return;  // then so is every rms
  const int e = (amax_bits >> 23) - 127;
  const float up = __builtin_ldexpf(1.0f, e);
  float sorted[256], largest = 0.0f;
  (few ? sampled_rms<1> : sampled_rms<8>)(v, seqlen, head_dim, __builtin_ldexpf(1.0f, -e), c);
  for (int d = 0; d < head_dim; ++d) {
    c[d] *= up;
    largest = larger(largest, c[d]);
    int at = d;
    for (; at > 0 && sorted[at - 1] > c[d]; --at) sorted[at] = sorted[at - 1];
    sorted[at] = c[d];
  }
  const float median = sorted[(head_dim - 1) / 2];
  const float floor = median > 0.0f ? median / 8 : largest / 128;
  for (int d = 0; d < head_dim; ++d) {
    c[d] = largest < 0x1p-100f ? 1.0f : larger(c[d], floor);
    inv[d] = 1.0f / c[d];
  }
}

/// Writes the codes of kL rows held as columns: token0 is the first row's index in the tile.
inline void store_k_codes(const float* y, const float* inv, int token0, int dk, unsigned char* k) {
  unsigned char* to = k + static_cast<std::int64_t>(token0 / 16) * 16 * dk + (token0 % 16) * 4;
  const F s = Simd::load(inv);
  const I bias = Simd::set_i(static_cast<std::int32_t>(0x80808080u));  // s8 -> u8 = code + 128
  for (int d = 0; d < dk; d += 4) {
    const I word = pack4(int8_codes(Simd::load(y + d * kL), s), int8_codes(Simd::load(y + (d + 1) * kL), s), int8_codes(Simd::load(y + (d + 2) * kL), s),
                         int8_codes(Simd::load(y + (d + 3) * kL), s));
    Simd::store_i(to + d * 16, Simd::xor_i(word, bias));
  }
}

inline int scale_index(KQuant kind, int token) {
  return kind == KQuant::tile_groups ? (token % 8) / 2 : kind == KQuant::per_64 ? token / 64 : token;
}

inline void quantize_k_tile(const QuantizeArgs& a, std::int64_t first, int count, unsigned char* tile, float* x, float* y) {
  const TileLayout& l = a.layout;
  auto* head = reinterpret_cast<TileHead*>(tile + l.head);
  auto* mean = reinterpret_cast<float*>(tile + l.mean);
  load_rows(a.k, first, count, kTile, l.head_dim, l.dk, x);
  for (int d = 0; d < l.dk; d += kL) {
    F mu = Simd::zero();
    if (a.k_quant == KQuant::tile_groups) {
      mu = round_to(Simd::mul(tile_sum_of(x + d, l.dk), Simd::set(128.0f / static_cast<float>(count))), a.k.elem);
      Simd::store(mean + d, mu);
    } else if (a.k_mean != nullptr) {
      mu = Simd::load(a.k_mean + d);
    }
    for (int r = 0; r < count; ++r) Simd::store(x + r * l.dk + d, Simd::sub(Simd::load(x + r * l.dk + d), mu));
  }
  std::int32_t amax[kTile];
  for (int r = 0; r < kTile; r += kL) {
    float* block = y + r * l.dk;
    for (int d = 0; d < l.dk; d += kL) Simd::transpose(x + r * l.dk + d, l.dk, block + d * kL, kL);
    Simd::store_i(amax + r, a.k_quant == KQuant::tile_groups ? rotate_columns(block, l.head_dim, a.factor) : absmax_columns(block, l.head_dim));
  }
  std::int32_t group[kTile] = {};
  float scale[kTile], inverse[kTile], token_inv[kTile];
  for (int t = 0; t < kTile; ++t) {
    std::int32_t& g = group[scale_index(a.k_quant, t)];
    g = larger(g, amax[t]);
  }
  const int groups = a.k_quant == KQuant::tile_groups ? kGroups : a.k_quant == KQuant::per_64 ? 2 : kTile;
  for (int g = 0; g < groups; ++g) {
    const GroupScale s = group_scale(group[g]);
    scale[g] = s.scale;
    inverse[g] = s.inv;
  }
  if (a.k_quant == KQuant::per_token) __builtin_memcpy(tile + l.token, scale, sizeof scale);
  for (int g = 0; g < kGroups && a.k_quant != KQuant::per_token; ++g) head->k_scale[g] = g < groups ? scale[g] : 0.0f;
  for (int t = 0; t < kTile; ++t) token_inv[t] = inverse[scale_index(a.k_quant, t)];
  for (int r = 0; r < kTile; r += kL) store_k_codes(y + r * l.dk, token_inv + r, r, l.dk, tile + l.k);
}

/// Absolute maximum of each row of w[128][width], as bits.
inline void row_absmax(const float* w, int width, std::int32_t* amax) {
  alignas(64) float part[kL * kL], columns[kL * kL];
  for (int r = 0; r < kTile; r += kL) {
    for (int i = 0; i < kL; ++i) {
      I m = Simd::zero_i();
      for (int d = 0; d < width; d += kL) m = Simd::max_i(m, Simd::and_i(Simd::as_i(Simd::load(w + (r + i) * width + d)), Simd::set_i(0x7fffffff)));
      Simd::store(part + i * kL, Simd::as_f(m));
    }
    Simd::transpose(part, kL, columns, kL);
    I m = Simd::zero_i();
    for (int i = 0; i < kL; ++i) m = Simd::max_i(m, Simd::as_i(Simd::load(columns + i * kL)));
    Simd::store_i(amax + r, m);
  }
}

/// Scales of a C3 tile: fills inv[128] and, for a flagged one, t[128] and log2 t[128].
inline void c3_scales(const QuantizeArgs& a, const std::int32_t* amax, int count, TileHead* head, float* t, float* log2_t, float* inv) {
  std::int32_t top_bits = 0, low_bits = 0x7fffffff;
  for (int j = 0; j < count; ++j) {
    top_bits = larger(top_bits, amax[j]);
    low_bits = smaller(low_bits, amax[j]);
  }
  float top, low;
  __builtin_memcpy(&top, &top_bits, 4);
  __builtin_memcpy(&low, &low_bits, 4);
  const GroupScale s = group_scale(top_bits);
  head->v_scale = s.scale;
  head->flagged = s.inv != 0.0f && top > a.flag_ratio * low;
  for (int j = 0; j < kTile; ++j) inv[j] = s.inv;
  if (head->flagged == 0) return;
  head->v_scale = 0.0f;
  for (int j = 0; j < kTile; ++j) {
    float aj;
    __builtin_memcpy(&aj, &amax[j], 4);
    aj = j < count ? larger(aj, larger(0x1p-24f * top, 0x1p-100f)) : top;
    inv[j] = 127.0f / aj;
    t[j] = aj / 127.0f;
    log2_t[j] = core::log2_f32(t[j]);
  }
}

/// tau of docs/methods.md 2, from w[128][dv] that were rounded by inv and their mean.
inline float shift_limit(const float* w, const float* inv, const float* t, const float* vbar, int count, int dv) {
  F limit = Simd::set(__builtin_inff());
  const I magnitude = Simd::set_i(0x7fffffff);
  for (int d = 0; d < dv; d += kL) {
    F largest = Simd::zero();
    for (int j = 0; j < count; ++j) {
      const F code = Simd::to_f(int8_codes(Simd::load(w + j * dv + d), Simd::set(inv[j])));
      largest = Simd::max(largest, Simd::mul(Simd::set(t[j]), Simd::as_f(Simd::and_i(Simd::as_i(code), magnitude))));
    }
    const F mean = Simd::as_f(Simd::and_i(Simd::as_i(Simd::load(vbar + d)), magnitude));
    const F ratio = Simd::div(largest, mean);
    limit = Simd::select(Simd::eq(mean, Simd::zero()), limit, Simd::min(limit, ratio));
  }
  float lanes[kL], all = __builtin_inff();
  Simd::store(lanes, limit);
  for (float x : lanes) all = smaller(all, x);
  return all;
}

inline void quantize_v_tile(const QuantizeArgs& a, std::int64_t first, int count, unsigned char* tile, float* w) {
  const TileLayout& l = a.layout;
  auto* head = reinterpret_cast<TileHead*>(tile + l.head);
  auto* vbar = reinterpret_cast<float*>(tile + l.vbar);
  float inv[kTile], t[kTile];
  load_rows(a.v, first, count, kTile, l.head_dim_v, l.dv, w);
  if (a.v_c3) {
    std::int32_t amax[kTile];
    for (int r = 0; r < count; ++r)
      for (int d = 0; d < l.dv; d += kL) Simd::store(w + r * l.dv + d, Simd::mul(Simd::load(w + r * l.dv + d), Simd::load(a.channel_inv + d)));
    row_absmax(w, l.dv, amax);
    c3_scales(a, amax, count, head, t, reinterpret_cast<float*>(tile + l.token), inv);
  } else {
    head->v_scale = 1.0f;
    head->flagged = 0;
    for (float& x : inv) x = a.channel_inv[0];
  }
  head->count = static_cast<std::uint32_t>(count);
  for (int d = 0; d < l.dv; d += kL) {
    I sum = Simd::zero_i();
    for (int g = 0; g < kTile / 4; ++g) {
      I c[4];
      for (int i = 0; i < 4; ++i) c[i] = int8_codes(Simd::load(w + (4 * g + i) * l.dv + d), Simd::set(inv[4 * g + i]));
      sum = Simd::add_i(sum, Simd::add_i(Simd::add_i(c[0], c[1]), Simd::add_i(c[2], c[3])));
      Simd::store_i(tile + l.v + (static_cast<std::int64_t>(d / 16) * (kTile / 4) + g) * 64 + d % 16 * 4, pack4(c[0], c[2], c[1], c[3]));
    }
    Simd::store(vbar + d, Simd::div(Simd::to_f(sum), Simd::set(static_cast<float>(count))));
  }
  if (head->flagged != 0) head->shift_limit = shift_limit(w, inv, t, vbar, count, l.dv);
}

/// scratch: 2 * 128 * dk floats and at least 128 * dv.
inline void quantize_tile(const QuantizeArgs& a, std::int64_t index, void* scratch) {
  const std::int64_t first = index * kTile;
  const int count = static_cast<int>(smaller<std::int64_t>(kTile, a.seqlen - first));
  unsigned char* tile = a.tiles + index * a.layout.bytes;
  auto* x = static_cast<float*>(scratch);
  __builtin_memset(tile + a.layout.head, 0, 64);
  __builtin_memset(tile + a.layout.token, 0, kTile * sizeof(float));  // not every tile fills it, and blobs should not depend on what was there
  quantize_k_tile(a, first, count, tile, x, x + kTile * a.layout.dk);
  if (a.layout.dv != 0) quantize_v_tile(a, first, count, tile, x);
}

}  // namespace
}  // namespace chitu::cpu
