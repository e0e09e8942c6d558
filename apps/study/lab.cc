#include "lab.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/codec.h"
#include "core/rotation.h"

namespace chitu::study {
namespace {

constexpr std::int64_t kTile = 128;

struct Matrix {
  std::int64_t rows, dim;
  std::vector<float> x;
  Matrix(std::int64_t r, std::int64_t d) : rows(r), dim(d), x(static_cast<std::size_t>(r * d)) {}
  float* row(std::int64_t i) { return x.data() + i * dim; }
  const float* row(std::int64_t i) const { return x.data() + i * dim; }
};

/// Q of the sampled rows and K's residuals, transformed alike.
struct Operands {
  Matrix q, k;
};

void rotate_rows(Matrix& m) {
  for (std::int64_t i = 0; i < m.rows; ++i) core::rotate_row(m.row(i), static_cast<int>(m.dim));
}

/// Rounds each group to int8 and back; `parts` > 1 adds int8 codes of what is left, that many products in all. `clip`: scale as a share of absmax / 127.
void round_groups(Matrix& m, core::Grain grain, int parts = 1, float clip = 1) {
  Matrix left = m;
  std::fill(m.x.begin(), m.x.end(), 0.0f);
  for (int part = 0; part < parts; ++part) {
    std::vector<float> a(static_cast<std::size_t>(grain.count(m.rows)), 0.0f);
    for (std::int64_t i = 0; i < m.rows; ++i)
      for (std::int64_t d = 0; d < m.dim; ++d) {
        float& g = a[static_cast<std::size_t>(grain.group(i))];
        g = std::max(g, std::fabs(left.row(i)[d]));
      }
    for (std::int64_t i = 0; i < m.rows; ++i) {
      const core::GroupScale g = core::group_scale(a[static_cast<std::size_t>(grain.group(i))] * clip, 127.0f);
      for (std::int64_t d = 0; d < m.dim; ++d) {
        const float y = static_cast<float>(core::int8_code(left.row(i)[d], g.inv)) * g.scale;
        m.row(i)[d] += y;
        left.row(i)[d] -= y;
      }
    }
  }
}

/// What a kernel adds back exactly: K minus the mean (and the linear trend) of each `block` tokens.
void take_out(Matrix& k, std::int64_t block, bool slope) {
  for (std::int64_t first = 0; first < k.rows; first += block) {
    const std::int64_t end = std::min(first + block, k.rows);
    const double n = static_cast<double>(end - first), middle = (n - 1) / 2;
    for (std::int64_t d = 0; d < k.dim; ++d) {
      double mean = 0, moment = 0, square = 0;
      for (std::int64_t j = first; j < end; ++j) {
        const double t = static_cast<double>(j - first) - middle;
        mean += k.row(j)[d] / n;
        moment += t * k.row(j)[d];
        square += t * t;
      }
      const double trend = slope && square > 0 ? moment / square : 0;
      for (std::int64_t j = first; j < end; ++j) k.row(j)[d] -= static_cast<float>(mean + trend * (static_cast<double>(j - first) - middle));
    }
  }
}

class Lab {
 public:
  explicit Lab(const Case& c) : c_(c), h_(c.head()) {}

  Operands operands(std::int64_t block = kTile, bool slope = false) const {
    Operands o{Matrix(static_cast<std::int64_t>(c_.rows().size()), h_.head_dim), Matrix(h_.seqlen_k, h_.head_dim)};
    for (std::int64_t i = 0; i < o.q.rows; ++i) std::copy_n(h_.q.begin() + c_.rows()[static_cast<std::size_t>(i)] * h_.head_dim, h_.head_dim, o.q.row(i));
    o.k.x = h_.k;
    take_out(o.k, block, slope);
    return o;
  }

  /// Power-of-two weight per channel: q * w, k / w leaves q.k alone and evens out the channels' sizes. w = 2^trunc((e - median e) / 2), e the binary
  /// exponent of the mean absolute residual of every `step`-th of the first `rows` keys (with use_q: divided by Q's): nothing happens below a ratio of 2.
  /// adopted: 1 <= w <= 16.
  void balance(Operands& o, bool use_q, std::int64_t rows, std::int64_t step, bool adopted = false) const {
    std::vector<double> w(static_cast<std::size_t>(o.k.dim));
    for (std::int64_t d = 0; d < o.k.dim; ++d) {
      double k = 0, q = 0;
      for (std::int64_t j = 0; j < std::min(rows, o.k.rows); j += step) k += std::fabs(o.k.row(j)[d]);
      for (std::int64_t i = 0; i < h_.seqlen_q; i += 8) q += std::fabs(h_.q[static_cast<std::size_t>(i * h_.head_dim + d)]);
      w[static_cast<std::size_t>(d)] = k > 0 && q > 0 ? std::floor(std::log2(use_q ? k / q : k)) : 0;
    }
    std::vector<double> sorted = w;
    std::sort(sorted.begin(), sorted.end());
    for (std::int64_t d = 0; d < o.k.dim; ++d) {
      double log2_f = std::trunc((w[static_cast<std::size_t>(d)] - sorted[(sorted.size() - 1) / 2]) / 2);
      if (adopted) log2_f = std::clamp(log2_f, 0.0, 4.0);
      const float f = static_cast<float>(std::exp2(log2_f));
      for (std::int64_t i = 0; i < o.q.rows; ++i) o.q.row(i)[d] *= f;
      for (std::int64_t j = 0; j < o.k.rows; ++j) o.k.row(j)[d] /= f;
    }
  }

