// V: one function per format (docs/methods.md 2 and 3).

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/codec.h"
#include "reference/scheme.h"
#include "reference/statistics.h"

namespace chitu::ref {
namespace {

using core::VFormat;

std::vector<float> channel_absmax(const std::vector<float>& v, std::int64_t rows, std::int64_t dim) {
  std::vector<float> a(static_cast<std::size_t>(dim), 0.0f);
  for (std::int64_t j = 0; j < rows; ++j)
    for (std::int64_t d = 0; d < dim; ++d)
      a[static_cast<std::size_t>(d)] = core::absmax_nan(a[static_cast<std::size_t>(d)], v[static_cast<std::size_t>(j * dim + d)]);
  return a;
}

/// f16, and for a channel beyond `limit` f16 of the channel times 2^-n, undone at the end: never a bare cast to infinity.
void to_f16(Values& out, float limit) {
  const auto absmax = channel_absmax(out.decoded, out.seqlen, out.head_dim_v);
  for (std::int64_t d = 0; d < out.head_dim_v; ++d) {
    float up = 1.0f;
    for (float a = absmax[static_cast<std::size_t>(d)]; core::is_finite(a) && a > limit; a *= 0.5f) up *= 2.0f;
    const float down = 1.0f / up;
    for (std::int64_t j = 0; j < out.seqlen; ++j) {
      float& x = out.decoded[static_cast<std::size_t>(j * out.head_dim_v + d)];
      x = core::round_f16(x * down);
    }
    out.channel_scale[static_cast<std::size_t>(d)] = up;
  }
}

void to_bf16(Values& out) {
  for (float& x : out.decoded) x = core::round_bf16(x);
}

void to_e4m3_channel(Values& out, float range) {
  const auto absmax = channel_absmax(out.decoded, out.seqlen, out.head_dim_v);
  for (std::int64_t d = 0; d < out.head_dim_v; ++d) {
    const core::GroupScale g = core::group_scale(absmax[static_cast<std::size_t>(d)], range);
    out.channel_scale[static_cast<std::size_t>(d)] = g.scale;
    for (std::int64_t j = 0; j < out.seqlen; ++j) {
      float& x = out.decoded[static_cast<std::size_t>(j * out.head_dim_v + d)];
      x = core::e4m3_to_f32(core::e4m3_code(x, g.inv));
    }
  }
}

void to_s8_tensor(Values& out) {
  float a = 0;
  for (float x : out.decoded) a = core::absmax_nan(a, x);
  const core::GroupScale g = core::group_scale(a, 127.0f);
  for (float& x : out.decoded) x = core::int8_code(x, g.inv);
  std::fill(out.channel_scale.begin(), out.channel_scale.end(), g.scale);
}

/// One scale per channel and `block` tokens (C2: a tile; the whole sequence: C1).
void to_s8_channel(Values& out, std::int64_t block) {
  const std::int64_t dim = out.head_dim_v;
  for (std::int64_t first = 0; first < out.seqlen; first += block) {
    const std::int64_t count = std::min(block, out.seqlen - first);
    float* x = out.decoded.data() + first * dim;
    for (std::int64_t d = 0; d < dim; ++d) {
      float a = 0;
      for (std::int64_t j = 0; j < count; ++j) a = core::absmax_nan(a, x[j * dim + d]);
      const core::GroupScale g = core::group_scale(a, 127.0f);
      for (std::int64_t j = 0; j < count; ++j) x[j * dim + d] = core::int8_code(x[j * dim + d], g.inv);
      out.tile_scale.push_back(g.scale);
    }
  }
}

/// vbar of a tile.
void append_means(Values& out, const float* codes, std::int64_t count) {
  for (std::int64_t d = 0; d < out.head_dim_v; ++d) {
    std::int32_t sum = 0;
    for (std::int64_t j = 0; j < count; ++j) sum += static_cast<std::int32_t>(codes[j * out.head_dim_v + d]);
    out.code_mean.push_back(static_cast<float>(sum) / static_cast<float>(count));
  }
}

/// tau of a flagged tile, whose vbar came last: no channel's vbar * tau is larger than the tile's largest value of that channel.
float shift_limit(const Values& out, const float* codes, std::int64_t count, std::int64_t tile_n) {
  const std::int64_t dim = out.head_dim_v;
  const float *t = out.token_scale.data() + out.token_scale.size() - tile_n, *mean = out.code_mean.data() + out.code_mean.size() - dim;
  float limit = std::numeric_limits<float>::infinity();
  for (std::int64_t d = 0; d < dim; ++d) {
    float largest = 0;
    for (std::int64_t j = 0; j < count; ++j) largest = std::max(largest, t[j] * core::abs_f32(codes[j * dim + d]));
    if (mean[d] != 0) limit = std::min(limit, largest / core::abs_f32(mean[d]));
  }
  return limit;
}

/// Tile T of C3. w holds v / c on entry, codes on return.
void c3_tile(Values& out, std::int64_t first, std::int64_t tile_n, float flag_ratio) {
  const std::int64_t dim = out.head_dim_v, count = std::min(tile_n, out.seqlen - first);
  float* w = out.decoded.data() + first * dim;
  std::vector<float> a(static_cast<std::size_t>(count), 0.0f);
  float largest = 0, smallest = 0;
  for (std::int64_t j = 0; j < count; ++j) {
    float& aj = a[static_cast<std::size_t>(j)];
    for (std::int64_t d = 0; d < dim; ++d) aj = core::absmax_nan(aj, w[j * dim + d]);
    largest = core::absmax_nan(largest, aj);
    smallest = j == 0 ? aj : std::min(smallest, aj);
  }
  const core::GroupScale plain = core::group_scale(largest, 127.0f);
  const bool flagged = core::is_finite(largest) && largest >= core::kZeroGroup && largest > flag_ratio * smallest;
  out.flagged.push_back(flagged);
  out.tile_scale.push_back(flagged ? 0.0f : plain.scale);
  const float floor = std::max(largest * 0x1p-24f, core::kZeroGroup);  // a tiny token would make 1/t infinite
  for (std::int64_t j = 0; j < tile_n; ++j) {
    const float aj = flagged && j < count ? std::max(a[static_cast<std::size_t>(j)], floor) : largest;
    const core::GroupScale g = core::group_scale(aj, 127.0f);
    out.token_scale.push_back(j < count ? g.scale : plain.scale);
    if (j >= count) continue;
    for (std::int64_t d = 0; d < dim; ++d) w[j * dim + d] = core::int8_code(w[j * dim + d], g.inv);
  }
  append_means(out, w, count);
  out.shift_limit.push_back(flagged ? shift_limit(out, w, count, tile_n) : 0.0f);
}

void to_s8_c3(Values& out, const HeadView& v, const core::Scheme& s) {
  const std::int64_t dim = out.head_dim_v;
  out.channel_scale = channel_weights(v);
  for (std::int64_t d = 0; d < dim; ++d) {
    const float inverse = 1.0f / out.channel_scale[static_cast<std::size_t>(d)];
    for (std::int64_t j = 0; j < out.seqlen; ++j) {
      float& x = out.decoded[static_cast<std::size_t>(j * dim + d)];
      x = x * inverse;
    }
  }
  for (std::int64_t first = 0; first < out.seqlen; first += s.tile_n) c3_tile(out, first, s.tile_n, s.flag_ratio);
}

}  // namespace

std::vector<float> channel_weights(const HeadView& v) {
  // every eighth token; few tokens would leave too few samples
  const std::int64_t step = v.rows <= 128 ? 1 : 8, slots = 128 / step;
  const std::int64_t dim = v.dim, tiles = (v.rows + 127) / 128, samples = (v.rows + step - 1) / step;
  std::vector<float> row(static_cast<std::size_t>(dim)), c(static_cast<std::size_t>(dim), 1.0f);
  float largest = 0;
  for (std::int64_t j = 0; j < v.rows; j += step) {
    v.load(j, row.data());
    for (float x : row) largest = core::absmax_nan(largest, x);
  }
  if (!core::is_finite(largest)) {
    std::fill(c.begin(), c.end(), core::bits_f32(0x7fc00000u));
    return c;
  }
  if (largest == 0) return c;
  const int e = std::ilogb(largest);  // squares of v * 2^-e can neither overflow nor vanish
  std::vector<float> sums(static_cast<std::size_t>(tiles * dim));
  for (std::int64_t t = 0; t < tiles; ++t) {
    std::vector<float> squares(static_cast<std::size_t>(slots * dim), 0.0f);
    for (std::int64_t i = 0; i < slots && t * 128 + i * step < v.rows; ++i) {
      v.load(t * 128 + i * step, row.data());
      for (std::int64_t d = 0; d < dim; ++d) {
        const float u = std::ldexp(row[static_cast<std::size_t>(d)], -e);
        squares[static_cast<std::size_t>(i * dim + d)] = u * u;
      }
    }
    tree_sum(squares.data(), slots, dim);
    std::copy_n(squares.begin(), dim, sums.begin() + t * dim);
  }
  const std::vector<float> total = strided_sum(sums, tiles, dim);
  std::vector<float> rms(static_cast<std::size_t>(dim));
  for (std::size_t d = 0; d < rms.size(); ++d) rms[d] = std::ldexp(std::sqrt(total[d] / static_cast<float>(samples)), e);
  std::vector<float> sorted = rms;
  std::sort(sorted.begin(), sorted.end());
  if (sorted.back() < core::kZeroGroup) return c;
  const float median = sorted[(sorted.size() - 1) / 2], floor = median > 0 ? median / 8 : sorted.back() / 128;
  for (std::size_t d = 0; d < rms.size(); ++d) c[d] = std::max(rms[d], floor);
  return c;
}

Values quantize_values(const core::Scheme& s, const HeadView& v) {
  Values out;
  out.seqlen = v.rows;
  out.head_dim_v = v.dim;
  out.channel_scale.assign(static_cast<std::size_t>(v.dim), 1.0f);
  out.decoded.resize(static_cast<std::size_t>(v.rows * v.dim));
  for (std::int64_t j = 0; j < v.rows; ++j) v.load(j, out.decoded.data() + j * v.dim);
  if (v.rows == 0) return out;
  if (s.smooth_v) {
    out.mean = sequence_mean(v);
    for (std::size_t i = 0; i < out.decoded.size(); ++i) out.decoded[i] -= out.mean[i % static_cast<std::size_t>(v.dim)];
  }
  switch (s.v) {
    case VFormat::input:
      break;
    case VFormat::f16:
      // an f16 accumulator holds the sum of a tile: leave room for it
      to_f16(out, s.accumulate == core::Accumulate::tile_f16 ? 65504.0f / static_cast<float>(s.tile_n) : 65504.0f);
      break;
    case VFormat::bf16:
      to_bf16(out);
      break;
    case VFormat::e4m3_channel:
      to_e4m3_channel(out, s.v_range);
      break;
    case VFormat::s8_tensor:
      to_s8_tensor(out);
      break;
    case VFormat::s8_channel:
      to_s8_channel(out, v.rows);
      out.channel_scale.swap(out.tile_scale);
      out.tile_scale.clear();
      break;
    case VFormat::s8_channel_tile:
      to_s8_channel(out, s.tile_n);
      break;
    case VFormat::s8_c3:
      to_s8_c3(out, v, s);
      break;
  }
  return out;
}

}  // namespace chitu::ref
