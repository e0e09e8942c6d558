// Every row against the specification of the scheme it executes, and against fp64, over shapes, layouts, masks and sequences.

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "common/effort.h"
#include "core/validate.h"
#include "eval/fill.h"
#include "gpu_call.h"

namespace chitu::test {
namespace {

constexpr Method kMethods[] = {Method::exact, Method::chitu, Method::chitu_int8, Method::chitu_fast,
                               Method::sage1, Method::sage2, Method::int_flash,  Method::int_flash_half};

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

/// Sums of log-code words are sums of codes, 8 per octave, and a last-bit difference of a score may move one: by an eighth of its key's weight, which is at
/// most half of the row's, because the code of the largest score lies far from a tie.
constexpr double kFlippedLogCode = 1.0 / 16;
/// Rows in which that happens: a score lies within 2^-22 of a tie in one of 2^18 weights.
constexpr double kFlippedRows = 0.05;

double share_beyond(const std::vector<float>& a, const std::vector<float>& b, double bar) {
  double n = 0;
  for (std::size_t i = 0; i < a.size(); ++i) n += std::isfinite(a[i]) && std::isfinite(b[i]) && std::fabs(static_cast<double>(a[i]) - b[i]) > bar;
  return a.empty() ? 0 : n / static_cast<double>(a.size());
}

double rounding_of(DType out) { return out == DType::f32 ? 0.0 : out == DType::f16 ? 6e-4 : 5e-3; }

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
  const double allowed = own + rounding_of(spec.out_dtype), l = largest_difference(lse, host.lse());
  double most = 0;
  for (float x : host.lse())
    if (std::isfinite(x)) most = std::max(most, static_cast<double>(std::fabs(x)));
  if (!(d.nrmse <= allowed)) return "nrmse " + std::to_string(d.nrmse) + ", allowed " + std::to_string(allowed);
  if (!(d.largest <= 40 * allowed)) return "one element is off by " + std::to_string(d.largest) + " rms, allowed " + std::to_string(40 * allowed);
  const bool log_code = gpu.executed(options).exponential == core::Exponential::log_code;
  // log-code: eight sums of codes, each cut to 13 bits by an FP8 accumulator
  const double lse_bar = 1e-4 + 4e-6 * most + (log_code ? 8 * 0x1p-13 : 0);
  if (!(l <= lse_bar + (log_code ? kFlippedLogCode : 0))) return "lse is off by " + std::to_string(l) + " (largest lse " + std::to_string(most) + ")";
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

/// Every row that serves the call.
std::string check(const CallSpec& spec, Method method, bool against_fp64 = false) {
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

struct Case {
  const char* name;
  CallSpec spec;
};

CallSpec shape(std::int64_t b, std::int64_t sq, std::int64_t sk, std::int64_t hq, std::int64_t hkv, std::int64_t d, std::int64_t dv) {
  CallSpec s;
  s.batch = b, s.seqlen_q = sq, s.seqlen_k = sk, s.heads_q = hq, s.heads_kv = hkv, s.head_dim = d, s.head_dim_v = dv;
  return s;
}

template <class Change>
CallSpec with(CallSpec s, const Change& change) {
  change(s);
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

class Rows : public testing::TestWithParam<Method> {};

TEST_P(Rows, MatchTheirSpecification) {
  CHITU_NEED_GPU();
  int turn = static_cast<int>(GetParam());
  for (const Case& c : cases()) {
    std::vector<CallSpec> kinds;
    for (DType t : {DType::f16, DType::bf16, DType::f32}) {
      for (DType out : {DType::f32, t}) {
        CallSpec s = c.spec;
        s.dtype = t;
        s.out_dtype = out;
        if (!takes(s, GetParam()) || (out == t && t == DType::f32 && !kinds.empty() && kinds.back().dtype == DType::f32)) continue;
        kinds.push_back(s);
      }
    }
    ++turn;
    const int n = static_cast<int>(kinds.size());
    for (int i = 0; i < n; ++i) {
      if (!chosen(i, n, turn)) continue;
      const CallSpec& s = kinds[static_cast<std::size_t>(i)];
      EXPECT_EQ(check(s, GetParam()), "") << c.name << ": " << s.text();
    }
  }
}

TEST_P(Rows, StayWithinTheirErrorAgainstFp64) {
  CHITU_NEED_GPU();
  int turn = static_cast<int>(GetParam());
  for (auto [sq, sk, d] : {std::array<std::int64_t, 3>{100, 1000, 128}, {64, 4096, 64}, {40, 700, 256}}) {
    if (!chosen(turn++, 3, 0)) continue;
    CallSpec s = shape(1, sq, sk, 2, 1, d, d);
    EXPECT_EQ(check(s, GetParam(), true), "") << s.text();
    s.mask = Mask::causal();
    s.dtype = DType::bf16;
    EXPECT_EQ(check(s, GetParam(), true), "") << s.text();
  }
}

TEST_P(Rows, EveryLengthAroundTheTiles) {
  CHITU_NEED_GPU();
  int turn = static_cast<int>(GetParam());
  for (std::int64_t n = 1; n <= 130; n += n < 8 || n > 60 ? 1 : 5) {
    if (!chosen(turn++, 4, 0)) continue;
    CallSpec s = shape(1, n, n, 1, 1, 64, 64);
    s.mask = Mask::causal();
    EXPECT_EQ(check(s, GetParam()), "") << s.text();
  }
  for (std::int64_t n : {255, 256, 257, 383, 384, 385, 512, 1023, 1024, 1025, 1151, 1152, 1153}) {
    if (!chosen(turn++, 4, 0)) continue;
    EXPECT_EQ(check(shape(1, 2, n, 1, 1, 128, 128), GetParam()), "") << n;
    EXPECT_EQ(check(shape(1, 130, n, 1, 1, 128, 128), GetParam()), "") << n;
  }
}

/// A NaN or Inf may reach only what its scale group and channel statistics reach; it must reach every row that sees it.
TEST_P(Rows, PassNaNOn) {
  CHITU_NEED_GPU();
  for (int which : {0, 1, 2}) {
    CallSpec s = shape(2, 140, 200, 2, 1, 64, 64);
    TestCall host(s);
    auto values = which == 0 ? host.q() : which == 1 ? host.k() : host.v();
    values[static_cast<std::size_t>(which == 0 ? 5 * 2 * 64 : 17 * 64) + 3] = std::numeric_limits<float>::quiet_NaN();  // batch 0, row 5 or key 17
    which == 0 ? host.set_q(values) : which == 1 ? host.set_k(values) : host.set_v(values);
    GpuCall gpu(host);
    gpu.with_every_row(host.options(GetParam()), which, [&](const AttentionOptions& o) {
      ASSERT_EQ(gpu.run(o), "");
      const auto out = host.out();
      auto at = [&](std::int64_t b, std::int64_t i, std::int64_t h, std::int64_t d) { return out[static_cast<std::size_t>(((b * 140 + i) * 2 + h) * 64 + d)]; };
      if (which == 0) {
        EXPECT_TRUE(std::isnan(at(0, 5, 0, 0)) && std::isnan(at(0, 5, 0, 63)));
      } else {
        for (std::int64_t i = 0; i < 140; ++i) EXPECT_TRUE(std::isnan(at(0, i, 0, 3)) && std::isnan(at(0, i, 1, 3))) << which << " " << i;
      }
      for (std::int64_t i = 0; i < 140; ++i)
        for (std::int64_t h = 0; h < 2; ++h)
          for (std::int64_t d = 0; d < 64; ++d) ASSERT_TRUE(std::isfinite(at(1, i, h, d))) << "the other batch";
    });
  }
}

/// Bytes behind a sequence's length must not reach a result.
TEST_P(Rows, IgnorePadding) {
  CHITU_NEED_GPU();
  CallSpec s = shape(2, 33, 300, 2, 1, 64, 64);
  s.lens_k = {130, 41};
  TestCall host(s);
  GpuCall gpu(host);
  const auto k = host.k(), v = host.v();
  auto poisoned_k = k, poisoned_v = v;
  for (std::int64_t b = 0; b < 2; ++b)
    for (std::int64_t j = s.lens_k[static_cast<std::size_t>(b)]; j < 300; ++j)
      for (std::int64_t d = 0; d < 64; ++d) {
        poisoned_k[static_cast<std::size_t>((b * 300 + j) * 64 + d)] = std::numeric_limits<float>::quiet_NaN();
        poisoned_v[static_cast<std::size_t>((b * 300 + j) * 64 + d)] = std::numeric_limits<float>::infinity();
      }
  const auto give = [&](const std::vector<float>& new_k, const std::vector<float>& new_v) {
    host.set_k(new_k);
    host.set_v(new_v);
    gpu.refresh_inputs();
  };
  gpu.with_every_row(host.options(GetParam()), 0, [&](const AttentionOptions& o) {
    give(k, v);
    ASSERT_EQ(gpu.run(o), "");
    const auto out = host.out(), lse = host.lse();
    give(poisoned_k, poisoned_v);
    ASSERT_EQ(gpu.run(o), "");
    EXPECT_TRUE(same_bits(out, host.out()) && same_bits(lse, host.lse()));
  });
}

/// NaN and Inf in the first and the last of five packed sequences reach nothing of those between: one tile, no key, one that ends inside a tile.
TEST_P(Rows, PackedSequencesStayApart) {
  CHITU_NEED_GPU();
  const float nan = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();
  int turn = static_cast<int>(GetParam());
  for (std::int64_t dim : {64, 96, 128, 256}) {
    if (!chosen(turn++, 4, 0)) continue;
    CallSpec s = shape(1, 0, 0, 1, 1, dim, dim);
    s.lens_q = {30, 140, 3, 50, 20}, s.lens_k = {10, 128, 0, 150, 60};
    TestCall host(s);
    const SequenceSpan first = host.span(1), empty = host.span(2), last = host.span(3);
    const std::int64_t q_end = last.q_begin + last.q_len, k_end = last.k_begin + last.k_len;
    const auto between = [](const std::vector<float>& x, std::int64_t begin, std::int64_t end) {
      return std::vector<float>(x.begin() + begin, x.begin() + end);
    };
    const auto poisoned = [](std::vector<float> x, std::int64_t begin, std::int64_t end, float with) {
      std::fill(x.begin(), x.begin() + begin, with);
      std::fill(x.begin() + end, x.end(), with);
      return x;
    };
    const auto q = host.q(), k = host.k(), v = host.v();
    GpuCall gpu(host);
    for (const std::string& row : gpu.rows(host.options(GetParam()))) {
      std::vector<float> out[2], lse[2];
      for (bool poison : {false, true}) {
        host.set_q(poison ? poisoned(q, first.q_begin * dim, q_end * dim, nan) : q);
        host.set_k(poison ? poisoned(k, first.k_begin * dim, k_end * dim, nan) : k);
        host.set_v(poison ? poisoned(v, first.k_begin * dim, k_end * dim, inf) : v);
        gpu.refresh_inputs();
        ASSERT_EQ(gpu.run(host.options(GetParam(), row)), "") << row;
        out[poison] = between(host.out(), first.q_begin * dim, q_end * dim);
        lse[poison] = between(host.lse(), first.q_begin, q_end);
        for (float x : out[poison]) ASSERT_TRUE(std::isfinite(x)) << row;
        for (float x : between(host.out(), empty.q_begin * dim, last.q_begin * dim)) EXPECT_EQ(x, 0.0f) << row;
        for (float x : between(host.lse(), empty.q_begin, last.q_begin)) EXPECT_EQ(x, -inf) << row;
      }
      EXPECT_TRUE(same_bits(out[0], out[1]) && same_bits(lse[0], lse[1])) << row << ", head_dim " << dim;
    }
  }
}

TEST_P(Rows, ARowDoesNotDependOnItsNeighbours) {
  CHITU_NEED_GPU();
  for (std::int64_t sq : {1, 150}) {
    CallSpec s = shape(3, sq, 1500, 4, 2, 64, 64);
    TestCall host(s);
    GpuCall gpu(host);
    CallSpec one = s;
    one.batch = 1;
    TestCall single(one);
    const auto part = [](const std::vector<float>& x, std::int64_t n) { return std::vector<float>(x.begin() + n, x.begin() + 2 * n); };
    single.set_q(part(host.q(), sq * 4 * 64));
    single.set_k(part(host.k(), 1500 * 2 * 64));
    single.set_v(part(host.v(), 1500 * 2 * 64));
    GpuCall alone(single);
    gpu.with_every_row(host.options(GetParam()), static_cast<int>(sq), [&](const AttentionOptions& o) {
      ASSERT_EQ(gpu.run(o), "");
      ASSERT_EQ(alone.run(o), "");
      EXPECT_TRUE(same_bits(part(host.out(), sq * 4 * 64), single.out())) << sq;
    });
  }
}

INSTANTIATE_TEST_SUITE_P(Methods, Rows, testing::ValuesIn(kMethods), [](const auto& p) { return std::string(method_name(p.param)); });

/// Departures from a method's scheme that rows serve: every granularity, sage1 also with f32 sums, int_flash with the mean of K taken off.
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

/// Every row that serves the call in this scheme; how many there are.
int check_departure(const CallSpec& spec, const AttentionOptions& departure) {
  TestCall host(spec);
  GpuCall gpu(host);
  AttentionOptions o = host.options(departure.method);
  o.scheme = departure.scheme;
  const auto rows = gpu.rows(o);
  for (const std::string& row : rows) {
    o.kernel = row;
    EXPECT_EQ(check_row(host, gpu, o, false), "") << row << ", " << departure_text(departure) << ": " << spec.text();
  }
  return static_cast<int>(rows.size());
}

TEST(CudaSchemes, Departures) {
  CHITU_NEED_GPU();
  for (const AttentionOptions& o : departures()) EXPECT_GT(check_departure(shape(1, 150, 300, 2, 1, 64, 64), o), 0) << departure_text(o);
}

/// Scales of 128, 64 and single keys by turns, over every case and type.
TEST(CudaSchemes, DeparturesInEveryCase) {
  CHITU_NEED_GPU();
  const auto all = departures();
  int turn = 0;
  for (const Case& c : cases()) {
    for (DType t : {DType::f16, DType::bf16, DType::f32}) {
      CallSpec s = c.spec;
      s.dtype = t;
      s.out_dtype = turn % 2 == 0 ? DType::f32 : t;
      const AttentionOptions& o = all[static_cast<std::size_t>(turn) % all.size()];
      if (chosen(turn++, 5, 0)) EXPECT_GT(check_departure(s, o), 0) << departure_text(o) << ": " << s.text();
    }
  }
}

/// A row that is not verified serves only what no verified row serves, packed sequences included; and the Hopper rows take them when asked.
TEST(CudaSelection, PrefersVerifiedRows) {
  CHITU_NEED_GPU();
  for (bool packed : {false, true}) {
    CallSpec s = shape(1, 40, 200, 2, 1, 128, 128);
    if (packed) s.lens_q = {40, 7}, s.lens_k = {200, 9};
    TestCall host(s);
    GpuCall gpu(host);
    for (Method m : kMethods) {
      const auto serving = gpu.rows(host.options(m));
      const std::string chosen_row(plan(gpu.args(), host.options(m)).kernel());
      for (const core::Kernel& row : cuda::backend().kernels)
        if (row.name == chosen_row) EXPECT_TRUE(row.verified) << chosen_row << " for " << method_name(m);
      const bool hopper = std::any_of(serving.begin(), serving.end(), [](const std::string& row) { return row.rfind("sm90", 0) == 0; });
      const bool ours = m == Method::exact || m == Method::chitu || m == Method::chitu_int8 || m == Method::chitu_fast || m == Method::sage2;
      if (cuda::backend().caps({DeviceType::cuda, 0}).capability == 90) EXPECT_EQ(hopper, ours) << method_name(m) << (packed ? ", packed" : "");
    }
  }
}

/// Random small calls of every kind against the specification. CHITU_CUDA_SWEEP: how many (default 400).
TEST(CudaSweep, RandomCalls) {
  CHITU_NEED_GPU();
  const char* wanted = std::getenv("CHITU_CUDA_SWEEP");
  const char* first = std::getenv("CHITU_CUDA_SWEEP_SEED");
  const int n = wanted != nullptr ? std::atoi(wanted) : effort(400);
  std::mt19937_64 random(first != nullptr ? std::strtoull(first, nullptr, 10) : 1);
  auto pick = [&](std::int64_t lo, std::int64_t hi) { return lo + static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(hi - lo + 1)); };
  int faults = 0;
  for (int i = 0; i < n && faults < 10; ++i) {
    constexpr std::int64_t kDims[] = {64, 128, 96, 256};
    CallSpec s = shape(pick(1, 2), pick(1, 40), pick(0, 180), 1, pick(1, 2), pick(1, 4) == 1 ? pick(1, 256) : kDims[std::min<std::int64_t>(pick(0, 4), 3)], 0);
    s.heads_q = s.heads_kv * pick(1, 3);
    s.head_dim_v = pick(0, 3) == 0 ? pick(1, 256) : s.head_dim;
    s.dtype = static_cast<DType>(pick(0, 2));
    s.out_dtype = pick(0, 1) == 0 ? DType::f32 : s.dtype;
    s.layout = static_cast<Layout>(pick(0, 4));
    s.lse = pick(0, 3) != 0;
    s.seed = static_cast<std::uint64_t>(i) + 1;
    if (pick(0, 2) == 0) s.mask.right = pick(-3, 50);
    if (pick(0, 3) == 0) s.mask.left = pick(0, 100);
    if (pick(0, 3) == 0) s.mask.diagonal = pick(-40, 60);
    if (pick(0, 3) == 0) s.softmax_scale = static_cast<float>(pick(-10, 40)) / 100.0f;
    switch (pick(0, 5)) {
      case 0:
        s.dense = static_cast<DenseKind>(pick(1, 3));
        s.dense_broadcast = pick(0, 1) == 1;
        break;
      case 1:
        for (std::int64_t b = 0; b < s.batch; ++b) s.lens_k.push_back(static_cast<std::int32_t>(pick(0, s.seqlen_k)));
        break;
      case 2:
        for (std::int64_t b = pick(1, 4); b > 0; --b) {
          s.lens_q.push_back(static_cast<std::int32_t>(pick(0, 50)));
          s.lens_k.push_back(static_cast<std::int32_t>(pick(0, 140)));
        }
        s.batch = 1;
        break;
      default:
        break;
    }
    const Method m = kMethods[pick(0, 7)];
    if (!takes(s, m)) continue;
    std::string fault;
    try {
      fault = check(s, m);
    } catch (const std::exception& e) {
      fault = e.what();
    }
    if (!fault.empty()) ++faults;
    EXPECT_EQ(fault, "") << method_name(m) << ": " << s.text();
  }
}

}  // namespace
}  // namespace chitu::test
