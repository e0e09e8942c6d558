#include "eval/error_model.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/codec.h"
#include "core/key_weights.h"
#include "core/rotation.h"

namespace chitu::eval {
namespace {

using core::Center;
using core::PFormat;
using core::PReference;
using core::PSum;
using core::VFormat;

using Matrix = std::vector<double>;  // row major

constexpr double kMinusInf = -std::numeric_limits<double>::infinity();
constexpr double kF32Sum = 0x1p-21;  // f32 arithmetic itself, relative to sum p |v|: all that is left where nothing is quantized
constexpr double kLinear = 0.1;      // sigma of the lse (nats) from where first order no longer describes a single row
constexpr double kLn2 = 0.69314718055994530942;

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }
double square(double x) { return x * x; }

/// The rotation in fp64, from its definition (signs, then Walsh-Hadamard in blocks of powers of two).
void rotate(double* x, std::int64_t dim) {
  for (std::int64_t d = 0; d < dim; ++d)
    if (core::rotation_sign(static_cast<int>(d))) x[d] = -x[d];
  for (std::int64_t base = 0; base < dim;) {
    std::int64_t block = 1;
    while (2 * block <= dim - base) block *= 2;
    std::vector<double> y(at(block));
    for (std::int64_t i = 0; i < block; ++i) {
      double sum = 0;
      for (std::int64_t j = 0; j < block; ++j) sum += (__builtin_popcountll(static_cast<unsigned long long>(i & j)) & 1) ? -x[base + j] : x[base + j];
      y[at(i)] = sum / std::sqrt(static_cast<double>(block));
    }
    std::copy(y.begin(), y.end(), x + base);
    base += block;
  }
}

/// Quantization step (absmax / 127) of every row's group, 0 without quantization. Rows are centred; rotation happens here.
std::vector<double> row_steps(const core::Grain& grain, const Matrix& x, std::int64_t rows, std::int64_t dim, bool rotated) {
  std::vector<double> step(at(rows), 0.0);
  if (!grain.quantized()) return step;
  std::vector<double> absmax(at(grain.count(rows)), 0.0), row(at(dim));
  for (std::int64_t i = 0; i < rows; ++i) {
    std::copy_n(x.begin() + i * dim, dim, row.begin());
    if (rotated) rotate(row.data(), dim);
    for (double e : row) absmax[at(grain.group(i))] = std::max(absmax[at(grain.group(i))], std::fabs(e));
  }
  for (std::int64_t i = 0; i < rows; ++i) step[at(i)] = absmax[at(grain.group(i))] / 127;
  return step;
}

/// x minus the mean of each block of rows.
void subtract_means(Matrix& x, std::int64_t rows, std::int64_t dim, std::int64_t block) {
  for (std::int64_t first = 0; first < rows; first += block) {
    const std::int64_t end = std::min(rows, first + block);
    for (std::int64_t d = 0; d < dim; ++d) {
      double mean = 0;
      for (std::int64_t i = first; i < end; ++i) mean += x[at(i * dim + d)] / static_cast<double>(end - first);
      for (std::int64_t i = first; i < end; ++i) x[at(i * dim + d)] -= mean;
    }
  }
}

/// Moves size from K to Q channel by channel, as the first tile says (docs/methods.md 1).
void apply_key_weights(Matrix& q, Matrix& k, std::int64_t rows, std::int64_t dim, std::int64_t tile_n) {
  if (rows < tile_n) return;
  std::vector<int> exponents, sorted;
  for (std::int64_t d = 0; d < dim; ++d) {
    double a = 0;
    for (std::int64_t j = 0; j < tile_n; ++j) a += std::fabs(k[at(j * dim + d)]) / static_cast<double>(tile_n);
    exponents.push_back(core::key_exponent(static_cast<float>(a)));
    if (exponents.back() != core::kNoExponent) sorted.push_back(exponents.back());
  }
  if (sorted.empty()) return;
  std::sort(sorted.begin(), sorted.end());
  for (std::int64_t d = 0; d < dim; ++d) {
    const double w = std::exp2(core::key_weight_log2(exponents[at(d)], sorted[(sorted.size() - 1) / 2]));
    for (std::size_t i = at(d); i < q.size(); i += at(dim)) q[i] *= w;
    for (std::size_t i = at(d); i < k.size(); i += at(dim)) k[i] /= w;
  }
}

double e4m3_step(double x) { return std::max(std::exp2(std::floor(std::log2(std::max(std::fabs(x), 1e-300))) - 3), std::exp2(-9.0)); }
/// Variance of rounding x to a grid of this step; a value below the step loses at most itself.
double rounding_variance(double step, double x) { return std::min(step * step / 12, x * x); }

/// V as the scheme sees it: variance of each element's rounding, and what C3 needs to know.
struct ValueModel {
  Matrix variance;              ///< [seqlen, dim]
  std::vector<double> mean;     ///< smooth_v: [dim], else empty
  std::vector<bool> flagged;    ///< C3, per tile
  std::vector<double> token_t;  ///< C3, per token
};

std::vector<double> channel_weights(const HeadInputs& h) {
  std::vector<double> rms(at(h.head_dim_v), 0.0);
  double samples = 0;
  for (std::int64_t j = 0; j < h.seqlen_k; j += h.seqlen_k <= 128 ? 1 : 8, ++samples)
    for (std::int64_t d = 0; d < h.head_dim_v; ++d) rms[at(d)] += square(h.v[j * h.head_dim_v + d]);
  for (double& r : rms) r = std::sqrt(r / samples);
  std::vector<double> sorted = rms;
  std::sort(sorted.begin(), sorted.end());
  if (sorted.back() < core::kZeroGroup) return std::vector<double>(rms.size(), 1.0);
  const double median = sorted[(sorted.size() - 1) / 2], floor = median > 0 ? median / 8 : sorted.back() / 128;
  for (double& r : rms) r = std::max(r, floor);
  return rms;
}

ValueModel c3_model(const core::Scheme& s, const HeadInputs& h) {
  ValueModel m;
  const std::vector<double> c = channel_weights(h);
  m.variance.resize(at(h.seqlen_k * h.head_dim_v));
  m.token_t.resize(at(h.seqlen_k));
  for (std::int64_t first = 0; first < h.seqlen_k; first += s.tile_n) {
    const std::int64_t end = std::min(h.seqlen_k, first + s.tile_n);
    double largest = 0, smallest = std::numeric_limits<double>::infinity();
    for (std::int64_t j = first; j < end; ++j) {
      double a = 0;
      for (std::int64_t d = 0; d < h.head_dim_v; ++d) a = std::max(a, std::fabs(h.v[j * h.head_dim_v + d]) / c[at(d)]);
      m.token_t[at(j)] = a / 127;
      largest = std::max(largest, a);
      smallest = std::min(smallest, a);
    }
    m.flagged.push_back(largest > s.flag_ratio * smallest);
    for (std::int64_t j = first; j < end; ++j) {
      double& t = m.token_t[at(j)];
      t = m.flagged.back() ? std::max(t, largest / 127 * 0x1p-24) : largest / 127;
      for (std::int64_t d = 0; d < h.head_dim_v; ++d) {
        const std::int64_t e = j * h.head_dim_v + d;
        m.variance[at(e)] = rounding_variance(c[at(d)] * t, h.v[e]);
      }
    }
  }
  return m;
}

ValueModel value_model(const core::Scheme& s, const HeadInputs& h) {
  if (s.v == VFormat::s8_c3) return c3_model(s, h);
  ValueModel m;
  const std::int64_t dim = h.head_dim_v;
  Matrix v(h.v, h.v + h.seqlen_k * dim);
  if (s.smooth_v) {
    subtract_means(v, h.seqlen_k, dim, std::max<std::int64_t>(1, h.seqlen_k));
    for (std::int64_t d = 0; d < dim; ++d) m.mean.push_back(h.v[d] - v[at(d)]);
  }
  m.variance.assign(v.size(), 0.0);
  if (s.v == VFormat::f16 || s.v == VFormat::bf16) {
    const int bits = s.v == VFormat::f16 ? 10 : 7;
    for (std::size_t i = 0; i < v.size(); ++i) {
      const float x = static_cast<float>(v[i]), r = s.v == VFormat::f16 ? core::round_f16(x) : core::round_bf16(x);
      if (r != x) m.variance[i] = rounding_variance(std::exp2(std::floor(std::log2(std::fabs(v[i]))) - bits), v[i]);
    }
  } else if (s.v != VFormat::input) {
    const std::int64_t block = s.v == VFormat::s8_channel_tile ? s.tile_n : std::max<std::int64_t>(1, h.seqlen_k);
    double whole = 0;
    for (double x : v) whole = std::max(whole, std::fabs(x));
    for (std::int64_t d = 0; d < dim; ++d)
      for (std::int64_t first = 0; first < h.seqlen_k; first += block) {
        const std::int64_t end = std::min(h.seqlen_k, first + block);
        double a = 0;
        for (std::int64_t j = first; j < end; ++j) a = std::max(a, std::fabs(v[at(j * dim + d)]));
        if (a == 0) continue;
        for (std::int64_t j = first; j < end; ++j) {
          const double x = v[at(j * dim + d)];
          const double step = s.v == VFormat::e4m3_channel ? e4m3_step(s.v_range * x / a) * a / s.v_range : (s.v == VFormat::s8_tensor ? whole : a) / 127;
          m.variance[at(j * dim + d)] = rounding_variance(step, x);
        }
      }
  }
  return m;
}

/// Exact softmax of one row over its visible keys, 0 elsewhere; returns lse.
double softmax_row(const HeadInputs& h, core::KeyRange keys, double scale, std::int64_t row, std::vector<double>& p) {
  p.assign(at(h.seqlen_k), 0.0);
  double top = kMinusInf, sum = 0;
  for (std::int64_t j = keys.begin; j < keys.end; ++j) {
    double dot = 0;
    for (std::int64_t d = 0; d < h.head_dim; ++d) dot += static_cast<double>(h.q[row * h.head_dim + d]) * h.k[j * h.head_dim + d];
    p[at(j)] = scale * dot;
    top = std::max(top, p[at(j)]);
  }
  for (std::int64_t j = keys.begin; j < keys.end; ++j) sum += p[at(j)] = std::exp(p[at(j)] - top);
  for (double& x : p) x /= sum;
  return top + std::log(sum);
}

/// Rounding of one weight p whose reference (what becomes p_range) is `ref`. A weight equal to the reference is exact in every format.
struct WeightRounding {
  double variance = 0;  ///< independent from key to key
  double shift = 0;     ///< known error: small integers (keys that vanish do so together), and the log-code's curve
  bool log_code = false;
};
WeightRounding weight_rounding(const core::Scheme& s, double p, double ref, std::int64_t position) {
  WeightRounding w;
  const double x = s.p_range * p / ref, unit = ref / s.p_range;
  w.log_code = s.exponential == core::Exponential::log_code && (s.log_code_mask >> (position / 16 % 32) & 1);
  if (p == ref) return w;
  switch (s.p) {
    case PFormat::f32:
      break;
    case PFormat::f16:
      w.variance = rounding_variance(std::exp2(std::max(-24.0, std::floor(std::log2(std::max(x, 1e-300))) - 10)), x);
      break;
    case PFormat::bf16:
      w.variance = rounding_variance(x * std::exp2(-7.5), x);
      break;
    case PFormat::u8:
    case PFormat::s8:
      if (x < 4)
        w.shift = unit * (std::nearbyint(x) - x);
      else
        w.variance = rounding_variance(1, x);
      break;
    case PFormat::e4m3:
      w.variance = rounding_variance(e4m3_step(x), x);
      break;
  }
  if (w.log_code) {
    const double octaves = std::log2(std::max(p / ref, 1e-300)) - 0.46 / 8, n = std::floor(octaves);
    w.shift = unit * (s.p_range * std::exp2(n) * (1 + octaves - n) - x);  // 1 + f where 2^f was meant
  }
  if (s.exponential == core::Exponential::lut16) w.variance += square(x * kLn2 / 128) / 3;
  w.variance *= square(unit);
  return w;
}

struct RowModel {
  const core::Scheme& s;
  const HeadInputs& h;
  const ValueModel& value;
  const std::vector<double>& p;
  const double* o;  ///< exact output
};

/// An f16 accumulator rounds each of its steps to 11 bits.
void add_f16_terms(const RowModel& m, std::int64_t begin, std::int64_t end, double* variance) {
  for (std::int64_t d = 0; d < m.h.head_dim_v; ++d) {
    double sum = 0;
    for (std::int64_t j = begin; j < end; ++j) {
      sum += m.p[at(j)] * m.h.v[j * m.h.head_dim_v + d];
      if (j % 16 == 15 || j + 1 == end) variance[d] += square(sum * std::exp2(-10.5)) / 12;
    }
  }
}

/// Adds the squared error of rounding P: independent roundings one by one, known shifts (`shift`, [dim]) as a sum. Returns the variance of the lse.
double add_weight_terms(const RowModel& m, core::KeyRange keys, double* variance) {
  const std::int64_t dim = m.h.head_dim_v, tile_n = m.s.tile_n;
  double running = 0, lse_shift = 0, lse_variance = 0;
  std::vector<double> shift(at(dim), 0.0);
  std::vector<WeightRounding> rounding(at(tile_n));
  for (std::int64_t first = keys.begin / tile_n * tile_n; first < keys.end; first += tile_n) {
    const std::int64_t begin = std::max(first, keys.begin), end = std::min(first + tile_n, keys.end), count = std::min(tile_n, m.h.seqlen_k - first);
    const bool corrected = m.s.p_sum == PSum::corrected && m.s.v == VFormat::s8_c3, flagged = corrected && m.value.flagged[at(first / tile_n)];
    auto token_t = [&](std::int64_t j) { return flagged ? m.value.token_t[at(j)] : 1.0; };
    double top = 0, top_t = 0, raw = 0, rounded = 0;
    for (std::int64_t j = begin; j < end; ++j) {
      top = std::max(top, m.p[at(j)]);
      top_t = std::max(top_t, m.p[at(j)] * token_t(j));
    }
    running = std::max(running, top);
    const double ref = flagged ? top_t : m.s.p_ref == PReference::tile ? top : running;
    if (ref == 0) continue;
    for (std::int64_t j = begin; j < end; ++j) {
      const double p = m.p[at(j)] * token_t(j);
      const WeightRounding& w = rounding[at(j - first)] = weight_rounding(m.s, p, ref, j - first);
      raw += p / ref;
      rounded += std::nearbyint(m.s.p_range * p / ref) / m.s.p_range;
      lse_shift += w.log_code ? w.shift : 0;
      lse_variance += w.log_code || m.s.exponential == core::Exponential::lut16 ? w.variance : 0;
    }
    const bool centred = corrected && (flagged || std::fabs(raw - rounded) > raw / 64);
    for (std::int64_t d = 0; d < dim; ++d) {
      double mean = 0;  // what the correction puts in place of lost weight: the tile's mean value (in flagged tiles of v / t)
      for (std::int64_t j = first; centred && j < first + count; ++j) mean += m.h.v[j * dim + d] / token_t(j) / static_cast<double>(count);
      for (std::int64_t j = begin; j < end; ++j) {
        const double v = m.h.v[j * dim + d] / token_t(j);
        const double plain = m.s.p_sum == PSum::raw ? (m.value.mean.empty() ? v : v - m.value.mean[at(d)]) : v - m.o[d];
        const double u = centred ? v - mean : plain;
        variance[d] += rounding[at(j - first)].variance * square(u);
        shift[at(d)] += rounding[at(j - first)].shift * u;
      }
    }
    if (m.s.accumulate == core::Accumulate::tile_f16) add_f16_terms(m, begin, end, variance);
  }
  for (std::int64_t d = 0; d < dim; ++d) variance[d] += square(shift[at(d)]);
  return lse_variance + square(lse_shift);
}

/// Adds the terms of rounded Q and K; returns the variance of the lse.
double add_score_terms(const RowModel& m, core::KeyRange keys, double scale, const Matrix& q, const Matrix& k, double q_step, const std::vector<double>& k_step,
                       std::int64_t row, double* variance) {
  const std::int64_t dim = m.h.head_dim, dim_v = m.h.head_dim_v;
  double q_norm2 = 0, lse = 0;
  for (std::int64_t d = 0; d < dim; ++d) q_norm2 += square(q[at(row * dim + d)]);
  Matrix cross(at(dim * dim_v), 0.0);  // sum_j p_j kc_j (v_j - O): one rounding of q is shared by all keys
  std::vector<double> first(at(dim), 0.0), away(at(dim_v));
  for (std::int64_t j = keys.begin; j < keys.end; ++j) {
    const double p = m.p[at(j)], weight = square(scale * p * k_step[at(j)]) * q_norm2 / 12;
    lse += weight;
    for (std::int64_t c = 0; c < dim_v; ++c) {
      away[at(c)] = m.h.v[j * dim_v + c] - m.o[c];
      variance[c] += weight * square(away[at(c)]);
    }
    if (q_step == 0 || p < 1e-12) continue;
    for (std::int64_t d = 0; d < dim; ++d) {
      const double pk = p * k[at(j * dim + d)];
      first[at(d)] += pk;
      double* sum = cross.data() + d * dim_v;
      for (std::int64_t c = 0; c < dim_v; ++c) sum[c] += pk * away[at(c)];
    }
  }
  const double q_variance = square(scale * q_step) / 12;
  for (std::int64_t d = 0; d < dim; ++d) {
    lse += q_variance * square(first[at(d)]);
    for (std::int64_t c = 0; c < dim_v; ++c) variance[c] += q_variance * square(cross[at(d * dim_v + c)]);
  }
  return lse;
}

double output_variance(double o, DType t) {
  if (t == DType::f32 || o == 0) return 0;
  return square(std::exp2(std::floor(std::log2(std::fabs(o))) - (t == DType::f16 ? 10 : 7))) / 12;
}

}  // namespace