  /// Tiles where the rounding of K alone is expected to move a logit by more than `nats` (one sigma).
  std::vector<bool> coarse_tiles(const Operands& o, double nats) const {
    double q2 = 0;
    for (float x : o.q.x) q2 += static_cast<double>(x) * x / static_cast<double>(o.q.rows);
    std::vector<bool> coarse;
    for (std::int64_t first = 0; first < o.k.rows; first += kTile) {
      float a = 0;
      for (std::int64_t j = first; j < std::min(first + kTile, o.k.rows); ++j)
        for (std::int64_t d = 0; d < o.k.dim; ++d) a = std::max(a, std::fabs(o.k.row(j)[d]));
      coarse.push_back(c_.scale() * std::sqrt(q2 / 12) * a / 127 > nats);
    }
    return coarse;
  }

  Case::Result finish(const Operands& unrounded, const Operands& rounded, const std::vector<bool>& exact_tile) const;

 private:
  const Case& c_;
  const Head& h_;
};

double dot(const float* a, const float* b, std::int64_t n) {
  double part[4] = {0, 0, 0, 0};
  for (std::int64_t d = 0; d + 4 <= n; d += 4)
    for (int i = 0; i < 4; ++i) part[i] += static_cast<double>(a[d + i]) * b[d + i];
  return (part[0] + part[1]) + (part[2] + part[3]);
}

/// Exact softmax and PV of the scores q.k + (rounded q . rounded k - q' . k'): the transformed operands' product without rounding is q . (k - what was taken
/// out).
Case::Result Lab::finish(const Operands& o, const Operands& rounded, const std::vector<bool>& exact_tile) const {
  const std::int64_t dim = h_.head_dim;
  std::vector<float> out, lse;
  std::vector<double> s(static_cast<std::size_t>(h_.seqlen_k)), sum(static_cast<std::size_t>(dim));
  for (std::int64_t i = 0; i < o.q.rows; ++i) {
    const std::int64_t row = c_.rows()[static_cast<std::size_t>(i)];
    const core::KeyRange keys = c_.band().keys(row);
    double top = -std::numeric_limits<double>::infinity(), total = 0;
    for (std::int64_t j = keys.begin; j < keys.end; ++j) {
      double x = dot(h_.q.data() + row * dim, h_.k.data() + j * dim, dim);
      if (exact_tile.empty() || !exact_tile[static_cast<std::size_t>(j / kTile)])
        x += dot(rounded.q.row(i), rounded.k.row(j), dim) - dot(o.q.row(i), o.k.row(j), dim);
      s[static_cast<std::size_t>(j)] = c_.scale() * x;
      top = std::max(top, s[static_cast<std::size_t>(j)]);
    }
    std::fill(sum.begin(), sum.end(), 0.0);
    for (std::int64_t j = keys.begin; j < keys.end; ++j) {
      const double p = std::exp(s[static_cast<std::size_t>(j)] - top);
      total += p;
      for (std::int64_t d = 0; d < dim; ++d) sum[static_cast<std::size_t>(d)] += p * h_.v[static_cast<std::size_t>(j * dim + d)];
    }
    for (double x : sum) out.push_back(static_cast<float>(x / total));
    lse.push_back(static_cast<float>(top + std::log(total)));
  }
  return c_.judge(out, lse);
}

}  // namespace

std::vector<LabResult> run_lab(const Case& c) {
  const Lab lab(c);
  constexpr core::Grain token{1, 1};
  std::vector<LabResult> results;
  struct Rounding {
    core::Grain k_grain = {128, 4};
    int q_parts = 1, k_parts = 1;
    float clip = 1;
    double exact_above = 0;  ///< 0: never
  };
  auto add = [&](const std::string& name, Operands o, const Rounding& r) {
    rotate_rows(o.q);
    rotate_rows(o.k);
    Operands rounded = o;
    round_groups(rounded.q, token, r.q_parts);
    round_groups(rounded.k, r.k_grain, r.k_parts, r.clip);
    const std::vector<bool> exact = r.exact_above > 0 ? lab.coarse_tiles(o, r.exact_above) : std::vector<bool>{};
    const double tiles = static_cast<double>(std::max<std::size_t>(exact.size(), 1));
    results.push_back({name, lab.finish(o, rounded, exact), static_cast<double>(std::count(exact.begin(), exact.end(), true)) / tiles});
  };
  const Operands base = lab.operands();
  const std::int64_t h_rows = c.head().seqlen_k;
  Operands weighted = base, weighted_qk = base, weighted_tile = base, adopted = base;
  lab.balance(weighted, false, h_rows, 8);
  lab.balance(weighted_qk, true, h_rows, 8);
  lab.balance(weighted_tile, false, kTile, 1);
  lab.balance(adopted, false, kTile, 1, true);
  add("without channel weights", base, {});
  add("per_token K", base, {.k_grain = token});
  add("K scale 0.9 absmax, clipped", base, {.clip = 0.9f});
  add("second product: residual of Q", base, {.q_parts = 2});
  add("second product: residual of K", base, {.k_parts = 2});
  add("four products: residuals of both", base, {.q_parts = 2, .k_parts = 2});
  add("two means per tile", lab.operands(64), {});
  add("mean and trend per tile", lab.operands(kTile, true), {});
  add("channel weights from k", weighted, {});
  add("channel weights from k's first tile", weighted_tile, {});
  add("the same, none below 1 (adopted)", adopted, {});
  add("channel weights from q and k", weighted_qk, {});
  add("channel weights (first tile), per_token K", weighted_tile, {.k_grain = token});
  add("16-bit QK in tiles above 0.02 nats", base, {.exact_above = 0.02});
  add("16-bit QK in tiles above 0.05 nats", base, {.exact_above = 0.05});
  add("channel weights (first tile), 16-bit above 0.05", weighted_tile, {.exact_above = 0.05});
  return results;
}

}  // namespace chitu::study
