// The tile loop that all methods share (docs/methods.md 2 and 3), one row at a time.

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/codec.h"
#include "reference/accumulate.h"
#include "reference/exp2.h"
#include "reference/scheme.h"
#include "reference/weights.h"

namespace chitu::ref {
namespace {

using core::Accumulate;
using core::Center;
using core::PReference;
using core::PSum;
using core::VFormat;

constexpr float kLog2E = 1.4426950408889634f;
constexpr float kMinusInf = -std::numeric_limits<float>::infinity();

/// What a tile brings for every row of the block.
struct Tile {
  std::int64_t number = 0, first = 0, count = 0;
  std::int64_t padded_dim = 0;
  std::vector<std::int16_t> codes;  ///< [count, padded_dim]: 16 bits because their product-sum is one instruction on most machines
  std::vector<float> k_scale;       ///< [count]
  std::vector<std::int32_t> group;  ///< [count]
  std::vector<float> mean_scores;   ///< smooth_q: dS of the block of q whose mean was taken out, [count]
  std::int64_t mean_block = -1;
};

struct RowState {
  std::int64_t row = 0;
  core::KeyRange keys{0, 0};
  std::vector<std::int16_t> codes;  ///< [padded_dim]
  float q_scale = 0;
  float m = kMinusInf;  ///< running maximum, log2 units, bias included
  double normaliser = 0, lse_sum = 0;
  std::vector<double> o;      ///< in units of codes: p_range times the weights
  std::vector<float> direct;  ///< f16 and fp8_direct: the hardware accumulator itself
};

class Block {
 public:
  Block(const HeadProblem& p, const Queries& q, const Keys& k, const Values& v) : p_(p), s_(p.scheme), q_(q), k_(k), v_(v) {
    scale_log2_ = std::fabs(p.softmax_scale) * kLog2E;
    integer_ = s_.q_grain.quantized() && s_.k_grain.quantized();
    direct_ = s_.accumulate == Accumulate::f16 || s_.accumulate == Accumulate::fp8_direct;
  }
  void add_row(std::int64_t row);
  void run();
  void finish(std::size_t i, float* out, float* lse) const;

 private:
  void load_tile(std::int64_t number);
  void visit(RowState& r);
  bool scores(const RowState& r);
  void mean_scores(std::int64_t row);
  float bias(const RowState& r) const;
  void raise_max(RowState& r, float top);
  void add_product(RowState& r, double weight);

