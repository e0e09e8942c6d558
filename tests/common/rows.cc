#include "common/rows.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "common/oracle.h"
#include "core/codec.h"
#include "core/validate.h"
#include "eval/error_model.h"
#include "registry.h"

namespace chitu::test {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();

core::Problem problem_of(const TestCall& call, Method method) {
  AttentionOptions options = call.options(method);
  core::Problem p = core::validate(call.args(), options);
  p.scheme = core::resolve_scheme(method, p.dtype, options.scheme);
  return p;
}

/// Largest relative step of a rounded weight, in units of the largest weight of the row.
double step_of(core::PFormat p) {
  switch (p) {
    case core::PFormat::f32:
      return 0x1p-23;
    case core::PFormat::f16:
      return 0x1p-10;
    case core::PFormat::bf16:
      return 0x1p-7;
    case core::PFormat::u8:
      return 1.0 / 255;
    case core::PFormat::s8:
      return 1.0 / 127;
    case core::PFormat::e4m3:
      return 0x1p-3;
  }
  return 1;
}

double half_ulp(double x, DType t) {
  return t == DType::f32 ? 0 : std::max(std::fabs(x) * (t == DType::f16 ? 0x1p-11 : 0x1p-8), t == DType::f16 ? 0x1p-25 : 0.0);
}

/// Where row (sequence b, head h, i) lies in Results.
struct Position {
  std::size_t out, lse;
};
Position position(const TestCall& c, std::int64_t b, std::int64_t h, std::int64_t i) {
  const SequenceSpan s = c.span(b);
  const std::int64_t row = s.q_begin + i, heads = c.spec().heads_q;
  return {static_cast<std::size_t>(((s.tensor_batch * c.rows_q() + row) * heads + h) * c.spec().head_dim_v),
          static_cast<std::size_t>((s.tensor_batch * heads + h) * c.rows_q() + row)};
}

double row_norm(const std::vector<float>& x, std::int64_t row, std::int64_t heads, std::int64_t head, std::int64_t dim) {
  double sum = 0;
  for (std::int64_t d = 0; d < dim; ++d) sum += std::pow(static_cast<double>(x[static_cast<std::size_t>((row * heads + head) * dim + d)]), 2);
  return std::sqrt(sum);
}

std::string place(const TestCall& c, std::int64_t b, std::int64_t h, std::int64_t i) {
  return "sequence " + std::to_string(b) + " head " + std::to_string(h) + " row " + std::to_string(i) + " of [" + c.spec().text() + "]: ";
}

/// |scale| |q_i| max_j |k_j|: no logit of the row is larger. Sums of products in f32 err in proportion to it.
double logit_size(const TestCall& c, const SequenceSpan& s, std::int64_t h, std::int64_t i) {
  const CallSpec& spec = c.spec();
  const std::int64_t kv = h / (spec.heads_q / spec.heads_kv);
  double k = 0;
  for (std::int64_t j = 0; j < s.k_len; ++j) k = std::max(k, row_norm(c.k(), s.tensor_batch * c.rows_k() + s.k_begin + j, spec.heads_kv, kv, spec.head_dim));
  const double scale = spec.softmax_scale ? std::fabs(static_cast<double>(*spec.softmax_scale)) : 1 / std::sqrt(static_cast<double>(spec.head_dim));
  return scale * k * row_norm(c.q(), s.tensor_batch * c.rows_q() + s.q_begin + i, spec.heads_q, h, spec.head_dim);
}

}  // namespace

std::vector<const core::Kernel*> cpu_rows(bool with_specification) {
  std::vector<const core::Kernel*> rows;
  for (const core::Backend* backend : backends(DeviceType::cpu))
    for (const core::Kernel& row : backend->kernels)
      if (with_specification || !row.reference) rows.push_back(&row);
  return rows;
}

std::vector<Method> served_methods(const core::Kernel& row, const TestCall& call, std::string* reason) {
  std::vector<Method> list;
  for (Method m : list_methods()) {
    const std::string why = row.why_not(problem_of(call, m));
    if (why.empty()) list.push_back(m);
    if (reason != nullptr && list.empty()) *reason = why;
  }
  return list;
}