ErrorPrediction predict_error(const core::Scheme& s, const HeadInputs& h, const core::MaskParams& mask, double softmax_scale,
                              std::span<const std::int64_t> rows, DType out_dtype) {
  const std::int64_t dim = h.head_dim, dim_v = h.head_dim_v;
  Matrix q(h.q, h.q + h.seqlen_q * dim), k(h.k, h.k + h.seqlen_k * dim);
  if (s.smooth_q) subtract_means(q, h.seqlen_q, dim, 128);
  if (s.k_center != Center::none) subtract_means(k, h.seqlen_k, dim, s.k_center == Center::tile_mean ? s.tile_n : std::max<std::int64_t>(1, h.seqlen_k));
  if (s.k_weights) apply_key_weights(q, k, h.seqlen_k, dim, s.tile_n);
  const std::vector<double> q_step = row_steps(s.q_grain, q, h.seqlen_q, dim, s.rotate), k_step = row_steps(s.k_grain, k, h.seqlen_k, dim, s.rotate);
  const ValueModel value = value_model(s, h);
  const core::Band band(mask, h.seqlen_q, h.seqlen_k);
  ErrorPrediction out;
  std::vector<double> p;
  for (std::int64_t row : rows) {
    const core::KeyRange keys = band.keys(row);
    const double lse = keys.begin < keys.end ? softmax_row(h, keys, softmax_scale, row, p) : kMinusInf;
    std::vector<double> exact(at(dim_v), 0.0), variance(at(dim_v), 0.0), magnitude(at(dim_v), 0.0);
    double lse_variance = 0;
    if (keys.begin < keys.end) {
      for (std::int64_t j = keys.begin; j < keys.end; ++j)
        for (std::int64_t d = 0; d < dim_v; ++d) {
          exact[at(d)] += p[at(j)] * h.v[j * dim_v + d];
          variance[at(d)] += square(p[at(j)]) * value.variance[at(j * dim_v + d)];
          magnitude[at(d)] += p[at(j)] * std::fabs(h.v[j * dim_v + d]);
        }
      for (std::int64_t d = 0; d < dim_v; ++d) variance[at(d)] += square(kF32Sum * magnitude[at(d)]);
      const RowModel m{s, h, value, p, exact.data()};
      lse_variance = add_score_terms(m, keys, softmax_scale, q, k, q_step[at(row)], k_step, row, variance.data());
      lse_variance += add_weight_terms(m, keys, variance.data());
      for (std::int64_t d = 0; d < dim_v; ++d) variance[at(d)] += output_variance(exact[at(d)], out_dtype);
    }
    out.variance.insert(out.variance.end(), variance.begin(), variance.end());
    out.exact.insert(out.exact.end(), exact.begin(), exact.end());
    out.lse_sigma.push_back(std::sqrt(lse_variance));
    out.lse.push_back(lse);
  }
  return out;
}

