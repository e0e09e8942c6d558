// C4, the alternative for flagged tiles of chitu_int8: such a tile in e4m3 (P to 256 against the tile's maximum, V / (c[d] * t_tile) to 448), the others as
// in C3. Scores are exact, so the result compares with the `pv` part.

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/codec.h"
#include "lab.h"

namespace chitu::study {
namespace {

constexpr std::int64_t kTile = 128;

float round_e4m3(double x) { return core::e4m3_to_f32(core::f32_to_e4m3(static_cast<float>(x))); }

/// P, its sum and V of one tile in the two formats. Values are v / (c[d] * t) in units of the code.
struct Tile {
  const ref::Values& values;
  const std::vector<float>& e4m3;  ///< [seqlen, dim]: codes of flagged tiles
  std::int64_t number;

  bool flagged() const { return values.flagged[static_cast<std::size_t>(number)]; }
  double weight(double p) const { return flagged() ? round_e4m3(256 * p) / 256 : std::nearbyint(255 * p) / 255; }
};

}  // namespace

LabResult run_c4(const Case& c, float flag_ratio) {
  const Head& h = c.head();
  const std::int64_t dim = h.head_dim;
  core::Scheme s = core::default_scheme(Method::chitu_int8, DType::f16);
  s.flag_ratio = flag_ratio;
  const ref::Values values = ref::quantize_values(s, {h.v.data(), DType::f32, dim, h.seqlen_k, dim});
  const std::int64_t tiles = static_cast<std::int64_t>(values.flagged.size());
  std::vector<float> e4m3(h.v.size()), tile_scale(static_cast<std::size_t>(tiles));
  for (std::int64_t t = 0; t < tiles; ++t) {
    const std::int64_t first = t * kTile, end = std::min(first + kTile, h.seqlen_k);
    float a = 0;
    for (std::int64_t e = first * dim; e < end * dim; ++e)
      a = std::max(a, std::fabs(h.v[static_cast<std::size_t>(e)]) / values.channel_scale[static_cast<std::size_t>(e % dim)]);
    tile_scale[static_cast<std::size_t>(t)] = a / 448;
    for (std::int64_t e = first * dim; a > 0 && e < end * dim; ++e)
      e4m3[static_cast<std::size_t>(e)] = round_e4m3(h.v[static_cast<std::size_t>(e)] / values.channel_scale[static_cast<std::size_t>(e % dim)] * (448 / a));
  }
  std::vector<float> out, lse;
  std::vector<double> x(static_cast<std::size_t>(h.seqlen_k)), sum(static_cast<std::size_t>(dim));
  for (std::int64_t row : c.rows()) {
    const core::KeyRange keys = c.band().keys(row);
    double top = -std::numeric_limits<double>::infinity(), total = 0, raw_total = 0;
    for (std::int64_t j = keys.begin; j < keys.end; ++j) {
      double dot = 0;
      for (std::int64_t d = 0; d < dim; ++d)
        dot += static_cast<double>(h.q[static_cast<std::size_t>(row * dim + d)]) * h.k[static_cast<std::size_t>(j * dim + d)];
      x[static_cast<std::size_t>(j)] = c.scale() * dot;
      top = std::max(top, x[static_cast<std::size_t>(j)]);
    }
    std::fill(sum.begin(), sum.end(), 0.0);
    for (std::int64_t first = keys.begin / kTile * kTile; first < keys.end; first += kTile) {
      const std::int64_t begin = std::max(first, keys.begin), end = std::min(first + kTile, keys.end);
      const double level = *std::max_element(x.begin() + begin, x.begin() + end), w = std::exp(level - top);
      const Tile tile{values, e4m3, first / kTile};
      double raw = 0, rounded = 0;
      for (std::int64_t j = begin; j < end; ++j) {
        const double p = std::exp(x[static_cast<std::size_t>(j)] - level);
        raw += p;
        rounded += tile.weight(p);
      }
      const bool corrected = !tile.flagged() && std::fabs(raw - rounded) > raw / 64;
      const double t = tile.flagged() ? tile_scale[static_cast<std::size_t>(tile.number)] : values.tile_scale[static_cast<std::size_t>(tile.number)];
      for (std::int64_t j = begin; j < end; ++j) {
        const double p = w * tile.weight(std::exp(x[static_cast<std::size_t>(j)] - level)) * t;
        const float* v = (tile.flagged() ? e4m3.data() : values.decoded.data()) + j * dim;
        for (std::int64_t d = 0; d < dim; ++d) sum[static_cast<std::size_t>(d)] += p * v[d];
      }
      for (std::int64_t d = 0; corrected && d < dim; ++d)
        sum[static_cast<std::size_t>(d)] += w * (raw - rounded) * t * values.code_mean[static_cast<std::size_t>(tile.number * dim + d)];
      total += w * (corrected ? raw : rounded);
      raw_total += w * raw;
    }
    for (std::int64_t d = 0; d < dim; ++d)
      out.push_back(static_cast<float>(sum[static_cast<std::size_t>(d)] / total * values.channel_scale[static_cast<std::size_t>(d)]));
    lse.push_back(static_cast<float>(top + std::log(raw_total)));
  }
  const double flagged = static_cast<double>(std::count(values.flagged.begin(), values.flagged.end(), 1)) / static_cast<double>(tiles);
  return {"C4, flag ratio " + std::to_string(static_cast<int>(flag_ratio)), c.judge(out, lse), flagged};
}

}  // namespace chitu::study