core::Scheme executed_scheme(const core::Kernel& row, const TestCall& call, Method method) {
  const core::Problem p = problem_of(call, method);
  return row.executes == nullptr ? p.scheme : row.executes(p);
}

Results run_specification(const TestCall& call, const core::Scheme& scheme) {
  const CallSpec& spec = call.spec();
  Results r;
  r.out.resize(static_cast<std::size_t>(call.tensor_batch() * call.rows_q() * spec.heads_q * spec.head_dim_v));
  r.lse.resize(static_cast<std::size_t>(call.tensor_batch() * call.rows_q() * spec.heads_q));
  AttentionArgs args = call.args();
  args.out = contiguous_view<void*, 4>(r.out.data(), DType::f32, {call.tensor_batch(), call.rows_q(), spec.heads_q, spec.head_dim_v});
  args.lse = contiguous_view<float*, 3>(r.lse.data(), DType::f32, {call.tensor_batch(), spec.heads_q, call.rows_q()});
  core::Problem p = core::validate(args, call.options(scheme.method));
  p.scheme = scheme;
  args = core::with_expanded_mask(args);
  for (const core::Kernel& row : ref::backend().kernels) {
    if (!row.why_not(p).empty()) continue;
    core::Workspace nothing(nullptr, 0);
    row.run({p, args, nullptr}, nothing);
    return r;
  }
  throw Unsupported("no specification row for " + std::string(method_name(scheme.method)));
}

std::string TightComparison::add(const TestCall& call, const Results& kernel, const Results& specification) {
  const CallSpec& spec = call.spec();
  std::string failure;
  for (std::int64_t b = 0; b < call.sequences(); ++b) {
    const SequenceSpan s = call.span(b);
    for (std::int64_t h = 0; h < spec.heads_q; ++h) {
      const std::int64_t kv = h / (spec.heads_q / spec.heads_kv);
      double v_max = 0;
      for (std::int64_t j = 0; j < s.k_len; ++j)
        for (std::int64_t c = 0; c < spec.head_dim_v; ++c)
          v_max = std::max(
              v_max, std::fabs(static_cast<double>(
                         call.v()[static_cast<std::size_t>(((s.tensor_batch * call.rows_k() + s.k_begin + j) * spec.heads_kv + kv) * spec.head_dim_v + c)])));
      for (std::int64_t i = 0; i < s.q_len; ++i) {
        const Position at = position(call, b, h, i);
        const double logits = logit_size(call, s, h, i) * 0x1p-22;
        double row_max = 0, diff = 0, allowed = 0, over = 0;
        for (std::int64_t c = 0; c < spec.head_dim_v; ++c)
          row_max = std::max(row_max, std::fabs(static_cast<double>(specification.out[at.out + static_cast<std::size_t>(c)])));
        for (std::int64_t c = 0; c < spec.head_dim_v; ++c) {
          const double want = specification.out[at.out + static_cast<std::size_t>(c)], got = kernel.out[at.out + static_cast<std::size_t>(c)];
          if (std::isnan(want) != std::isnan(got)) return place(call, b, h, i) + "one of them is NaN: " + std::to_string(got) + " for " + std::to_string(want);
          if (std::isnan(want)) continue;
          const double bar = row_max * 0x1p-10 + 2 * std::expm1(logits) * v_max + half_ulp(want, spec.out_dtype) + 1e-37;
          const double d = std::fabs(got - want);
          if (d / bar > over) over = d / bar, diff = d, allowed = bar;
        }
        ++rows_;
        keys_ += s.k_len;
        if (spec.lse) {
          const double want = specification.lse[at.lse], got = kernel.lse[at.lse];
          const bool same = got == want || (std::isnan(got) && std::isnan(want));
          if (!same && !(std::fabs(got - want) <= 1e-5 + 2 * logits)) {
            return place(call, b, h, i) + "lse " + std::to_string(got) + ", specification " + std::to_string(want);
          }
        }
        if (over <= 1) {
          worst_ = std::max(worst_, over);
          continue;
        }
        // One weight one step further, in a row whose largest weight is at most 1: |v - O| <= 2 max |v|.
        const OracleRow exact = oracle_row(call.args(), call.options(Method::exact), b, h, i);
        const double tie = step_of(p_) * exact.largest_weight * 2 * v_max;
        if (diff > allowed + tie && failure.empty()) {
          failure =
              place(call, b, h, i) + "differs by " + std::to_string(diff) + ", bar " + std::to_string(allowed) + ", a tie explains " + std::to_string(tie);
        }
        ++ties_;
      }
    }
  }
  return failure;
}