ZScore z_score(const ErrorPrediction& prediction, std::span<const float> out, std::span<const float> lse) {
  ZScore z;
  const std::size_t rows = prediction.lse.size(), dim = rows == 0 ? 0 : prediction.exact.size() / rows;
  double all_error = 0, all_variance = 0;
  for (std::size_t i = 0; i < rows; ++i) {
    double error = 0, variance = 0;
    for (std::size_t d = i * dim; d < (i + 1) * dim; ++d) {
      error += square(out[d] - prediction.exact[d]);
      variance += prediction.variance[d];
    }
    all_error += error;
    all_variance += variance;
    if (error > 0 && prediction.lse_sigma[i] < kLinear) z.worst_row = std::max(z.worst_row, std::sqrt(error / variance));
    if (lse.empty() || std::isinf(prediction.lse[i])) continue;
    const double floor = 1e-5 + 0x1p-20 * std::fabs(prediction.lse[i]);
    const double over = std::fabs(static_cast<double>(lse[i]) - prediction.lse[i]) - floor;
    if (over > 0) z.lse_sigmas = std::max(z.lse_sigmas, over / prediction.lse_sigma[i]);
  }
  z.overall = all_error == 0 && all_variance == 0 ? 1 : std::sqrt(all_error / all_variance);
  return z;
}

}  // namespace chitu::eval
