// Q and K: smoothing, rotation, int8 groups (docs/methods.md 1 and 2).

#include <algorithm>
#include <iterator>

#include "core/codec.h"
#include "core/key_weights.h"
#include "core/rotation.h"
#include "reference/scheme.h"
#include "reference/statistics.h"

namespace chitu::ref {
namespace {

float round_to(float x, DType t) { return t == DType::f16 ? core::round_f16(x) : t == DType::bf16 ? core::round_bf16(x) : x; }

std::vector<float> key_center(const core::Scheme& s, const HeadView& k) {
  if (k.rows == 0 || s.k_center == core::Center::none) return {};
  if (s.k_center == core::Center::sequence_mean) return sequence_mean(k);
  std::vector<float> all;
  for (std::int64_t first = 0; first < k.rows; first += s.tile_n) {
    for (float m : tile_mean(k, first, s.tile_n)) all.push_back(round_to(m, k.dtype));
  }
  return all;
}

/// w[d] from the first tile, whose mean is `center`; only a full one decides.
std::vector<float> key_weights(const core::Scheme& s, const HeadView& k, const std::vector<float>& center) {
  std::vector<float> w(static_cast<std::size_t>(k.dim), 1.0f);
  if (k.rows < s.tile_n) return w;
  std::vector<float> slots(static_cast<std::size_t>(s.tile_n * k.dim));
  for (std::int64_t j = 0; j < s.tile_n; ++j) {
    float* row = slots.data() + j * k.dim;
    k.load(j, row);
    for (std::int64_t d = 0; d < k.dim; ++d) row[d] = core::abs_f32(row[d] - center[static_cast<std::size_t>(d)]) * (1.0f / static_cast<float>(s.tile_n));
  }
  tree_sum(slots.data(), s.tile_n, k.dim);
  std::vector<int> exponents, sorted;
  for (std::int64_t d = 0; d < k.dim; ++d) exponents.push_back(core::key_exponent(slots[static_cast<std::size_t>(d)]));
  std::copy_if(exponents.begin(), exponents.end(), std::back_inserter(sorted), [](int e) { return e != core::kNoExponent; });
  if (sorted.empty()) return w;
  std::sort(sorted.begin(), sorted.end());
  const int median = sorted[(sorted.size() - 1) / 2];
  for (std::size_t d = 0; d < w.size(); ++d) w[d] = static_cast<float>(1 << core::key_weight_log2(exponents[d], median));
  return w;
}

/// Absmax of each group over rows [0, rows) of values(row).
template <class RowOf>
std::vector<float> group_absmax(const core::Grain& grain, std::int64_t rows, std::int64_t dim, const RowOf& row_of) {
  std::vector<float> a(static_cast<std::size_t>(grain.count(rows)), 0.0f);
  for (std::int64_t i = 0; i < rows; ++i) {
    const float* x = row_of(i);
    float m = 0;
    for (std::int64_t d = 0; d < dim; ++d) m = core::absmax_nan(m, x[d]);
    float& g = a[static_cast<std::size_t>(grain.group(i))];
    g = core::absmax_nan(g, m);
  }
  return a;
}

/// int8 codes and the group scales of `rows` rows.
template <class RowOf>
void quantize_rows(const core::Grain& grain, std::int64_t rows, std::int64_t dim, const RowOf& row_of, std::vector<std::int8_t>& codes,
                   std::vector<float>& scales) {
  std::vector<float> inverse;
  for (float a : group_absmax(grain, rows, dim, row_of)) {
    const core::GroupScale g = core::group_scale(a, 127.0f);
    scales.push_back(g.scale);
    inverse.push_back(g.inv);
  }
  codes.resize(static_cast<std::size_t>(rows * dim));
  for (std::int64_t i = 0; i < rows; ++i) {
    const float* x = row_of(i);
    const float inv = inverse[static_cast<std::size_t>(grain.group(i))];
    for (std::int64_t d = 0; d < dim; ++d) codes[static_cast<std::size_t>(i * dim + d)] = core::int8_code(x[d], inv);
  }
}

}  // namespace

Keys quantize_keys(const core::Scheme& s, const HeadView& k) {
  Keys keys;
  keys.seqlen = k.rows;
  keys.head_dim = k.dim;
  keys.center = key_center(s, k);
  if (s.k_weights) keys.weights = key_weights(s, k, keys.center);
  std::vector<float> row(static_cast<std::size_t>(k.dim));
  auto residual = [&](std::int64_t j) {
    k.load(j, row.data());
    if (!keys.center.empty()) {
      const float* c = keys.center.data() + (s.k_center == core::Center::tile_mean ? j / s.tile_n * k.dim : 0);
      for (std::int64_t d = 0; d < k.dim; ++d) row[static_cast<std::size_t>(d)] -= c[d];
    }
    if (s.k_weights)
      for (std::int64_t d = 0; d < k.dim; ++d) row[static_cast<std::size_t>(d)] /= keys.weights[static_cast<std::size_t>(d)];  // exact
    if (s.rotate) core::rotate_row(row.data(), static_cast<int>(k.dim));
    return row.data();
  };
  if (s.k_grain.quantized()) quantize_rows(s.k_grain, k.rows, k.dim, residual, keys.codes, keys.scales);
  if (!s.k_grain.quantized() || !s.q_grain.quantized() || s.smooth_q) {
    keys.values.resize(static_cast<std::size_t>(k.rows * k.dim));
    for (std::int64_t j = 0; j < k.rows; ++j) std::copy_n(residual(j), k.dim, keys.values.begin() + j * k.dim);
  }
  return keys;
}

std::int64_t query_unit(const core::Scheme& s, std::int64_t seqlen_q) { return s.q_grain.block > 128 ? std::max<std::int64_t>(seqlen_q, 1) : 128; }

Queries quantize_queries(const core::Scheme& s, const HeadView& q, bool negate, std::int64_t first, const std::vector<float>& key_weights) {
  Queries out;
  out.first = first;
  out.rows = std::min(query_unit(s, q.rows), q.rows - first);
  out.head_dim = q.dim;
  out.raw.resize(static_cast<std::size_t>(out.rows * q.dim));
  for (std::int64_t i = 0; i < out.rows; ++i) q.load(first + i, out.raw.data() + i * q.dim);
  if (negate)
    for (float& x : out.raw) x = -x;
  if (s.smooth_q) {
    const HeadView raw{out.raw.data(), DType::f32, q.dim, out.rows, q.dim};
    for (std::int64_t b = 0; b < out.rows; b += 128) {
      const auto mean = tile_mean(raw, b, 128);
      out.mean.insert(out.mean.end(), mean.begin(), mean.end());
    }
  }
  std::vector<float> row(static_cast<std::size_t>(q.dim));
  auto residual = [&](std::int64_t i) {
    for (std::int64_t d = 0; d < q.dim; ++d) {
      const float x = out.raw[static_cast<std::size_t>(i * q.dim + d)];
      row[static_cast<std::size_t>(d)] = s.smooth_q ? x - out.mean[static_cast<std::size_t>(i / 128 * q.dim + d)] : x;
    }
    if (s.k_weights)
      for (std::int64_t d = 0; d < q.dim; ++d) row[static_cast<std::size_t>(d)] *= key_weights[static_cast<std::size_t>(d)];
    if (s.rotate) core::rotate_row(row.data(), static_cast<int>(q.dim));
    return row.data();
  };
  if (s.q_grain.quantized()) {
    std::vector<float> groups;
    quantize_rows(s.q_grain, out.rows, q.dim, residual, out.codes, groups);
    for (std::int64_t i = 0; i < out.rows; ++i) out.scales.push_back(groups[static_cast<std::size_t>(s.q_grain.group(i))]);
  }
  if (!s.q_grain.quantized() || !s.k_grain.quantized()) {
    for (std::int64_t i = 0; i < out.rows; ++i) out.values.insert(out.values.end(), residual(i), row.data() + q.dim);
  }
  return out;
}

void integer_scores(const Queries& q, std::int64_t row, const Keys& k, std::int64_t begin, std::int64_t end, std::int32_t* scores) {
  const std::int64_t dim = k.head_dim;
  const std::int8_t* a = q.codes.data() + (row - q.first) * dim;
  for (std::int64_t j = begin; j < end; ++j) {
    const std::int8_t* b = k.codes.data() + j * dim;
    std::int32_t sum = 0;
    for (std::int64_t d = 0; d < dim; ++d) sum += std::int32_t{a[d]} * std::int32_t{b[d]};
    scores[j - begin] = sum;
  }
}

}  // namespace chitu::ref
