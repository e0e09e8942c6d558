#include "reference/weights.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/codec.h"
#include "core/lut_exp.h"
#include "reference/exp2.h"

namespace chitu::ref {
namespace {

using core::Exponential;
using core::PFormat;

/// e4m3 bits straight from the exponent: the code is 8 per octave, so its value is 2^n (1 + f) where 2^(n + f) was meant. The shift of -0.46 codes centres
/// the error among keys whose exponential is exact. 2^0 is code 120 = 256 (p_range of every scheme that uses it).
float log_code(float octaves) {
  const float u = std::fma(8.0f, octaves, 120.0f - 0.46f);
  const float code = core::rne_small(u > 0.0f ? u : (u <= 0.0f ? 0.0f : u));
  return core::is_nan(code) ? code : core::e4m3_to_f32(static_cast<std::uint8_t>(code));
}

void round_codes(PFormat format, std::vector<float>& p) {
  switch (format) {
    case PFormat::f32:
      break;
    case PFormat::f16:
      for (float& x : p) x = core::round_f16(x);
      break;
    case PFormat::bf16:
      for (float& x : p) x = core::round_bf16(x);
      break;
    case PFormat::u8:
    case PFormat::s8:
      for (float& x : p) x = core::rne_small(x);
      break;
    case PFormat::e4m3:
      for (float& x : p) x = core::e4m3_to_f32(core::f32_to_e4m3(x));
      break;
  }
}

double sum_of(const std::vector<float>& x) {
  double s = 0;
  for (float e : x) s += e;
  return s;
}

/// Codes of exponents octaves[i] <= 0 (more where the reference lags).
void weights_f32(const core::Scheme& s, const TileScores& t, const std::vector<float>& octaves, TileWeights& out) {
  const std::size_t n = octaves.size();
  out.code.resize(n);
  for (std::size_t i = 0; i < n; ++i) out.code[i] = exp2_f32(octaves[i]);
  out.raw_sum = sum_of(out.code);
  for (float& p : out.code) p *= s.p_range;
  round_codes(s.p, out.code);
  if (s.exponential == Exponential::log_code) {
    for (std::size_t i = 0; i < n; ++i) {
      if (!(s.log_code_mask >> (t.index[i] / 16 % 32) & 1)) continue;  // word w of a thread: keys 16w + 2t + {0, 1, 8, 9}
      const float code = log_code(octaves[i]);
      out.raw_sum += static_cast<double>(code) / s.p_range - exp2_f32(octaves[i]);  // no exponential was computed: the code is all there is
      out.code[i] = code;
    }
  }
  out.code_sum = sum_of(out.code) / s.p_range;
  out.lossy = std::fabs(out.raw_sum - out.code_sum) > out.raw_sum / 64;
}

/// The CPU's table (core/lut_exp.h): below[i] = 64 * octaves below the level, >= 0.
void weights_lut(const std::vector<float>& below, TileWeights& out) {
  std::int64_t raw = 0, codes = 0;
  double exact = 0;
  out.code.resize(below.size());
  for (std::size_t i = 0; i < below.size(); ++i) {
    const std::uint32_t r = core::lut_raw(core::lut_index(below[i]));
    const std::uint32_t code = core::lut_code(r);
    out.code[i] = static_cast<float>(code);
    raw += r;
    codes += code;
    exact += exp2_f32(below[i] / -64.0f);
  }
  out.code_sum = static_cast<double>(codes) / 255;
  out.raw_sum = static_cast<double>(raw) / core::kLutOne;
  out.lse_sum = core::lut_flat(raw, static_cast<std::int64_t>(below.size())) ? exact : out.raw_sum;
  out.lossy = core::lut_corrected(raw, codes);
}

/// Distances of a plain tile without a mask: the integer difference first, so that nothing depends on the size of the scores.
std::vector<float> lut_distances(const TileScores& t, float level) {
  std::int32_t groups = 0;
  for (std::int32_t g : t.group) groups = std::max(groups, g + 1);
  std::vector<std::int32_t> largest(static_cast<std::size_t>(groups), std::numeric_limits<std::int32_t>::min());
  for (std::size_t i = 0; i < t.s.size(); ++i) {
    std::int32_t& mx = largest[static_cast<std::size_t>(t.group[i])];
    mx = std::max(mx, t.s[i]);
  }
  std::vector<float> below(t.s.size());
  for (std::size_t i = 0; i < t.s.size(); ++i) {
    const std::int32_t mx = largest[static_cast<std::size_t>(t.group[i])];
    const float c = t.factor[i], group_level = static_cast<float>(mx) * c;
    below[i] = std::fma(static_cast<float>(mx - t.s[i]), 64.0f * c, 64.0f * (level - group_level));
  }
  return below;
}

}  // namespace

float nan_max(const std::vector<float>& x) {
  float m = -std::numeric_limits<float>::infinity();
  bool nan = false;
  for (float e : x) {
    m = e > m ? e : m;
    nan |= e != e;
  }
  return nan ? std::numeric_limits<float>::quiet_NaN() : m;
}

void tile_weights(const core::Scheme& s, const TileScores& t, float reference, TileWeights& out) {
  out.code_level = reference;
  if (s.exponential == Exponential::lut16) {
    std::vector<float> below(t.x.size());
    if (t.masked || t.s.empty() || core::is_nan(reference)) {
      for (std::size_t i = 0; i < below.size(); ++i) below[i] = 64.0f * (reference - t.x[i]);
    } else {
      below = lut_distances(t, reference);
    }
    weights_lut(below, out);
    return;
  }
  std::vector<float> octaves(t.x.size());
  for (std::size_t i = 0; i < octaves.size(); ++i) octaves[i] = t.x[i] - reference;
  weights_f32(s, t, octaves, out);
  out.lse_sum = out.raw_sum;
}

void flagged_weights(const core::Scheme& s, const TileScores& t, const float* token_scale, float level, TileWeights& out) {
  TileScores scaled{t.index, t.x, {}, {}, {}, true};
  tile_weights(s, scaled, level, out);
  const double lse_sum = out.lse_sum;
  for (std::size_t i = 0; i < t.x.size(); ++i) scaled.x[i] = (t.x[i] - level) + core::log2_f32(token_scale[t.index[i]]);
  tile_weights(s, scaled, nan_max(scaled.x), out);
  out.lse_sum = lse_sum;
}

}  // namespace chitu::ref
