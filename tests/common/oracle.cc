#include "common/oracle.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/codec.h"

namespace chitu::test {
namespace {

constexpr double kMinusInf = -std::numeric_limits<double>::infinity();

template <class View>
double element(const View& v, std::int64_t a, std::int64_t b, std::int64_t c, std::int64_t d) {
  const std::int64_t at = a * v.stride[0] + b * v.stride[1] + c * v.stride[2] + d * v.stride[3];
  switch (v.dtype) {
    case DType::f32:
      return static_cast<const float*>(v.data)[at];
    case DType::f16:
      return core::f16_to_f32(static_cast<const std::uint16_t*>(v.data)[at]);
    case DType::bf16:
      return core::bf16_to_f32(static_cast<const std::uint16_t*>(v.data)[at]);
    case DType::boolean:
      break;
  }
  return static_cast<const std::uint8_t*>(v.data)[at];
}

struct Span {
  std::int64_t batch, q_begin, q_len, k_begin, k_len;
};

Span span_of(const AttentionArgs& a, std::int64_t b) {
  const Sequences& s = a.sequences;
  if (s.cu_seqlens_q != nullptr) {
    return {0, s.cu_seqlens_q[b], s.cu_seqlens_q[b + 1] - s.cu_seqlens_q[b], s.cu_seqlens_k[b], s.cu_seqlens_k[b + 1] - s.cu_seqlens_k[b]};
  }
  return {b, 0, a.q.shape[1], 0, s.seqlens_k != nullptr ? s.seqlens_k[b] : a.k.shape[1]};
}

/// What the dense mask adds; -inf where a boolean one hides.
double dense(const AttentionArgs& a, std::int64_t b, std::int64_t h, std::int64_t i, std::int64_t j) {
  if (a.mask.data == nullptr) return 0.0;
  auto at = [&](int dimension, std::int64_t index) { return a.mask.shape[static_cast<std::size_t>(dimension)] == 1 ? 0 : index; };
  const double x = element(a.mask, at(0, b), at(1, h), at(2, i), at(3, j));
  return a.mask.dtype == DType::boolean ? (x != 0 ? 0.0 : kMinusInf) : x;
}

bool in_band(const Mask& m, std::int64_t q_len, std::int64_t k_len, std::int64_t i, std::int64_t j) {
  const std::int64_t diagonal = m.diagonal.value_or(k_len - q_len);
  return !(m.left && j < i + diagonal - *m.left) && !(m.right && j > i + diagonal + *m.right);
}

/// Bound on what int8 rounding does to one logit: eps = s (|q|_1 Dk/2 + |k|_1 Dq/2 + D Dq Dk/4) with every norm taken from above: a rotation or a
/// subtracted mean leaves |row|_2 <= 2 max|row|_2 of the sequence, and |x|_1 <= sqrt(D) |x|_2. A smoothed q adds nothing new (its mean is one more row).
double bound_of_logits(const AttentionArgs& a, double scale, const Span& s, std::int64_t h, std::int64_t kv_head) {
  const std::int64_t dim = a.q.shape[3];
  auto norm = [&](const ConstTensorView& x, std::int64_t row, std::int64_t head) {
    double sum = 0;
    for (std::int64_t d = 0; d < dim; ++d) sum += std::pow(element(x, s.batch, row, head, d), 2);
    return std::sqrt(sum);
  };
  double q = 0, k = 0;
  for (std::int64_t r = 0; r < s.q_len; ++r) q = std::max(q, norm(a.q, s.q_begin + r, h));
  for (std::int64_t r = 0; r < s.k_len; ++r) k = std::max(k, norm(a.k, s.k_begin + r, kv_head));
  q *= 2;
  k *= 2;
  const double root = std::sqrt(static_cast<double>(dim)), step_q = q / 127, step_k = k / 127;
  return std::fabs(scale) * (root * q * step_k / 2 + root * k * step_q / 2 + static_cast<double>(dim) * step_q * step_k / 4);
}

}  // namespace

OracleRow oracle_row(const AttentionArgs& a, const AttentionOptions& o, std::int64_t b, std::int64_t h, std::int64_t i) {
  const Span s = span_of(a, b);
  const std::int64_t dim = a.q.shape[3], dim_v = a.v.shape[3], kv_head = h / (a.q.shape[2] / a.k.shape[2]);
  const double scale = o.softmax_scale ? static_cast<double>(*o.softmax_scale) : static_cast<float>(1.0 / std::sqrt(static_cast<double>(dim)));
  std::vector<std::pair<std::int64_t, double>> scores;
  OracleRow row;
  double most = kMinusInf;
  for (std::int64_t j = 0; j < s.k_len; ++j) {
    if (!in_band(o.mask, s.q_len, s.k_len, i, j)) continue;
    const double added = dense(a, b, h, i, j);
    if (added == kMinusInf) continue;
    double dot = 0;
    for (std::int64_t d = 0; d < dim; ++d) dot += element(a.q, s.batch, s.q_begin + i, h, d) * element(a.k, s.batch, s.k_begin + j, kv_head, d);
    scores.emplace_back(j, scale * dot + added);
    most = std::max(most, scores.back().second);
    row.largest_score = std::max(row.largest_score, std::fabs(scores.back().second));
  }
  row.visible = static_cast<std::int64_t>(scores.size());
  row.out.assign(static_cast<std::size_t>(dim_v), 0.0);
  row.lse = kMinusInf;
  if (scores.empty()) {
    row.low = row.high = row.out;
    return row;
  }
  row.low.assign(row.out.size(), std::numeric_limits<double>::infinity());
  row.high.assign(row.out.size(), kMinusInf);
  double sum = 0, squares = 0;
  for (const auto& [j, x] : scores) {
    const double p = std::exp(x - most);
    sum += p;
    squares += p * p;
    for (std::int64_t c = 0; c < dim_v; ++c) {
      const double v = element(a.v, s.batch, s.k_begin + j, kv_head, c);
      const auto at = static_cast<std::size_t>(c);
      row.out[at] += p * v;
      row.low[at] = std::min(row.low[at], v);
      row.high[at] = std::max(row.high[at], v);
      row.largest_v = std::max(row.largest_v, std::fabs(v));
    }
  }
  for (double& x : row.out) x /= sum;
  row.lse = most + std::log(sum);
  row.largest_weight = 1 / sum;
  row.weight_norm = std::sqrt(squares) / sum;
  row.logit_bound = bound_of_logits(a, scale, s, h, kv_head);
  return row;
}

std::int64_t oracle_sequences(const AttentionArgs& a) { return a.sequences.cu_seqlens_q != nullptr ? a.sequences.batch : a.q.shape[0]; }
std::int64_t oracle_queries(const AttentionArgs& a, std::int64_t b) { return span_of(a, b).q_len; }

float read_out(const AttentionArgs& a, std::int64_t b, std::int64_t h, std::int64_t i, std::int64_t c) {
  const Span s = span_of(a, b);
  return static_cast<float>(element(a.out, s.batch, s.q_begin + i, h, c));
}
float read_lse(const AttentionArgs& a, std::int64_t b, std::int64_t h, std::int64_t i) {
  const Span s = span_of(a, b);
  return a.lse.data[s.batch * a.lse.stride[0] + h * a.lse.stride[1] + (s.q_begin + i) * a.lse.stride[2]];
}

}  // namespace chitu::test
