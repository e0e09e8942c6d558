// The table of methods against docs/methods.md, and the options that depart from it.

#include <gtest/gtest.h>

#include <functional>

#include "chitu/chitu.h"
#include "core/scheme.h"

namespace chitu::test {
namespace {

using core::Accumulate;
using core::Center;
using core::default_scheme;
using core::Grain;
using core::kWholeSequence;
using core::PFormat;
using core::PReference;
using core::PSum;
using core::resolve_scheme;
using core::Scheme;
using core::VFormat;

constexpr DType kInputs[] = {DType::f32, DType::f16, DType::bf16};

TEST(Scheme, NamesRoundTrip) {
  const auto all = list_methods();
  EXPECT_EQ(all.size(), 8u);
  for (Method m : all) {
    EXPECT_NE(m, Method::automatic);
    EXPECT_EQ(parse_method(method_name(m)), m);
  }
  EXPECT_EQ(parse_method("automatic"), Method::automatic);
  for (const char* bad : {"", "sage", "Sage1", "sage1 ", "chitu_int4", "exact\n"}) EXPECT_EQ(parse_method(bad), std::nullopt) << bad;
  EXPECT_EQ(method_name(static_cast<Method>(99)), "unknown");
}

TEST(Scheme, ExactRoundsOnlyToTheInputType) {
  EXPECT_EQ(default_scheme(Method::exact, DType::f32).p, PFormat::f32);
  EXPECT_EQ(default_scheme(Method::exact, DType::f16).p, PFormat::f16);
  EXPECT_EQ(default_scheme(Method::exact, DType::bf16).p, PFormat::bf16);
  for (DType t : kInputs) {
    const Scheme s = default_scheme(Method::exact, t);
    EXPECT_FALSE(s.q_grain.quantized());
    EXPECT_FALSE(s.k_grain.quantized());
    EXPECT_EQ(s.k_center, Center::none);
  }
}

TEST(Scheme, OwnMethodsShareTheirScores) {
  for (DType t : kInputs)
    for (Method m : {Method::chitu, Method::chitu_int8, Method::chitu_fast}) {
      const Scheme s = default_scheme(m, t);
      EXPECT_TRUE(s.rotate);
      EXPECT_TRUE(s.k_weights);
      EXPECT_EQ(s.k_center, Center::tile_mean);
      EXPECT_EQ(s.q_grain, (Grain{1, 1}));
      EXPECT_EQ(s.k_grain, (Grain{128, 4}));
      EXPECT_EQ(s.tile_n, 128);
      EXPECT_FALSE(s.smooth_q || s.smooth_v || s.reverse);
    }
  const Scheme c = default_scheme(Method::chitu, DType::f16), b = default_scheme(Method::chitu, DType::bf16);
  EXPECT_EQ(c.p, PFormat::f16);
  EXPECT_EQ(c.p_ref, PReference::lazy);
  EXPECT_EQ(b.p, PFormat::bf16);
  EXPECT_LE(c.p_range * 256.0f, 65504.0f) << "f16 P of a maximum that lags by 8 octaves must stay finite";
  const Scheme i = default_scheme(Method::chitu_int8, DType::f16);
  EXPECT_EQ(i.p, PFormat::u8);
  EXPECT_EQ(i.p_range, 255.0f);
  EXPECT_EQ(i.p_ref, PReference::tile);
  EXPECT_EQ(i.p_sum, PSum::corrected);
  EXPECT_EQ(i.v, VFormat::s8_c3);
  EXPECT_EQ(i.flag_ratio, 4.0f);
  EXPECT_EQ(i.accumulate, Accumulate::tile_s32);
  const Scheme f = default_scheme(Method::chitu_fast, DType::f16);
  EXPECT_EQ(f.p, PFormat::e4m3);
  EXPECT_LE(f.p_range, 448.0f);
  EXPECT_EQ(f.v, VFormat::e4m3_channel);
}

TEST(Scheme, PublishedMethods) {
  const Scheme s1 = default_scheme(Method::sage1, DType::f16), s2 = default_scheme(Method::sage2, DType::f16);
  EXPECT_EQ(s1.q_grain, (Grain{128, 1}));
  EXPECT_EQ(s1.k_grain, (Grain{64, 1}));
  EXPECT_EQ(s1.k_center, Center::sequence_mean);
  EXPECT_EQ(s1.p, PFormat::f16);
  EXPECT_EQ(s1.accumulate, Accumulate::tile_f16);
  EXPECT_EQ(s2.q_grain, (Grain{16, 8}));
  EXPECT_EQ(s2.k_grain, (Grain{128, 4}));
  EXPECT_EQ(s2.k_center, Center::sequence_mean);
  EXPECT_EQ(s2.p, PFormat::e4m3);
  EXPECT_EQ(s2.p_range, 448.0f);
  EXPECT_EQ(s2.v_range, 448.0f);
  const Scheme i = default_scheme(Method::int_flash, DType::f16), h = default_scheme(Method::int_flash_half, DType::f16);
  EXPECT_EQ(i.tile_n, 32);
  EXPECT_EQ(i.p, PFormat::s8);
  EXPECT_EQ(i.p_range, 127.0f);
  EXPECT_EQ(i.p_ref, PReference::running);
  EXPECT_EQ(i.v, VFormat::s8_tensor);
  EXPECT_EQ(h.p, PFormat::f16);
  for (const Scheme& s : {i, h}) {
    EXPECT_EQ(s.q_grain, (Grain{1, 1}));
    EXPECT_EQ(s.k_grain, (Grain{1, 1}));
    EXPECT_EQ(s.k_center, Center::none);
  }
}

TEST(Scheme, Granularities) {
  struct Row {
    Granularity g;
    FragmentFamily f;
    Grain q, k;
  };
  const Row rows[] = {{Granularity::per_block, FragmentFamily::sm90, {128, 1}, {64, 1}},  {Granularity::per_block, FragmentFamily::mma_sync, {128, 1}, {64, 1}},
                      {Granularity::per_warp, FragmentFamily::sm90, {16, 1}, {128, 1}},   {Granularity::per_warp, FragmentFamily::mma_sync, {32, 1}, {64, 1}},
                      {Granularity::per_thread, FragmentFamily::sm90, {16, 8}, {128, 4}}, {Granularity::per_thread, FragmentFamily::mma_sync, {32, 8}, {64, 4}},
                      {Granularity::per_token, FragmentFamily::sm90, {1, 1}, {1, 1}},     {Granularity::per_token, FragmentFamily::mma_sync, {1, 1}, {1, 1}}};
  for (const Row& r : rows)
    for (Method m : {Method::sage1, Method::sage2}) {
      SchemeOptions o;
      o.granularity = r.g;
      o.family = r.f;
      const bool shapes_groups = r.g == Granularity::per_warp || r.g == Granularity::per_thread;
      if (m == Method::sage1 && !shapes_groups) {  // the family would change nothing
        EXPECT_THROW(resolve_scheme(m, DType::f16, o), InvalidArgument);
        o.family.reset();
      }
      const Scheme s = resolve_scheme(m, DType::f16, o);
      EXPECT_EQ(s.q_grain, r.q);
      EXPECT_EQ(s.k_grain, r.k);
    }
}

TEST(Scheme, AccumulationAndSmoothing) {
  auto with = [](Method m, PvAccumulation a) {
    SchemeOptions o;
    o.pv_accumulation = a;
    return resolve_scheme(m, DType::f16, o);
  };
  EXPECT_EQ(with(Method::sage1, PvAccumulation::fp32).accumulate, Accumulate::f32);
  EXPECT_EQ(with(Method::sage1, PvAccumulation::fp16).accumulate, Accumulate::f16);
  EXPECT_EQ(with(Method::sage1, PvAccumulation::fp16_fp32).accumulate, Accumulate::tile_f16);
  EXPECT_EQ(with(Method::sage2, PvAccumulation::fp32).accumulate, Accumulate::fp8_direct);
  EXPECT_EQ(with(Method::sage2, PvAccumulation::fp32_fp32).accumulate, Accumulate::fp8_tile);
  const Scheme plus = with(Method::sage2, PvAccumulation::fp32_fp16);
  EXPECT_EQ(plus.accumulate, Accumulate::tile_f16);
  EXPECT_LE(static_cast<float>(plus.tile_n) * plus.p_range * plus.v_range, 65504.0f) << "a tile's sum must fit f16";
  for (Method m : {Method::sage1, Method::sage2, Method::int_flash, Method::int_flash_half}) {
    SchemeOptions o;
    o.smooth_k = m != Method::sage1 && m != Method::sage2;
    o.smooth_q = o.smooth_v = true;
    const Scheme s = resolve_scheme(m, DType::f16, o);
    EXPECT_EQ(s.k_center, *o.smooth_k ? Center::sequence_mean : Center::none);
    EXPECT_TRUE(s.smooth_q && s.smooth_v);
    EXPECT_NE(resolve_scheme(m, DType::f16, {}), s);
  }
}

TEST(Scheme, GroupsOfAGrain) {
  const Grain tile{128, 4}, warp{16, 8}, token{1, 1}, whole{kWholeSequence, 1};
  for (std::int64_t row = 0; row < 300; ++row) {
    EXPECT_EQ(tile.group(row), row / 128 * 4 + row % 8 / 2);  // tokens 8i + 2g + {0, 1} of a tile
    EXPECT_EQ(warp.group(row), row / 16 * 8 + row % 8);       // rows 16b + t, 16b + t + 8
    EXPECT_EQ(token.group(row), row);
    EXPECT_EQ(whole.group(row), 0);
    EXPECT_LT(tile.group(row), tile.count(row + 1));
    EXPECT_LT(warp.group(row), warp.count(row + 1));
  }
  EXPECT_EQ(tile.count(129), 8);
  EXPECT_EQ(tile.count(128), 4);
  EXPECT_EQ(tile.count(0), 0);
  EXPECT_EQ(whole.count(1), 1);
}

TEST(Scheme, FirstDifferenceSeesEveryField) {
  const std::pair<const char*, std::function<void(Scheme&)>> changes[] = {
      {"method", [](Scheme& s) { s.method = Method::chitu; }},
      {"rotate", [](Scheme& s) { s.rotate = true; }},
      {"smooth_k", [](Scheme& s) { s.k_center = Center::none; }},
      {"k_weights", [](Scheme& s) { s.k_weights = true; }},
      {"smooth_q", [](Scheme& s) { s.smooth_q = true; }},
      {"smooth_v", [](Scheme& s) { s.smooth_v = true; }},
      {"granularity", [](Scheme& s) { s.q_grain.groups = 4; }},
      {"granularity", [](Scheme& s) { s.k_grain.block = 64; }},
      {"p", [](Scheme& s) { s.p = PFormat::u8; }},
      {"p", [](Scheme& s) { s.p_range = 1.0f; }},
      {"p", [](Scheme& s) { s.p_ref = PReference::tile; }},
      {"p", [](Scheme& s) { s.p_sum = PSum::corrected; }},
      {"p", [](Scheme& s) { s.lazy_octaves = 1.0f; }},
      {"v", [](Scheme& s) { s.v = VFormat::s8_c3; }},
      {"v", [](Scheme& s) { s.v_range = 2.25f; }},
      {"v", [](Scheme& s) { s.flag_ratio = 8.0f; }},
      {"pv_accumulation", [](Scheme& s) { s.accumulate = Accumulate::f16; }},
      {"exponential", [](Scheme& s) { s.exponential = core::Exponential::lut16; }},
      {"exponential", [](Scheme& s) { s.log_code_mask = 1; }},
      {"tile_n", [](Scheme& s) { s.tile_n = 32; }},
      {"tile_n", [](Scheme& s) { s.reverse = true; }},
  };
  const Scheme base = default_scheme(Method::sage2, DType::f16);
  EXPECT_EQ(core::first_difference(base, base), "");
  for (const auto& [field, change] : changes) {
    Scheme other = base;
    change(other);
    EXPECT_EQ(core::first_difference(base, other), field);
    EXPECT_NE(base, other);
  }
}

}  // namespace
}  // namespace chitu::test
