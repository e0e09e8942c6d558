#include "row_cases.h"

#include <algorithm>
#include <cmath>

#include "core/validate.h"
#include "eval/fill.h"

namespace chitu::test {
namespace {

/// Root mean square bar of a kernel against its own specification, for f32 output: only the order of f32 sums, ex2.approx and, where P is rounded,
/// the few codes that a last-bit difference moves. f16: one rounding of P in 2^11 steps; e4m3: 2^4; u8 and s8: 2^8.
double bar(Method m) {
  switch (m) {
    case Method::exact:
      return 2e-3;  // against fp64: P and the inputs' own rounding
    case Method::chitu_fast:
    case Method::sage2:
      return 4e-3;
    case Method::sage1:
      return 3e-3;  // the f16 accumulator rounds in another order
    default:
      return 2e-3;
  }
}

/// Splits of a decoding step start a running maximum of their own, so codes of P that are rounded against it differ from those of the unsplit scheme:
/// two independent roundings of P instead of one.
bool rounds_against_the_split(const CallSpec& s, Method m) {
  return s.seqlen_q <= 16 && !s.packed() && s.seqlen_k > 1024 && (m == Method::sage2 || m == Method::int_flash);
}

/// Against fp64, plain Gaussian inputs.
double exact_bar(Method m) {
  switch (m) {
    case Method::exact:
      return 3e-3;
    case Method::chitu:
    case Method::sage1:
    case Method::int_flash_half:
      return 0.03;
    case Method::chitu_int8:
      return 0.04;
    default:
      return 0.09;
  }
}

/// Codes of e4m3 are 8 per octave, and a last-bit difference of a score may move one: by an eighth of its key's weight, which is at most half of the row's,
/// because the code of the largest score lies far from a tie. Sums of log-code words are sums of codes, and move with them.
constexpr double kFlippedCode = 1.0 / 16;
/// Rows in which that happens: a score lies within 2^-22 of a tie in one of 2^18 weights.
constexpr double kFlippedRows = 0.05;

double share_beyond(const std::vector<float>& a, const std::vector<float>& b, double bar) {
  double n = 0;
  for (std::size_t i = 0; i < a.size(); ++i) n += std::isfinite(a[i]) && std::isfinite(b[i]) && std::fabs(static_cast<double>(a[i]) - b[i]) > bar;
  return a.empty() ? 0 : n / static_cast<double>(a.size());
}

/// difference(a, b).nrmse of all rows but the one in which they differ most.
double nrmse_but_one_row(std::vector<float> a, const std::vector<float>& b, std::size_t width) {
  std::size_t worst = 0;
  double most = 0;
  for (std::size_t row = 0; row + width <= a.size(); row += width) {
    double dd = 0;
    for (std::size_t i = row; i < row + width; ++i) dd += std::isfinite(a[i] - b[i]) ? std::pow(static_cast<double>(a[i]) - b[i], 2) : 0;
    if (dd > most) most = dd, worst = row;
  }
  if (most > 0) std::copy_n(b.begin() + static_cast<std::ptrdiff_t>(worst), width, a.begin() + static_cast<std::ptrdiff_t>(worst));
  return difference(a, b).nrmse;
}

double rounding_of(DType out) { return out == DType::f32 ? 0.0 : out == DType::f16 ? 6e-4 : 5e-3; }

template <class Change>
CallSpec with(CallSpec s, const Change& change) {
  change(s);
  return s;
}

}  // namespace

std::string check_row(TestCall& host, GpuCall& gpu, const AttentionOptions& options, bool against_fp64) {
  const CallSpec& spec = host.spec();
  const Method method = options.method;
  if (std::string fault = gpu.run(options); !fault.empty()) return fault;
  const auto out = host.out(), lse = host.lse();
  if (std::string fault = gpu.run(options, nullptr, 0x5A); !fault.empty()) return fault;
  if (!same_bits(out, host.out()) || !same_bits(lse, host.lse())) return "a second run, with other bytes in the outputs and the workspace, gave other bits";
  gpu.run_reference(options);
  const Difference d = difference(out, host.out());
  const double own = rounds_against_the_split(spec, method) ? 0.05 : bar(method) * (spec.dtype == DType::bf16 ? 4 : 1);
  const core::Scheme scheme = gpu.executed(options);
  const bool log_code = scheme.exponential == core::Exponential::log_code;
  // Of few rows one whose code has flipped shows.
  const double flipped =
      scheme.p == core::PFormat::e4m3 ? kFlippedCode / std::sqrt(std::max(1.0, static_cast<double>(out.size()) / static_cast<double>(spec.head_dim_v))) : 0;
  const double allowed = own + rounding_of(spec.out_dtype) + flipped, l = largest_difference(lse, host.lse());
  double most = 0;
  for (float x : host.lse())
    if (std::isfinite(x)) most = std::max(most, static_cast<double>(std::fabs(x)));
  if (!(d.nrmse <= allowed)) return "nrmse " + std::to_string(d.nrmse) + ", allowed " + std::to_string(allowed);
  if (!log_code && d.nrmse > allowed - flipped) {  // one code, one row: the others have no more room than before
    const double others = nrmse_but_one_row(out, host.out(), static_cast<std::size_t>(spec.head_dim_v));
    if (!(others <= allowed - flipped)) return "nrmse without the worst row " + std::to_string(others) + ", allowed " + std::to_string(allowed - flipped);
  }
  if (!(d.largest <= 40 * allowed)) return "one element is off by " + std::to_string(d.largest) + " rms, allowed " + std::to_string(40 * allowed);
  // log-code: eight sums of codes, each cut to 13 bits by an FP8 accumulator
  const double lse_bar = 1e-4 + 4e-6 * most + (log_code ? 8 * 0x1p-13 : 0);
  if (!(l <= lse_bar + (log_code ? kFlippedCode : 0))) return "lse is off by " + std::to_string(l) + " (largest lse " + std::to_string(most) + ")";
  if (const double off = share_beyond(lse, host.lse(), lse_bar); !(off <= (log_code ? kFlippedRows : 0)))
    return "lse is off in a share of " + std::to_string(off) + " of the rows";
  if (!against_fp64) return {};
  AttentionOptions exact = options;
  exact.method = Method::exact;
  exact.kernel.clear();
  core::Problem p = core::validate(host.args(), exact);
  p.scheme = core::default_scheme(Method::exact, DType::f32);
  core::Workspace none(nullptr, 0);
  const AttentionArgs expanded = core::with_expanded_mask(host.args());
  ref::backend().kernels[0].run({p, expanded, nullptr}, none);
  const double e = difference(out, host.out()).nrmse, limit = exact_bar(method) * (spec.dtype == DType::bf16 ? 2 : 1) + rounding_of(spec.out_dtype);
  if (!(e <= limit)) return "nrmse against fp64 " + std::to_string(e) + ", allowed " + std::to_string(limit);
  return {};
}

std::string check(const CallSpec& spec, Method method, bool against_fp64) {
  TestCall host(spec);
  GpuCall gpu(host);
  const auto rows = gpu.rows(host.options(method));
  if (rows.empty()) return "no row serves it";
  for (const std::string& row : rows) {
    if (std::string fault = check_row(host, gpu, host.options(method, row), against_fp64); !fault.empty()) return row + ": " + fault;
  }
  return {};
}

bool takes(const CallSpec& s, Method m) { return !(m == Method::exact && s.dtype == DType::f32); }

CallSpec shape(std::int64_t b, std::int64_t sq, std::int64_t sk, std::int64_t hq, std::int64_t hkv, std::int64_t d, std::int64_t dv) {
  CallSpec s;
  s.batch = b, s.seqlen_q = sq, s.seqlen_k = sk, s.heads_q = hq, s.heads_kv = hkv, s.head_dim = d, s.head_dim_v = dv;
  return s;
}

std::vector<Case> cases() {
  const CallSpec d128 = shape(2, 200, 333, 4, 2, 128, 128), d64 = shape(1, 130, 257, 2, 1, 64, 64), d256 = shape(1, 70, 140, 2, 2, 256, 256);
  std::vector<Case> c = {
      {"d128", d128},
      {"d64", d64},
      {"d256", d256},
      {"d96", shape(1, 66, 190, 2, 1, 96, 96)},
      {"d80_v40", shape(1, 66, 190, 2, 1, 80, 40)},
      {"d33_v17", shape(1, 40, 150, 1, 1, 33, 17)},
      {"d1", shape(1, 9, 20, 1, 1, 1, 1)},
      {"d200_v256", shape(1, 40, 150, 1, 1, 200, 256)},
      {"one_key", shape(1, 3, 1, 1, 1, 64, 64)},
      {"no_key", shape(1, 3, 0, 1, 1, 64, 64)},
      {"decode", shape(2, 1, 3000, 8, 2, 128, 128)},
      {"decode_causal_rows", with(shape(1, 5, 2100, 4, 1, 64, 64), [](CallSpec& s) { s.mask = Mask::causal(); })},
      {"decode_d256", shape(1, 3, 1300, 4, 1, 256, 256)},
      {"decode_d96_v40", shape(1, 2, 1300, 3, 1, 96, 40)},
      {"decode_window", with(shape(1, 7, 1400, 2, 1, 64, 64), [](CallSpec& s) { s.mask = Mask::window(700, 0); })},
      {"decode_padded", with(shape(3, 1, 1200, 2, 1, 128, 128),
                             [](CallSpec& s) {
                               s.lens_k = {1200, 0, 129}, s.softmax_scale = -0.1f;
                             })},
      {"decode_dominant_key", with(shape(1, 4, 1300, 2, 1, 64, 64), [](CallSpec& s) { s.input_set = "16-gap6-mean1"; })},
      {"decode_weak_token", with(shape(1, 4, 1300, 3, 1, 128, 128), [](CallSpec& s) { s.input_set = "17-weak"; })},
      {"causal", with(d128, [](CallSpec& s) { s.mask = Mask::causal(); })},
      {"causal_top_left", with(d128, [](CallSpec& s) { s.mask = Mask::causal_top_left(); })},
      {"causal_more_queries", with(shape(1, 300, 100, 2, 2, 64, 64), [](CallSpec& s) { s.mask = Mask::causal(); })},
      {"window", with(d128, [](CallSpec& s) { s.mask = Mask::window(40, 17); })},
      {"diagonal", with(d64, [](CallSpec& s) { s.mask.right = 0, s.mask.diagonal = 60; })},
      {"bool_mask", with(d64, [](CallSpec& s) { s.dense = DenseKind::boolean; })},
      {"additive_mask", with(d64, [](CallSpec& s) { s.dense = DenseKind::additive_f32, s.dense_broadcast = true; })},
      {"additive_mask_causal", with(d64, [](CallSpec& s) { s.dense = DenseKind::additive_same, s.mask = Mask::causal(); })},
      {"padded", with(shape(3, 50, 300, 2, 1, 64, 64),
                      [](CallSpec& s) {
                        s.lens_k = {300, 0, 129};
                      })},
      {"packed", with(shape(1, 0, 0, 4, 2, 64, 64),
                      [](CallSpec& s) {
                        s.lens_q = {3, 130, 0, 64, 1}, s.lens_k = {200, 1, 77, 0, 129}, s.mask = Mask::causal();
                      })},
      {"packed_d128", with(shape(1, 0, 0, 2, 2, 128, 128),
                           [](CallSpec& s) {
                             s.lens_q = {140, 260}, s.lens_k = {140, 260};
                           })},
      {"packed_around_tiles", with(shape(1, 0, 0, 2, 1, 128, 128),
                                   [](CallSpec& s) {
                                     s.lens_q = {127, 129, 1, 256}, s.lens_k = {129, 256, 127, 385}, s.mask = Mask::window(150, 20);
                                   })},
      {"packed_tiny", with(shape(1, 0, 0, 1, 1, 64, 64),
                           [](CallSpec& s) {
                             for (int i = 0; i < 140; ++i) s.lens_q.push_back(i % 7), s.lens_k.push_back(i * 5 % 11);
                           })},
      {"packed_top_left", with(shape(1, 0, 0, 3, 1, 96, 96),
                               [](CallSpec& s) {
                                 s.lens_q = {70, 0, 200}, s.lens_k = {30, 300, 260}, s.mask = Mask::causal_top_left(), s.layout = Layout::gaps;
                               })},
      {"packed_d256", with(shape(1, 0, 0, 2, 1, 256, 256),
                           [](CallSpec& s) {
                             s.lens_q = {65, 128}, s.lens_k = {200, 128}, s.mask = Mask::causal(), s.layout = Layout::fused;
                           })},
      {"packed_biased_keys", with(shape(1, 0, 0, 2, 1, 128, 128),
                                  [](CallSpec& s) {
                                    s.lens_q = {40, 90}, s.lens_k = {1200, 300}, s.input_set = "5";
                                  })},
      {"negative_scale", with(d64, [](CallSpec& s) { s.softmax_scale = -0.2f; })},
      {"zero_scale", with(d64, [](CallSpec& s) { s.softmax_scale = 0.0f; })},
      {"biased_before_rope", with(d128, [](CallSpec& s) { s.input_set = "6"; })},
      {"biased_keys", with(d128, [](CallSpec& s) { s.input_set = "5"; })},
      {"outliers", with(d128, [](CallSpec& s) { s.input_set = "3"; })},
      {"sinks", with(d64, [](CallSpec& s) { s.input_set = "8"; })},
      {"dominant_key", with(shape(1, 130, 640, 1, 1, 64, 64), [](CallSpec& s) { s.input_set = "16-gap6-mean1"; })},
      {"weak_token", with(shape(1, 130, 640, 1, 1, 64, 64), [](CallSpec& s) { s.input_set = "17-weak"; })},
      {"no_lse", with(d64, [](CallSpec& s) { s.lse = false; })},
  };
  for (Layout l : {Layout::bhsd, Layout::fused, Layout::gaps, Layout::odd}) c.push_back({layout_name(l), with(d64, [l](CallSpec& s) { s.layout = l; })});
  return c;
}

std::vector<AttentionOptions> departures() {
  std::vector<AttentionOptions> list;
  for (Method m : {Method::sage1, Method::sage2}) {
    for (Granularity g : {Granularity::per_block, Granularity::per_warp, Granularity::per_thread, Granularity::per_token}) {
      for (FragmentFamily f : {FragmentFamily::sm90, FragmentFamily::mma_sync}) {
        const bool has_family = m == Method::sage2 || g == Granularity::per_warp || g == Granularity::per_thread;
        if (!has_family && f != FragmentFamily::sm90) continue;
        AttentionOptions o;
        o.method = m;
        o.scheme.granularity = g;
        if (has_family) o.scheme.family = f;
        list.push_back(o);
        if (m == Method::sage2) continue;
        o.scheme.pv_accumulation = PvAccumulation::fp32;
        list.push_back(o);
      }
    }
  }
  for (Method m : {Method::int_flash, Method::int_flash_half}) {
    AttentionOptions o;
    o.method = m;
    o.scheme.smooth_k = true;
    list.push_back(o);
  }
  return list;
}

std::string departure_text(const AttentionOptions& o) {
  const auto number = [](const auto& x) { return x ? std::to_string(static_cast<int>(*x)) : std::string("-"); };
  return std::string(method_name(o.method)) + " granularity " + number(o.scheme.granularity) + " family " + number(o.scheme.family) + " accumulation " +
         number(o.scheme.pv_accumulation);
}

}  // namespace chitu::test
