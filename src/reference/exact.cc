// The definition, for Method::exact on the CPU: fp64, plain loops, no tiles.
//   s_j = softmax_scale * q.k_j (+ mask_j) over visible keys;  p = softmax(s);  out = sum p_j v_j;  lse = ln sum e^(s_j)

#include <cmath>
#include <limits>

#include "core/codec.h"
#include "reference/scheme.h"

namespace chitu::ref {
namespace {

constexpr double kMinusInf = -std::numeric_limits<double>::infinity();

double mask_value(const MaskView& m, std::int64_t i, std::int64_t j) {
  if (m.data == nullptr) return 0;
  const std::int64_t at = i * m.row_stride + j * m.key_stride;
  switch (m.dtype) {
    case DType::boolean:
      return static_cast<const unsigned char*>(m.data)[at] ? 0 : kMinusInf;
    case DType::f32:
      return static_cast<const float*>(m.data)[at];
    case DType::f16:
      return core::f16_to_f32(static_cast<const std::uint16_t*>(m.data)[at]);
    case DType::bf16:
      return core::bf16_to_f32(static_cast<const std::uint16_t*>(m.data)[at]);
  }
  return 0;
}

std::vector<float> load_all(const HeadView& x) {
  std::vector<float> all(static_cast<std::size_t>(x.rows * x.dim));
  for (std::int64_t i = 0; i < x.rows; ++i) x.load(i, all.data() + i * x.dim);
  return all;
}

double dot(const float* a, const float* b, std::int64_t n) {
  double part[4] = {0, 0, 0, 0};  // four sums, so that the loop vectorises
  std::int64_t d = 0;
  for (; d + 4 <= n; d += 4)
    for (int c = 0; c < 4; ++c) part[c] += static_cast<double>(a[d + c]) * b[d + c];
  for (; d < n; ++d) part[0] += static_cast<double>(a[d]) * b[d];
  return (part[0] + part[1]) + (part[2] + part[3]);
}

}  // namespace

void attend_exact(const HeadProblem& p, const HeadView& q, const HeadView& k, const HeadView& v, std::span<const std::int64_t> rows, float* out, float* lse) {
  const std::vector<float> keys = load_all(k), values = load_all(v);
  std::vector<float> query(static_cast<std::size_t>(q.dim));
  std::vector<double> scores, sum(static_cast<std::size_t>(v.dim));
  for (std::size_t n = 0; n < rows.size(); ++n) {
    const core::KeyRange range = p.band.keys(rows[n]);
    q.load(rows[n], query.data());
    scores.clear();
    double top = kMinusInf;
    for (std::int64_t j = range.begin; j < range.end; ++j) {
      const double mask = mask_value(p.mask, rows[n], j);
      const double s = mask == kMinusInf ? kMinusInf : static_cast<double>(p.softmax_scale) * dot(query.data(), keys.data() + j * k.dim, k.dim) + mask;
      scores.push_back(s);
      top = s > top || std::isnan(s) ? s : top;
    }
    std::fill(sum.begin(), sum.end(), 0.0);
    double total = 0;
    for (std::size_t i = 0; i < scores.size(); ++i) {
      if (scores[i] == kMinusInf) continue;
      const double weight = std::exp(scores[i] - top);
      const float* row = values.data() + (range.begin + static_cast<std::int64_t>(i)) * v.dim;
      total += weight;
      for (std::int64_t d = 0; d < v.dim; ++d) sum[static_cast<std::size_t>(d)] += weight * row[d];
    }
    const bool empty = top == kMinusInf;
    for (std::int64_t d = 0; d < v.dim; ++d)
      out[n * static_cast<std::size_t>(v.dim) + static_cast<std::size_t>(d)] = empty ? 0.0f : static_cast<float>(sum[static_cast<std::size_t>(d)] / total);
    if (lse != nullptr) lse[n] = static_cast<float>(empty ? kMinusInf : top + std::log(total));
  }
}

}  // namespace chitu::ref
