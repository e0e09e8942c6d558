#include "eval/exact64.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/codec.h"
#include "core/mask.h"
#include "eval/random.h"
#include "eval/threads.h"

namespace chitu::eval {
namespace {

constexpr std::int64_t kKeyBlock = 256;  // keys converted to double at a time: K and V of a block stay in the cache for all rows of a group
constexpr std::size_t kRowsPerGroup = 32;

double element(const void* data, DType t, std::int64_t i) {
  switch (t) {
    case DType::f32:
      return static_cast<const float*>(data)[i];
    case DType::f16:
      return core::f16_to_f32(static_cast<const std::uint16_t*>(data)[i]);
    case DType::bf16:
      return core::bf16_to_f32(static_cast<const std::uint16_t*>(data)[i]);
    default:
      return static_cast<const unsigned char*>(data)[i] != 0;
  }
}

void load_row(const ConstTensorView& t, std::int64_t batch, std::int64_t row, std::int64_t head, double* out) {
  const std::int64_t base = batch * t.stride[0] + row * t.stride[1] + head * t.stride[2];
  for (std::int64_t d = 0; d < t.shape[3]; ++d) out[d] = element(t.data, t.dtype, base + d * t.stride[3]);
}

/// Lengths and offsets of one sequence in the call's tensors.
struct Extent {
  std::int64_t batch, q_begin, q_len, k_begin, k_len;
};
Extent extent(const AttentionArgs& a, std::int64_t sequence) {
  const Sequences& s = a.sequences;
  if (s.cu_seqlens_q != nullptr)
    return {0, s.cu_seqlens_q[sequence], s.cu_seqlens_q[sequence + 1] - s.cu_seqlens_q[sequence], s.cu_seqlens_k[sequence],
            s.cu_seqlens_k[sequence + 1] - s.cu_seqlens_k[sequence]};
  return {sequence, 0, a.q.shape[1], 0, s.seqlens_k != nullptr ? s.seqlens_k[sequence] : a.k.shape[1]};
}

core::MaskParams mask_params(const Mask& m) {
  core::MaskParams p;
  if (m.left) p.left = *m.left;
  if (m.right) p.right = *m.right;
  if (m.diagonal) {
    p.diagonal = *m.diagonal;
    p.bottom_right = false;
  }
  return p;
}

/// Running state of one row: weights are relative to the largest score so far.
struct Row {
  RowIndex index;
  core::KeyRange keys{0, 0};
  std::vector<double> q;
  double max = -std::numeric_limits<double>::infinity(), sum = 0;
  double* out;
};

void visit_keys(const AttentionArgs& a, const Extent& e, double scale, Row& r, std::int64_t j0, std::int64_t j1, const double* k, const double* v,
                double* scores) {
  const std::int64_t d_qk = a.q.shape[3], d_v = a.v.shape[3], begin = std::max(j0, r.keys.begin), end = std::min(j1, r.keys.end);
  if (begin >= end) return;
  double top = r.max;
  for (std::int64_t j = begin; j < end; ++j) {
    const double* row = k + (j - j0) * d_qk;
    double part[4] = {0, 0, 0, 0};  // four independent sums: a single one cannot be vectorised
    std::int64_t d = 0;
    for (; d + 4 <= d_qk; d += 4)
      for (int c = 0; c < 4; ++c) part[c] += r.q[static_cast<std::size_t>(d + c)] * row[d + c];
    for (; d < d_qk; ++d) part[0] += r.q[static_cast<std::size_t>(d)] * row[d];
    double s = scale * ((part[0] + part[1]) + (part[2] + part[3]));
    if (a.mask.data != nullptr) {
      const auto& st = a.mask.stride;
      const double m = element(a.mask.data, a.mask.dtype, e.batch * st[0] + r.index.head * st[1] + r.index.row * st[2] + j * st[3]);
      if (a.mask.dtype != DType::boolean)
        s = m == -std::numeric_limits<double>::infinity() ? m : s + m;
      else if (m == 0)
        s = -std::numeric_limits<double>::infinity();
    }
    scores[j - begin] = s;
    top = std::isnan(s) || s > top ? s : top;  // a NaN score stays: everything after it is NaN
  }
  if (top == -std::numeric_limits<double>::infinity()) return;
  if (top != r.max) {
    const double shrink = r.sum == 0 ? 0 : std::exp(r.max - top);
    r.sum *= shrink;
    for (std::int64_t d = 0; d < d_v; ++d) r.out[d] *= shrink;
    r.max = top;
  }
  for (std::int64_t j = begin; j < end; ++j) {
    if (scores[j - begin] == -std::numeric_limits<double>::infinity()) continue;  // the key does not exist, whatever its value is
    const double p = std::exp(scores[j - begin] - r.max), *row = v + (j - j0) * d_v;
    r.sum += p;
    for (std::int64_t d = 0; d < d_v; ++d) r.out[d] += p * row[d];
  }
}

}  // namespace

ExactRows exact64(const AttentionArgs& args, const Mask& mask, std::optional<float> softmax_scale, std::span<const RowIndex> rows, int threads) {
  AttentionArgs a = args;
  for (std::size_t i = 0; i < 4; ++i) {
    if (a.mask.shape[i] == 1) a.mask.stride[i] = 0;  // broadcasts, whatever its stride says
  }
  const std::int64_t d_qk = a.q.shape[3], d_v = a.v.shape[3], group = a.q.shape[2] / std::max<std::int64_t>(1, a.k.shape[2]);
  const double scale = softmax_scale.value_or(static_cast<float>(1.0 / std::sqrt(static_cast<double>(d_qk))));
  ExactRows result{d_v, std::vector<double>(rows.size() * static_cast<std::size_t>(d_v), 0.0),
                   std::vector<double>(rows.size(), -std::numeric_limits<double>::infinity())};
  // Neighbouring rows of one (sequence, kv head) share the conversion of K and V.
  std::vector<std::pair<std::size_t, std::size_t>> groups;
  for (std::size_t i = 0; i < rows.size();) {
    std::size_t n = i + 1;
    while (n < rows.size() && n - i < kRowsPerGroup && rows[n].sequence == rows[i].sequence && rows[n].head / group == rows[i].head / group) ++n;
    groups.emplace_back(i, n);
    i = n;
  }
  parallel_for(static_cast<std::int64_t>(groups.size()), threads, [&](std::int64_t g) {
    const auto [first, last] = groups[static_cast<std::size_t>(g)];
    const Extent e = extent(a, rows[first].sequence);
    const core::Band band(mask_params(mask), e.q_len, e.k_len);
    std::vector<Row> states(last - first);
    std::int64_t k_first = e.k_len, k_last = 0;
    for (std::size_t i = first; i < last; ++i) {
      Row& r = states[i - first];
      r.index = rows[i];
      r.keys = band.keys(rows[i].row);
      r.q.resize(static_cast<std::size_t>(d_qk));
      load_row(a.q, e.batch, e.q_begin + rows[i].row, rows[i].head, r.q.data());
      r.out = result.out.data() + i * static_cast<std::size_t>(d_v);
      k_first = std::min(k_first, r.keys.begin);
      k_last = std::max(k_last, r.keys.end);
    }
    std::vector<double> k(static_cast<std::size_t>(kKeyBlock * d_qk)), v(static_cast<std::size_t>(kKeyBlock * d_v)), scores(kKeyBlock);
    for (std::int64_t j0 = k_first; j0 < k_last; j0 += kKeyBlock) {
      const std::int64_t j1 = std::min(k_last, j0 + kKeyBlock);
      for (std::int64_t j = j0; j < j1; ++j) {
        load_row(a.k, e.batch, e.k_begin + j, rows[first].head / group, k.data() + (j - j0) * d_qk);
        load_row(a.v, e.batch, e.k_begin + j, rows[first].head / group, v.data() + (j - j0) * d_v);
      }
      for (Row& r : states) visit_keys(a, e, scale, r, j0, j1, k.data(), v.data(), scores.data());
    }
    for (std::size_t i = first; i < last; ++i) {
      Row& r = states[i - first];
      if (r.max == -std::numeric_limits<double>::infinity()) continue;
      for (std::int64_t d = 0; d < d_v; ++d) r.out[d] /= r.sum;
      result.lse[i] = r.max + std::log(r.sum);
    }
  });
  return result;
}

std::vector<RowIndex> sample_rows(std::int64_t batch, std::int64_t num_heads, std::int64_t seqlen_q, std::int64_t count, std::uint64_t seed) {
  const std::int64_t all = batch * num_heads * seqlen_q;
  std::vector<RowIndex> rows;
  if (all == 0) return rows;
  if (count <= 0 || count > all) count = all;
  const Random random(seed, 0x726f7773u);
  for (std::int64_t i = 0; i < count; ++i) {
    // One row out of each of `count` equal stretches; 128-bit free: all and count are far below 2^31 * 2^31.
    const std::int64_t begin = static_cast<std::int64_t>(static_cast<double>(all) * static_cast<double>(i) / static_cast<double>(count));
    const std::int64_t end = std::max(begin + 1, static_cast<std::int64_t>(static_cast<double>(all) * static_cast<double>(i + 1) / static_cast<double>(count)));
    std::int64_t at = count == all ? i : begin + static_cast<std::int64_t>(random.uniform(static_cast<std::uint64_t>(i)) * static_cast<double>(end - begin));
    if (i == 0) at = 0;
    rows.push_back({at / (num_heads * seqlen_q), at / seqlen_q % num_heads, at % seqlen_q});
  }
  return rows;
}

}  // namespace chitu::eval