double TightComparison::expected_ties() const {
  // Kernel and specification agree on P to about 2^-22. A u8 step is 2^-8 of the largest P (the mean P is a tenth of that), an e4m3 step at least 2^-4
  // of its own: about 2^-17 of the keys come that near to a tie. In f16 and bf16 more do, but one step of theirs rarely shows.
  return 4 + 0x1p-16 * static_cast<double>(keys_);
}

void AccuracySample::merge(const AccuracySample& o) {
  error += o.error;
  variance += o.variance;
  worst_row = std::max(worst_row, o.worst_row);
  worst_lse = std::max(worst_lse, o.worst_lse);
  rows += o.rows;
  lse_over += o.lse_over;
  if (failure.empty()) failure = o.failure;
}
double AccuracySample::z() const { return variance == 0 ? 1 : std::sqrt(error / variance); }

namespace {

/// Contiguous rows of one head of one sequence.
std::vector<float> head_rows(const std::vector<float>& x, std::int64_t first, std::int64_t rows, std::int64_t heads, std::int64_t head, std::int64_t dim) {
  std::vector<float> y(static_cast<std::size_t>(rows * dim));
  for (std::int64_t r = 0; r < rows; ++r) std::copy_n(x.begin() + ((first + r) * heads + head) * dim, dim, y.begin() + r * dim);
  return y;
}

/// Bounds that hold without a model: finite, inside the range of V widened by what a doubled weight and the rounding of V can do, lse within the hard bound.
std::string bounds(const TestCall& c, const OracleRow& row, const core::Scheme& s, const Results& got, const Position& at) {
  const bool exact = s.method == Method::exact;
  const double slack = s.method == Method::int_flash ? 2.2 : exact ? 0.02 : 0.25;
  for (std::size_t d = 0; d < row.out.size(); ++d) {
    const double x = got.out[at.out + d], limit = slack * row.largest_v + 1e-30;
    if (row.visible == 0 ? x != 0 : !(x >= row.low[d] - limit && x <= row.high[d] + limit)) return "out " + std::to_string(x) + " outside the range of v";
  }
  if (!c.spec().lse) return {};
  const double lse = got.lse[at.lse];
  if (row.visible == 0) return lse == -kInf ? "" : "lse of a row without a key is " + std::to_string(lse);
  const double more = s.exponential == core::Exponential::lut16 ? 0.0055 + 0.004 : s.exponential == core::Exponential::log_code ? 0.09 : 0.0;
  const double bar = (exact ? 0 : row.logit_bound) + more + 1e-5 + 0x1p-18 * row.largest_score;
  return std::fabs(lse - row.lse) <= bar ? "" : "lse " + std::to_string(lse) + ", exactly " + std::to_string(row.lse) + ", hard bound " + std::to_string(bar);
}

}  // namespace

