// The specification against the closed-form error model (docs/methods.md 5): on every input set, the measured error must be what the roundings of the method
// predict, neither more (a bug) nor less (a rounding that did not happen).

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "eval/error_model.h"
#include "eval/fill.h"
#include "reference/scheme.h"

namespace chitu::test {
namespace {

using namespace eval;

struct Case {
  std::int64_t seqlen_q, seqlen_k, head_dim, head_dim_v;
  bool causal;
  int heads;
};

/// Pools the heads of several seeds into one prediction and one result.
ZScore run(const core::Scheme& scheme, const InputSet& set, const Case& c, double* lse_sigmas) {
  ErrorPrediction all;
  std::vector<float> out, lse;
  for (int seed = 1; seed <= c.heads; ++seed) {
    const Inputs in = make_inputs(set, {1, c.seqlen_q, c.seqlen_k, 1, 1, c.head_dim, c.head_dim_v}, static_cast<std::uint64_t>(seed));
    core::MaskParams mask;
    if (c.causal) mask.right = 0;
    const float scale = 1 / std::sqrt(static_cast<float>(c.head_dim));
    std::vector<std::int64_t> rows;
    for (std::int64_t i = 0; i < 24; ++i) rows.push_back(i * c.seqlen_q / 24);
    const ErrorPrediction p =
        predict_error(scheme, {in.q.data(), in.k.data(), in.v.data(), c.seqlen_q, c.seqlen_k, c.head_dim, c.head_dim_v}, mask, scale, rows);
    auto append = [](std::vector<double>& to, const std::vector<double>& from) { to.insert(to.end(), from.begin(), from.end()); };
    append(all.variance, p.variance);
    append(all.lse_sigma, p.lse_sigma);
    append(all.exact, p.exact);
    append(all.lse, p.lse);
    const ref::HeadView q{in.q.data(), DType::f32, c.head_dim, c.seqlen_q, c.head_dim}, k{in.k.data(), DType::f32, c.head_dim, c.seqlen_k, c.head_dim},
        v{in.v.data(), DType::f32, c.head_dim_v, c.seqlen_k, c.head_dim_v};
    std::vector<float> o(rows.size() * static_cast<std::size_t>(c.head_dim_v)), l(rows.size());
    ref::attend({scheme, scale, core::Band(mask, c.seqlen_q, c.seqlen_k), {}}, q, ref::quantize_keys(scheme, k), ref::quantize_values(scheme, v), rows,
                o.data(), l.data());
    out.insert(out.end(), o.begin(), o.end());
    lse.insert(lse.end(), l.begin(), l.end());
  }
  const ZScore z = z_score(all, out, lse);
  *lse_sigmas = z.lse_sigmas;
  return z;
}

bool large_norm(const InputSet& s) {  // a few keys decide each row: errors of one head are one draw, not an average
  return s.family == Family::k_tokens || s.family == Family::student_t || s.family == Family::rare_outliers || s.family == Family::v_token ||
         s.family == Family::k_bias_rope || s.family == Family::sinks || s.family == Family::dominant_key;
}

/// All keys of a constant channel round alike: nothing independent to predict.
bool vacuous(const core::Scheme& s, const InputSet& set) {
  const bool eight_bit_v = s.v != core::VFormat::f16 && s.v != core::VFormat::bf16 && s.v != core::VFormat::input;
  return eight_bit_v && (set.family == Family::constant_v || (set.family == Family::constant_channels && s.v != core::VFormat::e4m3_channel));
}

void check(const core::Scheme& scheme, const Case& base, const char* what) {
  for (const InputSet& set : input_sets()) {
    if (vacuous(scheme, set)) continue;
    Case c = base;
    if (large_norm(set)) c.heads *= 4;
    double lse_sigmas = 0;
    const ZScore z = run(scheme, set, c, &lse_sigmas);
    EXPECT_GE(z.overall, 0.6) << what << ", set " << set.name;
    EXPECT_LE(z.overall, 1.5) << what << ", set " << set.name;
    EXPECT_LE(lse_sigmas, 6) << what << ", set " << set.name;
    const bool tight = set.family == Family::gaussian || set.family == Family::k_bias || set.family == Family::zero_rows;
    const bool eight_bit_p = scheme.p != core::PFormat::f16;
    EXPECT_LE(z.worst_row, tight ? (eight_bit_p ? 2.0 : 3.5) : 4.5) << what << ", set " << set.name;
  }
}

class Methods : public ::testing::TestWithParam<Method> {};

TEST_P(Methods, ErrorIsWhatTheModelPredicts) { check(core::default_scheme(GetParam(), DType::f16), {256, 512, 64, 64, false, 2}, "full"); }
TEST_P(Methods, CausalAndOddSizes) { check(core::default_scheme(GetParam(), DType::f16), {300, 300, 40, 56, true, 3}, "causal"); }

INSTANTIATE_TEST_SUITE_P(All, Methods,
                         ::testing::Values(Method::sage1, Method::sage2, Method::int_flash, Method::int_flash_half, Method::chitu, Method::chitu_int8,
                                           Method::chitu_fast),
                         [](const auto& info) { return std::string(method_name(info.param)); });

TEST(ErrorModel, SageOptions) {
  using G = Granularity;
  for (Method method : {Method::sage1, Method::sage2})
    for (G g : {G::per_block, G::per_warp, G::per_thread, G::per_token})
      for (FragmentFamily f : {FragmentFamily::sm90, FragmentFamily::mma_sync}) {
        SchemeOptions o;
        o.granularity = g;
        if (method == Method::sage2 || g == G::per_warp || g == G::per_thread) o.family = f;
        const core::Scheme s = core::resolve_scheme(method, DType::f16, o);
        double sigmas = 0;
        const ZScore z = run(s, *find_input_set("4"), {256, 512, 64, 64, false, 3}, &sigmas);
        EXPECT_GE(z.overall, 0.6);
        EXPECT_LE(z.overall, 1.5);
        EXPECT_LE(sigmas, 6);
      }
}

TEST(ErrorModel, SmoothingAndAccumulators) {
  std::vector<SchemeOptions> options(4);
  options[0].smooth_q = true;
  options[1].smooth_v = true;
  options[2].pv_accumulation = PvAccumulation::fp32_fp16;
  options[3].smooth_k = false;
  for (const SchemeOptions& o : options) {
    double sigmas = 0;
    const ZScore z = run(core::resolve_scheme(Method::sage2, DType::f16, o), *find_input_set("1"), {256, 512, 64, 64, false, 3}, &sigmas);
    EXPECT_GE(z.overall, 0.6);
    EXPECT_LE(z.overall, 1.5);
    EXPECT_LE(sigmas, 6);
  }
}

/// The CPU's table exponential costs about what the model adds for it, and the lse stays within its bar.
TEST(ErrorModel, TableExponential) {
  core::Scheme s = core::default_scheme(Method::chitu_int8, DType::f16);
  s.exponential = core::Exponential::lut16;
  for (const char* name : {"1", "3", "7", "9", "13", "14", "16-gap6", "17-zero", "zero-rows"}) {
    double sigmas = 0;
    const ZScore z = run(s, *find_input_set(name), {256, 512, 64, 64, false, 6}, &sigmas);
    EXPECT_GE(z.overall, 0.6) << name;
    EXPECT_LE(z.overall, 1.5) << name;
  }
}

/// Every part of a method shows up in the prediction: taking one away moves it.
TEST(ErrorModel, SeesEveryPart) {
  const InputSet& set = *find_input_set("3");
  const Inputs in = make_inputs(set, {1, 64, 512, 1, 1, 64, 64}, 1);
  std::vector<std::int64_t> rows{0, 20, 40, 60};
  auto total = [&](const core::Scheme& s) {
    const auto p = predict_error(s, {in.q.data(), in.k.data(), in.v.data(), 64, 512, 64, 64}, {}, 0.125, rows);
    return std::accumulate(p.variance.begin(), p.variance.end(), 0.0);
  };
  const core::Scheme base = core::default_scheme(Method::chitu_int8, DType::f16);
  core::Scheme s = base;
  s.rotate = false;
  EXPECT_GT(total(s), 1.05 * total(base));
  s = base;
  s.q_grain = s.k_grain = {};
  EXPECT_LT(total(s), 0.95 * total(base));
  s = base;
  s.v = core::VFormat::s8_channel;
  s.p_sum = core::PSum::quantized;
  EXPECT_GT(total(s), 1.05 * total(base));
}

}  // namespace
}  // namespace chitu::test