  const HeadProblem& p_;
  const core::Scheme& s_;
  const Queries& q_;
  const Keys& k_;
  const Values& v_;
  float scale_log2_;
  bool integer_, direct_;
  std::vector<RowState> rows_;
  Tile tile_;
  TileScores scores_;
  TileWeights weights_;
  std::vector<float> product_;
};

void Block::add_row(std::int64_t row) {
  RowState r;
  r.row = row;
  r.keys = p_.band.keys(row);
  r.o.assign(static_cast<std::size_t>(v_.head_dim_v), 0.0);
  if (direct_) r.direct.assign(r.o.size(), 0.0f);
  if (integer_) {
    r.codes.assign(static_cast<std::size_t>((k_.head_dim + 15) / 16 * 16), 0);
    for (std::int64_t d = 0; d < k_.head_dim; ++d)
      r.codes[static_cast<std::size_t>(d)] = q_.codes[static_cast<std::size_t>((row - q_.first) * k_.head_dim + d)];
    r.q_scale = q_.scales[static_cast<std::size_t>(row - q_.first)];
  }
  rows_.push_back(std::move(r));
}

void Block::load_tile(std::int64_t number) {
  Tile& t = tile_;
  t.number = number;
  t.first = number * s_.tile_n;
  t.count = std::min(s_.tile_n, k_.seqlen - t.first);
  t.mean_block = -1;
  if (!integer_) return;
  t.padded_dim = (k_.head_dim + 15) / 16 * 16;
  t.codes.assign(static_cast<std::size_t>(t.count * t.padded_dim), 0);
  t.k_scale.resize(static_cast<std::size_t>(t.count));
  t.group.resize(static_cast<std::size_t>(t.count));
  const std::int64_t first_group = s_.k_grain.group(t.first) / s_.k_grain.groups * s_.k_grain.groups;
  for (std::int64_t j = 0; j < t.count; ++j) {
    const std::int8_t* from = k_.codes.data() + (t.first + j) * k_.head_dim;
    std::copy(from, from + k_.head_dim, t.codes.data() + j * t.padded_dim);
    const std::int64_t g = s_.k_grain.group(t.first + j);
    t.k_scale[static_cast<std::size_t>(j)] = k_.scales[static_cast<std::size_t>(g)];
    t.group[static_cast<std::size_t>(j)] = static_cast<std::int32_t>(g - first_group);
  }
}

/// dS[j] = |s|*L2E * qbar . kc[j] of the 128-row block of this row.
void Block::mean_scores(std::int64_t row) {
  const std::int64_t b = (row - q_.first) / 128;
  if (tile_.mean_block == b) return;
  tile_.mean_block = b;
  tile_.mean_scores.resize(static_cast<std::size_t>(tile_.count));
  const float* mean = q_.mean.data() + b * k_.head_dim;
  for (std::int64_t j = 0; j < tile_.count; ++j) {
    const float* k = k_.values.data() + (tile_.first + j) * k_.head_dim;
    double dot = 0;
    for (std::int64_t d = 0; d < k_.head_dim; ++d) dot += static_cast<double>(mean[d]) * k[d];
    tile_.mean_scores[static_cast<std::size_t>(j)] = static_cast<float>(scale_log2_ * dot);
  }
}

/// One element of the dense mask in log2 units; -inf: the key does not exist for the row.
float dense_mask(const MaskView& m, std::int64_t i, std::int64_t j) {
  const std::int64_t at = i * m.row_stride + j * m.key_stride;
  switch (m.dtype) {
    case DType::boolean:
      return static_cast<const unsigned char*>(m.data)[at] ? 0.0f : kMinusInf;
    case DType::f32:
      return static_cast<const float*>(m.data)[at] * kLog2E;
    case DType::f16:
      return core::f16_to_f32(static_cast<const std::uint16_t*>(m.data)[at]) * kLog2E;
    case DType::bf16:
      return core::bf16_to_f32(static_cast<const std::uint16_t*>(m.data)[at]) * kLog2E;
  }
  return 0;
}

/// Fills scores_ with the visible keys of the tile; false when there is none.
bool Block::scores(const RowState& r) {
  const std::int64_t begin = std::max(r.keys.begin, tile_.first) - tile_.first, end = std::min(r.keys.end, tile_.first + tile_.count) - tile_.first;
  TileScores& out = scores_;
  out.index.clear();
  for (std::int64_t j = begin; j < end; ++j)
    if (p_.mask.data == nullptr || dense_mask(p_.mask, r.row, tile_.first + j) != kMinusInf) out.index.push_back(static_cast<std::int32_t>(j));
  const std::size_t n = out.index.size();
  if (n == 0) return false;
  out.x.resize(n);
  out.masked = p_.mask.data != nullptr && p_.mask.dtype != DType::boolean;
  if (integer_) {
    out.s.resize(n);
    out.factor.resize(n);
    out.group.resize(n);
    const float row_factor = scale_log2_ * r.q_scale;
    for (std::size_t i = 0; i < n; ++i) {
      const std::int16_t *a = r.codes.data(), *b = tile_.codes.data() + out.index[i] * tile_.padded_dim;
      std::int32_t sum = 0;
      for (std::int64_t d = 0; d < tile_.padded_dim; ++d) sum += std::int32_t{a[d]} * std::int32_t{b[d]};
      out.s[i] = sum;
    }
    for (std::size_t i = 0; i < n; ++i) {
      const std::size_t j = static_cast<std::size_t>(out.index[i]);
      out.factor[i] = row_factor * tile_.k_scale[j];
      out.group[i] = tile_.group[j];
      out.x[i] = static_cast<float>(out.s[i]) * out.factor[i];
    }
  } else {
    out.s.clear();
    const float* a = q_.values.data() + (r.row - q_.first) * k_.head_dim;
    for (std::size_t i = 0; i < n; ++i) {
      const float* b = k_.values.data() + (tile_.first + out.index[i]) * k_.head_dim;
      double part[4] = {0, 0, 0, 0};
      for (std::int64_t d = 0; d < k_.head_dim; ++d) part[d % 4] += static_cast<double>(a[d]) * b[d];
      out.x[i] = static_cast<float>(scale_log2_ * ((part[0] + part[1]) + (part[2] + part[3])));
    }
  }
  if (s_.smooth_q) {
    mean_scores(r.row);
    for (std::size_t i = 0; i < n; ++i) out.x[i] += tile_.mean_scores[static_cast<std::size_t>(out.index[i])];
  }
  if (out.masked)
    for (std::size_t i = 0; i < n; ++i) out.x[i] += dense_mask(p_.mask, r.row, tile_.first + out.index[i]);
  return true;
}

/// |s|*L2E * (q . mu[T]), unrotated q; 0 without tile means.
float Block::bias(const RowState& r) const {
  if (s_.k_center != Center::tile_mean) return 0;
  const float *q = q_.raw.data() + (r.row - q_.first) * k_.head_dim, *mu = k_.center.data() + tile_.number * k_.head_dim;
  double dot = 0;
  for (std::int64_t d = 0; d < k_.head_dim; ++d) dot += static_cast<double>(q[d]) * mu[d];
  return static_cast<float>(scale_log2_ * dot);
}

/// Moves the running maximum to `top` and rescales what was summed so far. A NaN top makes the whole row NaN.
void Block::raise_max(RowState& r, float top) {
  if (top == r.m) return;
  const float shrink = r.m == kMinusInf ? 0.0f : exp2_f32(r.m - top);
  r.m = top;
  r.normaliser *= shrink;
  r.lse_sum *= shrink;
  for (double& x : r.o) x *= shrink;
  for (float& x : r.direct) x = s_.accumulate == Accumulate::f16 ? core::round_f16(x * shrink) : x * shrink;
}

/// O += weight * (codes . V), by the scheme's accumulator.
void Block::add_product(RowState& r, double weight) {
  const std::int64_t dim = v_.head_dim_v;
  const ProductTerms terms{weights_.code.data(), scores_.index.data(), static_cast<std::int64_t>(weights_.code.size()), v_.decoded.data() + tile_.first * dim,
                           dim};
  const std::int64_t f16_step = s_.p == core::PFormat::e4m3 ? 32 : 16;  // keys that one mma instruction takes
  if (direct_) {
    if (s_.accumulate == Accumulate::f16)
      accumulate_f16(terms, f16_step, r.direct.data());
    else
      accumulate_fp8(terms, r.direct.data());
    return;
  }
  product_.assign(static_cast<std::size_t>(dim), 0.0f);
  if (s_.accumulate == Accumulate::tile_f16)
    accumulate_f16(terms, f16_step, product_.data());
  else if (s_.accumulate == Accumulate::fp8_tile)
    accumulate_fp8(terms, product_.data());
  else
    accumulate_f32(terms, product_.data());
  if (s_.p_sum == PSum::corrected && s_.v == VFormat::s8_c3 && (v_.flagged[static_cast<std::size_t>(tile_.number)] || weights_.lossy)) {
    double lost = weights_.raw_sum - weights_.code_sum;
    if (v_.flagged[static_cast<std::size_t>(tile_.number)]) {  // in units of 2^code_level
      const double limit = weights_.lse_sum * static_cast<double>(v_.shift_limit[static_cast<std::size_t>(tile_.number)]) / exp2_f32(weights_.code_level);
      if (std::fabs(lost) > limit) lost = std::copysign(limit, lost);
    }
    const float missing = static_cast<float>(lost * s_.p_range), *mean = v_.code_mean.data() + tile_.number * dim;
    for (std::int64_t d = 0; d < dim; ++d) product_[static_cast<std::size_t>(d)] += missing * mean[d];
  }
  const float* channel = s_.v == VFormat::s8_channel_tile ? v_.tile_scale.data() + tile_.number * dim : nullptr;
  for (std::int64_t d = 0; d < dim; ++d)
    r.o[static_cast<std::size_t>(d)] += weight * (channel == nullptr ? 1.0f : channel[d]) * product_[static_cast<std::size_t>(d)];
}

void Block::visit(RowState& r) {
  if (!scores(r)) return;
  const float level = nan_max(scores_.x), tile_bias = bias(r), top = level + tile_bias;
  if (top == kMinusInf) return;
  const bool keep = s_.p_ref == PReference::lazy ? r.m != kMinusInf && top - r.m <= s_.lazy_octaves : top <= r.m;
  if (!keep) raise_max(r, top);
  const bool c3 = s_.v == VFormat::s8_c3, flagged = c3 && v_.flagged[static_cast<std::size_t>(tile_.number)];
  if (flagged)
    flagged_weights(s_, scores_, v_.token_scale.data() + tile_.number * s_.tile_n, level, weights_);
  else  // counted from the tile's own level, where a huge bias cannot swallow the distances
    tile_weights(s_, scores_, s_.p_ref == PReference::tile ? level : tile_bias == 0 ? r.m : level + (r.m - top), weights_);
  const bool tile_ref = s_.p_ref == PReference::tile;
  const double sum_weight = tile_ref ? exp2_f32(top - r.m) : 1.0f;
  double code_weight = flagged ? sum_weight * exp2_f32(weights_.code_level) : sum_weight;
  if (c3 && !flagged) code_weight *= v_.tile_scale[static_cast<std::size_t>(tile_.number)];
  add_product(r, code_weight);
  r.lse_sum += sum_weight * weights_.lse_sum;
  // Codes of a flagged tile are in units of V's token scales, so only the raw weights can be summed there.
  const bool raw = flagged || s_.p_sum == PSum::raw || (s_.p_sum == PSum::corrected && weights_.lossy);
  r.normaliser += sum_weight * (flagged ? weights_.lse_sum : raw ? weights_.raw_sum : weights_.code_sum);
}

void Block::run() {
  std::int64_t begin = k_.seqlen, end = 0;
  for (const RowState& r : rows_) {
    if (r.keys.begin >= r.keys.end) continue;
    begin = std::min(begin, r.keys.begin);
    end = std::max(end, r.keys.end);
  }
  if (begin >= end) return;
  const std::int64_t first = begin / s_.tile_n, last = (end + s_.tile_n - 1) / s_.tile_n;
  for (std::int64_t n = first; n < last; ++n) {
    load_tile(s_.reverse ? first + last - 1 - n : n);
    for (RowState& r : rows_) visit(r);
  }
}

void Block::finish(std::size_t i, float* out, float* lse) const {
  const RowState& r = rows_[i];
  const std::size_t dim = static_cast<std::size_t>(v_.head_dim_v);
  if (r.m == kMinusInf) {
    std::fill(out, out + dim, 0.0f);
    if (lse != nullptr) *lse = kMinusInf;
    return;
  }
  for (std::size_t d = 0; d < dim; ++d) {
    const double sum = direct_ ? r.direct[d] : r.o[d];
    const double o = sum / (r.normaliser * s_.p_range) * v_.channel_scale[d];
    out[d] = static_cast<float>(v_.mean.empty() ? o : o + v_.mean[d]);
  }
  if (lse == nullptr) return;
  double shift = 0;  // K lost its sequence mean: s * (q . k_mean), from the unquantized q
  if (s_.k_center == Center::sequence_mean)
    for (std::int64_t d = 0; d < k_.head_dim; ++d)
      shift += static_cast<double>(q_.raw[static_cast<std::size_t>((r.row - q_.first) * k_.head_dim + d)]) * k_.center[static_cast<std::size_t>(d)];
  *lse = static_cast<float>(0.69314718055994530942 * (r.m + std::log2(r.lse_sum)) + std::fabs(p_.softmax_scale) * shift);
}

}  // namespace

void attend(const HeadProblem& p, const HeadView& q, const Keys& k, const Values& v, std::span<const std::int64_t> rows, float* out, float* lse) {
  const std::int64_t unit = query_unit(p.scheme, q.rows);
  for (std::size_t i = 0; i < rows.size();) {
    std::size_t end = i;
    while (end < rows.size() && rows[end] / unit == rows[i] / unit) ++end;
    const Queries block_q = quantize_queries(p.scheme, q, p.softmax_scale < 0, rows[i] / unit * unit, k.weights);
    Block block(p, block_q, k, v);
    for (std::size_t n = i; n < end; ++n) block.add_row(rows[n]);
    block.run();
    for (std::size_t n = i; n < end; ++n) block.finish(n - i, out + n * static_cast<std::size_t>(v.head_dim_v), lse == nullptr ? nullptr : lse + n);
    i = end;
  }
}

}  // namespace chitu::ref