AccuracySample accuracy(const TestCall& c, const AttentionOptions& options, const core::Scheme& scheme, const Results& got, int rows_per_head) {
  const CallSpec& spec = c.spec();
  AccuracySample sample;
  for (std::int64_t b = 0; b < c.sequences(); ++b)
    for (std::int64_t h = 0; h < spec.heads_q; ++h) {
      const SequenceSpan s = c.span(b);
      if (s.q_len == 0) continue;
      std::vector<std::int64_t> rows;
      const std::int64_t count = rows_per_head == 0 ? s.q_len : std::min<std::int64_t>(s.q_len, rows_per_head);
      for (std::int64_t i = 0; i < count; ++i) rows.push_back((i * s.q_len + static_cast<std::int64_t>(spec.seed) % s.q_len) / count);
      for (std::int64_t i : rows) {
        const std::string fault = bounds(c, oracle_row(c.args(), options, b, h, i), scheme, got, position(c, b, h, i));
        if (!fault.empty() && sample.failure.empty()) sample.failure = place(c, b, h, i) + fault;
      }
      if (scheme.p == core::PFormat::f32) {  // exact in f32: the textbook bounds of an f32 dot product, exponential and sum
        for (std::int64_t i : rows) {
          const OracleRow row = oracle_row(c.args(), options, b, h, i);
          const double logits = 0x1p-24 * static_cast<double>(spec.head_dim + 8) * (logit_size(c, s, h, i) + row.largest_score);
          const double bar = (2 * std::expm1(2 * logits) + 0x1p-23 * static_cast<double>(row.visible) + 0x1p-21) * row.largest_v;
          const Position at = position(c, b, h, i);
          for (std::size_t d = 0; d < row.out.size(); ++d) {
            const double diff = std::fabs(got.out[at.out + d] - row.out[d]);
            if (!(diff <= bar) && sample.failure.empty())
              sample.failure = place(c, b, h, i) + "f32 error " + std::to_string(diff / row.largest_v) + " of max |v|";
          }
          if (spec.lse && row.visible > 0) sample.worst_lse = std::max(sample.worst_lse, std::fabs(got.lse[at.lse] - row.lse) / (1e-5 + 2 * logits));
        }
        continue;
      }
      if (spec.dense != DenseKind::none) continue;
      const std::int64_t kv = h / (spec.heads_q / spec.heads_kv), q0 = s.tensor_batch * c.rows_q() + s.q_begin, k0 = s.tensor_batch * c.rows_k() + s.k_begin;
      const auto q = head_rows(c.q(), q0, s.q_len, spec.heads_q, h, spec.head_dim), k = head_rows(c.k(), k0, s.k_len, spec.heads_kv, kv, spec.head_dim),
                 v = head_rows(c.v(), k0, s.k_len, spec.heads_kv, kv, spec.head_dim_v);
      core::MaskParams mask;
      mask.left = options.mask.left.value_or(core::kNoLimit);
      mask.right = options.mask.right.value_or(core::kNoLimit);
      mask.diagonal = options.mask.diagonal.value_or(0);
      mask.bottom_right = !options.mask.diagonal;
      const double scale = options.softmax_scale ? static_cast<double>(*options.softmax_scale) : 1 / std::sqrt(static_cast<double>(spec.head_dim));
      const auto p =
          eval::predict_error(scheme, {q.data(), k.data(), v.data(), s.q_len, s.k_len, spec.head_dim, spec.head_dim_v}, mask, scale, rows, spec.out_dtype);
      const core::Band band(mask, s.q_len, s.k_len);
      for (std::size_t n = 0; n < rows.size(); ++n) {
        const auto keys = band.keys(rows[n]);
        if (keys.begin >= keys.end || p.lse_sigma[n] >= 0.1) continue;  // beyond the linear regime the bounds above hold
        const Position at = position(c, b, h, rows[n]);
        const auto dim = static_cast<std::size_t>(spec.head_dim_v);
        double error = 0, variance = 0;
        for (std::size_t d = 0; d < dim; ++d) {
          error += std::pow(got.out[at.out + d] - p.exact[n * dim + d], 2);
          variance += p.variance[n * dim + d] + std::pow(0x1p-20 * p.exact[n * dim + d], 2);
        }
        ++sample.rows;
        if (error > 0) sample.worst_row = std::max(sample.worst_row, std::sqrt(error / variance));
        // A handful of keys or channels: the group's largest element is exact and nothing averages.
        if (keys.end - keys.begin >= 16 && spec.head_dim >= 16 && spec.head_dim_v >= 8) sample.error += error / variance, sample.variance += 1;
        if (!spec.lse) continue;
        const double lut = scheme.exponential == core::Exponential::lut16 ? 128.0 / 32640 : 0.0;
        const double bar = 6 * p.lse_sigma[n] + 1e-5 + 0x1p-20 * std::fabs(p.lse[n]) + 0x1p-22 * logit_size(c, s, h, rows[n]) + lut;
        const double over = std::fabs(got.lse[at.lse] - p.lse[n]) / bar;
        sample.worst_lse = std::max(sample.worst_lse, over);
        sample.lse_over += over > 1;
      }
    }
  return sample;
}

}  // namespace chitu::test
