// The executable specification: properties that hold bit for bit or to rounding whatever the data, and the hazards of docs/methods.md case by case.
// How large its errors may be is test_error_model.cc's business.

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "core/codec.h"
#include "core/kernel.h"
#include "core/validate.h"
#include "eval/exact64.h"
#include "eval/fill.h"
#include "eval/random.h"
#include "reference/accumulate.h"
#include "reference/rows.h"
#include "reference/scheme.h"

namespace chitu::test {
namespace {

using namespace eval;

constexpr float kInf = std::numeric_limits<float>::infinity();
const float kNan = std::numeric_limits<float>::quiet_NaN();

constexpr Method kQuantized[] = {Method::sage1, Method::sage2,      Method::int_flash, Method::int_flash_half,
                                 Method::chitu, Method::chitu_int8, Method::chitu_fast};
constexpr Method kAll[] = {Method::exact,          Method::sage1, Method::sage2,      Method::int_flash,
                           Method::int_flash_half, Method::chitu, Method::chitu_int8, Method::chitu_fast};

/// One call on the reference backend: contiguous f32 tensors unless a test replaces the views.
struct Call {
  Inputs in;
  AttentionArgs args;
  AttentionOptions options;
  std::vector<float> out, lse;

  explicit Call(Inputs inputs, Method method = Method::chitu) : in(std::move(inputs)) {
    const Shape& s = in.shape;
    options.method = method;
    args.q = contiguous_view<const void*, 4>(in.q.data(), DType::f32, {s.batch, s.seqlen_q, s.num_heads_q, s.head_dim});
    args.k = contiguous_view<const void*, 4>(in.k.data(), DType::f32, {s.batch, s.seqlen_k, s.num_heads_kv, s.head_dim});
    args.v = contiguous_view<const void*, 4>(in.v.data(), DType::f32, {s.batch, s.seqlen_k, s.num_heads_kv, s.head_dim_v});
  }
  Call(const Call&) = delete;

  Call& run() {
    const Shape& s = in.shape;
    out.assign(static_cast<std::size_t>(s.batch * s.seqlen_q * s.num_heads_q * s.head_dim_v), kNan);
    lse.assign(static_cast<std::size_t>(s.batch * s.seqlen_q * s.num_heads_q), kNan);
    args.out = contiguous_view<void*, 4>(out.data(), DType::f32, {s.batch, s.seqlen_q, s.num_heads_q, s.head_dim_v});
    args.lse = contiguous_view<float*, 3>(lse.data(), DType::f32, {s.batch, s.num_heads_q, s.seqlen_q});
    core::Problem p = core::validate(args, options);
    p.scheme = core::resolve_scheme(options.method, p.dtype, options.scheme);
    for (const core::Kernel& kernel : ref::backend().kernels) {
      if (!kernel.why_not(p).empty()) continue;
      core::Workspace measure;
      kernel.run({p, args, nullptr}, measure);
      std::vector<char> memory(measure.used() + 1);
      core::Workspace carve(memory.data(), measure.used());
      kernel.run({p, args, nullptr}, carve);
      return *this;
    }
    ADD_FAILURE() << "no reference row serves " << method_name(options.method);
    return *this;
  }
};

Inputs normal(const Shape& s, std::uint64_t seed = 1, const char* set = "1") { return make_inputs(*find_input_set(set), s, seed); }

void expect_same(const std::vector<float>& a, const std::vector<float>& b, const std::string& what) {
  ASSERT_EQ(a.size(), b.size());
  EXPECT_EQ(std::memcmp(a.data(), b.data(), a.size() * 4), 0) << what;
}
std::string name(Method m) { return std::string(method_name(m)); }

TEST(Reference, ExactIsTheDefinition) {
  for (bool causal : {false, true}) {
    Call c(normal({2, 21, 150, 4, 2, 24, 40}), Method::exact);
    if (causal) c.options.mask = Mask::causal();
    c.run();
    const auto rows = sample_rows(2, 4, 21, 0);
    const ExactRows want = exact64(c.args, c.options.mask, {}, rows, 2);
    for (std::size_t i = 0; i < rows.size(); ++i) {
      EXPECT_NEAR(c.lse[i], want.lse[i], 1e-6);
      for (std::size_t d = 0; d < 40; ++d)
        EXPECT_NEAR(c.out[static_cast<std::size_t>(((rows[i].sequence * 21 + rows[i].row) * 4 + rows[i].head) * 40) + d], want.out[i * 40 + d], 1e-6);
    }
  }
}

TEST(Reference, SelectedRowsAreTheRowsOfTheWholeCall) {
  for (Method m : kAll) {
    Call c(normal({1, 300, 200, 2, 1, 32, 16}), m);
    c.options.mask = Mask::causal();
    c.run();
    std::vector<ref::SelectedRow> rows;
    for (const RowIndex& r : sample_rows(1, 2, 300, 17, 3)) rows.push_back({r.sequence, r.head, r.row});
    const auto some = ref::attention_rows(core::default_scheme(m, DType::f32), c.args, c.options.mask, {}, rows, 2);
    for (std::size_t i = 0; i < rows.size(); ++i)
      for (std::size_t d = 0; d < 16; ++d)
        EXPECT_EQ(some.out[i * 16 + d], c.out[static_cast<std::size_t>((rows[i].row * 2 + rows[i].head) * 16) + d]) << name(m);
  }
}

TEST(Properties, OnesGiveOnes) {  // P1: the weights of a row sum to one
  for (Method m : kAll)
    for (std::int64_t keys : {1, 17, 129, 300}) {
      Call c(normal({1, 8, keys, 1, 1, 16, 8}), m);
      std::fill(c.in.v.begin(), c.in.v.end(), 1.0f);
      c.run();
      const bool quantized_sum = m == Method::chitu_int8 || m == Method::chitu_fast;
      const float bar = m == Method::exact ? 1e-6f : quantized_sum ? 1e-5f : 2e-2f;
      for (float x : c.out) EXPECT_NEAR(x, 1, bar) << name(m) << " " << keys;
    }
}

TEST(Properties, PowersOfTwoAndSigns) {  // P5, P6
  for (Method m : kAll) {
    if (m == Method::exact) continue;
    const Shape s{1, 20, 200, 1, 1, 32, 24};
    Call base(normal(s, 3), m);
    base.options.softmax_scale = 0.25f;
    base.run();
    Call scaled(normal(s, 3), m);
    for (float& x : scaled.in.q) x *= 16;
    for (float& x : scaled.in.v) x *= 4;  // not down: f16 subnormals would lose bits
    scaled.options.softmax_scale = 0.25f / 16;
    scaled.run();
    expect_same(base.lse, scaled.lse, name(m) + " q*16, scale/16");
    for (float& x : scaled.out) x *= 0.25f;
    expect_same(base.out, scaled.out, name(m) + " powers of two");
    Call flipped(normal(s, 3), m);
    for (auto* x : {&flipped.in.q, &flipped.in.k, &flipped.in.v})
      for (float& e : *x) e = -e;
    flipped.options.softmax_scale = 0.25f;
    flipped.run();
    expect_same(base.lse, flipped.lse, name(m) + " -q, -k");
    for (float& x : flipped.out) x = 0.0f - x;
    for (std::size_t i = 0; i < base.out.size(); ++i) EXPECT_EQ(base.out[i], flipped.out[i]) << name(m);
    Call negative(normal(s, 3), m);
    for (float& e : negative.in.q) e = -e;
    negative.options.softmax_scale = -0.25f;
    negative.run();
    expect_same(base.out, negative.out, name(m) + " negative scale");
    expect_same(base.lse, negative.lse, name(m) + " negative scale, lse");
  }
}

TEST(Properties, ScaleZeroIsTheMean) {
  for (Method m : kAll) {
    Call c(normal({1, 3, 100, 1, 1, 16, 16}), m);
    c.options.softmax_scale = 0.0f;
    c.run();
    for (std::size_t i = 0; i < 3; ++i) {
      EXPECT_NEAR(c.lse[i], std::log(100.0), 1e-5) << name(m);
      for (std::size_t d = 0; d < 16; ++d) {
        double mean = 0;
        for (std::size_t j = 0; j < 100; ++j) mean += c.in.v[j * 16 + d] / 100;
        EXPECT_NEAR(c.out[i * 16 + d], mean, 0.02) << name(m);
      }
    }
  }
}

TEST(Properties, GroupedHeadsAreRepeatedHeads) {  // P7
  for (Method m : kAll) {
    const Inputs in = normal({1, 30, 150, 6, 2, 16, 16});
    Call grouped(in, m);
    grouped.run();
    Inputs repeated = in;
    repeated.shape.num_heads_kv = 6;
    repeated.k.clear();
    repeated.v.clear();
    for (std::size_t j = 0; j < 150; ++j)
      for (std::size_t h = 0; h < 6; ++h)
        for (std::size_t d = 0; d < 16; ++d) {
          repeated.k.push_back(in.k[(j * 2 + h / 3) * 16 + d]);
          repeated.v.push_back(in.v[(j * 2 + h / 3) * 16 + d]);
        }
    Call each(repeated, m);
    each.run();
    expect_same(grouped.out, each.out, name(m));
    expect_same(grouped.lse, each.lse, name(m));
  }
}

TEST(Properties, PackedIsOneByOne) {  // P8, with an empty sequence in the middle
  const std::vector<std::int32_t> cu_q{0, 40, 40, 45, 175}, cu_k{0, 130, 135, 135, 300};
  for (Method m : kAll)
    for (bool causal : {false, true}) {
      const Inputs all = normal({1, 175, 300, 2, 1, 16, 24});
      Call packed(all, m);
      if (causal) packed.options.mask = Mask::causal();
      packed.args.sequences = {cu_q.data(), cu_k.data(), nullptr, 4, 130, 165};
      packed.run();
      for (std::size_t b = 0; b < 4; ++b) {
        const std::int64_t nq = cu_q[b + 1] - cu_q[b], nk = cu_k[b + 1] - cu_k[b];
        if (nq == 0) continue;
        auto slice = [](const std::vector<float>& x, std::int64_t row, std::int64_t begin, std::int64_t n) {
          return std::vector<float>(x.begin() + begin * row, x.begin() + (begin + n) * row);
        };
        Call one({{1, nq, nk, 2, 1, 16, 24}, slice(all.q, 32, cu_q[b], nq), slice(all.k, 16, cu_k[b], nk), slice(all.v, 24, cu_k[b], nk)}, m);
        one.options = packed.options;
        one.run();
        expect_same(one.out, slice(packed.out, 48, cu_q[b], nq), name(m) + " sequence " + std::to_string(b));
        for (std::int64_t h = 0; h < 2; ++h)
          for (std::int64_t i = 0; i < nq; ++i)
            EXPECT_EQ(one.lse[static_cast<std::size_t>(h * nq + i)], packed.lse[static_cast<std::size_t>(h * 175 + cu_q[b] + i)]) << name(m);
      }
    }
}

TEST(Properties, PaddingNeverMatters) {  // P16: keys beyond seqlens_k are NaN
  const std::vector<std::int32_t> lengths{0, 77, 200};
  for (Method m : kAll) {
    Call padded(normal({3, 10, 200, 1, 1, 16, 16}), m);
    for (std::size_t b = 0; b < 3; ++b)
      for (std::size_t j = static_cast<std::size_t>(lengths[b]); j < 200; ++j)
        for (std::size_t d = 0; d < 16; ++d) padded.in.k[(b * 200 + j) * 16 + d] = padded.in.v[(b * 200 + j) * 16 + d] = kNan;
    padded.args.sequences.seqlens_k = lengths.data();
    padded.run();
    for (std::size_t i = 0; i < 160; ++i) EXPECT_EQ(padded.out[i], 0.0f);
    for (std::size_t i = 0; i < 10; ++i) EXPECT_EQ(padded.lse[i], -kInf);
    Inputs in = normal({3, 10, 200, 1, 1, 16, 16});
    auto cut = [](const std::vector<float>& x, std::size_t b, std::size_t n) {
      return std::vector<float>(x.begin() + b * 3200, x.begin() + b * 3200 + n * 16);
    };
    Call one({{1, 10, 77, 1, 1, 16, 16}, std::vector<float>(in.q.begin() + 160, in.q.begin() + 320), cut(in.k, 1, 77), cut(in.v, 1, 77)}, m);
    one.run();
    expect_same(one.out, std::vector<float>(padded.out.begin() + 160, padded.out.begin() + 320), name(m));
  }
}

TEST(Properties, StridesDoNotMatter) {  // P9: [batch, heads, seq, dim] against [batch, seq, heads, dim], f16
  auto transpose = [](const std::vector<float>& x, std::int64_t rows) {
    std::vector<float> to(x.size());
    for (std::int64_t b = 0; b < 2; ++b)
      for (std::int64_t i = 0; i < rows; ++i)
        for (std::int64_t h = 0; h < 2; ++h)
          for (std::int64_t d = 0; d < 16; ++d)
            to[static_cast<std::size_t>(((b * 2 + h) * rows + i) * 16 + d)] = x[static_cast<std::size_t>(((b * rows + i) * 2 + h) * 16 + d)];
    return encode(to, DType::f16);
  };
  for (Method m : kAll) {
    Call plain(normal({2, 20, 140, 2, 2, 16, 16}), m), strided(normal({2, 20, 140, 2, 2, 16, 16}), m);
    const auto q = encode(plain.in.q, DType::f16), k = encode(plain.in.k, DType::f16), v = encode(plain.in.v, DType::f16);
    plain.args.q = contiguous_view<const void*, 4>(q.data(), DType::f16, {2, 20, 2, 16});
    plain.args.k = contiguous_view<const void*, 4>(k.data(), DType::f16, {2, 140, 2, 16});
    plain.args.v = contiguous_view<const void*, 4>(v.data(), DType::f16, {2, 140, 2, 16});
    plain.run();
    const auto qt = transpose(plain.in.q, 20), kt = transpose(plain.in.k, 140), vt = transpose(plain.in.v, 140);
    strided.args.q = from_bhsd(contiguous_view<const void*, 4>(qt.data(), DType::f16, {2, 2, 20, 16}));
    strided.args.k = from_bhsd(contiguous_view<const void*, 4>(kt.data(), DType::f16, {2, 2, 140, 16}));
    strided.args.v = from_bhsd(contiguous_view<const void*, 4>(vt.data(), DType::f16, {2, 2, 140, 16}));
    strided.run();
    expect_same(plain.out, strided.out, name(m));
    expect_same(plain.lse, strided.lse, name(m));
  }
}

TEST(Properties, BooleanMaskIsTheBandAndZeroBiasIsNone) {
  for (Method m : kAll) {
    const Shape s{1, 50, 180, 2, 1, 16, 16};
    Call band(normal(s), m), boolean(normal(s), m), additive(normal(s), m);
    band.options.mask = Mask::window(40, 3);
    band.run();
    std::vector<unsigned char> keep(50 * 180);
    std::vector<float> bias(50 * 180);
    for (std::int64_t i = 0; i < 50; ++i)
      for (std::int64_t j = 0; j < 180; ++j) {
        const bool visible = j >= i + 130 - 40 && j <= i + 130 + 3;
        keep[static_cast<std::size_t>(i * 180 + j)] = visible;
        bias[static_cast<std::size_t>(i * 180 + j)] = visible ? 0.0f : -kInf;
      }
    boolean.args.mask = {keep.data(), DType::boolean, {}, {1, 2, 50, 180}, {0, 0, 180, 1}};
    boolean.run();
    additive.args.mask = {bias.data(), DType::f32, {}, {1, 2, 50, 180}, {0, 0, 180, 1}};
    additive.run();
    expect_same(band.out, boolean.out, name(m));
    expect_same(band.out, additive.out, name(m));
    expect_same(band.lse, additive.lse, name(m));
  }
}

TEST(Properties, CausalPrefixDoesNotSeeTheFuture) {  // P10: a row's K statistics reach to the end of its own tile, not further
  for (Method m : {Method::exact, Method::int_flash_half, Method::chitu}) {
    Call before(normal({1, 300, 300, 1, 1, 32, 32}), m), after(normal({1, 300, 300, 1, 1, 32, 32}), m);
    before.options.mask = after.options.mask = Mask::causal();
    before.run();
    for (std::size_t i = 256 * 32; i < 300 * 32; ++i) after.in.k[i] = after.in.v[i] = kNan;
    after.run();
    for (std::size_t i = 0; i < 256 * 32; ++i) ASSERT_EQ(before.out[i], after.out[i]) << name(m);
    for (std::size_t i = 256 * 32; i < 300 * 32; ++i) EXPECT_TRUE(std::isnan(after.out[i]));
  }
}

TEST(Properties, LseIsThatOfTheOriginalScores) {  // a bias on K moves the lse by scale * q.c, whatever is subtracted inside
  for (Method m : kQuantized) {
    if (m == Method::int_flash || m == Method::int_flash_half) continue;  // not smoothed: the bias costs accuracy there
    Call c(normal({1, 16, 384, 1, 1, 64, 64}, 5, "5"), m);
    c.run();
    const auto rows = sample_rows(1, 1, 16, 0);
    const ExactRows want = exact64(c.args, {}, {}, rows, 1);
    for (std::size_t i = 0; i < 16; ++i) EXPECT_NEAR(c.lse[i], want.lse[i], m == Method::chitu_fast ? 0.03 : 0.015) << name(m);
  }
}

TEST(Properties, OneKeyGivesItsDequantizedValue) {  // P15
  for (Method m : kQuantized) {
    Call c(normal({1, 4, 1, 1, 1, 64, 32}), m);
    c.run();
    const ref::HeadView v{c.in.v.data(), DType::f32, 32, 1, 32};
    const ref::Values q = ref::quantize_values(core::default_scheme(m, DType::f32), v);
    for (std::size_t i = 0; i < 4; ++i)
      for (std::size_t d = 0; d < 32; ++d) {
        const float t = q.tile_scale.empty() || m != Method::chitu_int8 ? 1.0f : q.tile_scale[0];
        EXPECT_NEAR(c.out[i * 32 + d], q.decoded[d] * q.channel_scale[d] * t, 2e-6 * std::fabs(c.out[i * 32 + d])) << name(m);
      }
  }
}

TEST(Policy, EmptyRows) {
  for (Method m : kAll) {
    Call c(normal({1, 20, 5, 1, 1, 8, 8}), m);  // bottom-right causal: the first 15 rows see nothing
    c.options.mask = Mask::causal();
    c.run();
    for (std::size_t i = 0; i < 15; ++i) EXPECT_EQ(c.lse[i], -kInf);
    for (std::size_t i = 0; i < 15 * 8; ++i) EXPECT_EQ(c.out[i], 0.0f);
    EXPECT_TRUE(std::isfinite(c.lse[15]));
    Call none(normal({2, 3, 0, 1, 1, 8, 8}), m);
    none.run();
    for (float x : none.out) EXPECT_EQ(x, 0.0f);
    for (float x : none.lse) EXPECT_EQ(x, -kInf);
  }
}

TEST(Policy, NanStaysWhereItBelongs) {
  for (Method m : kAll)
    for (float bad : {kNan, kInf}) {
      Call q(normal({1, 260, 300, 1, 1, 16, 16}), m);
      q.in.q[37 * 16 + 3] = bad;
      q.run();
      for (std::size_t d = 0; d < 16; ++d) EXPECT_FALSE(std::isfinite(q.out[37 * 16 + d])) << name(m);
      EXPECT_FALSE(std::isfinite(q.lse[37])) << name(m);
      for (std::size_t i = 128; i < 256; ++i) EXPECT_TRUE(std::isfinite(q.out[i * 16])) << name(m);  // another scale block
      for (int which : {0, 1}) {
        if (m == Method::exact && which == 0 && bad == kInf) continue;  // a score of -inf is a legal weight of 0 there
        Call kv(normal({1, 4, 300, 1, 1, 16, 16}), m);
        (which == 0 ? kv.in.k : kv.in.v)[200 * 16 + 3] = bad;
        kv.run();
        for (std::size_t i = 0; i < 4; ++i) EXPECT_FALSE(std::isfinite(kv.out[i * 16 + 3])) << name(m) << which;
      }
    }
}

TEST(Policy, ZeroGroupsAreExact) {
  for (Method m : kAll) {
    Call c(normal({1, 3, 140, 1, 1, 16, 16}), m);
    std::fill(c.in.q.begin(), c.in.q.begin() + 16, 0.0f);  // a zero query sees the plain mean
    for (std::size_t j = 0; j < 140; ++j) c.in.v[j * 16 + 5] = 0;
    c.run();
    EXPECT_NEAR(c.lse[0], std::log(140.0), 1e-5) << name(m);
    for (std::size_t i = 0; i < 3; ++i) EXPECT_EQ(c.out[i * 16 + 5], 0.0f) << name(m);
    Call zero(normal({1, 3, 140, 1, 1, 16, 16}), m);
    for (auto* x : {&zero.in.q, &zero.in.k, &zero.in.v}) std::fill(x->begin(), x->end(), 0.0f);
    zero.run();
    for (float x : zero.out) EXPECT_EQ(x, 0.0f) << name(m);
    for (float x : zero.lse) EXPECT_NEAR(x, std::log(140.0), 1e-6) << name(m);
  }
}

TEST(Policy, HugeAndTinyInputsStayFinite) {
  for (Method m : kAll)
    for (float size : {1e-36f, 1e-20f, 1e18f, 1e37f}) {
      Call v(normal({1, 5, 260, 1, 1, 16, 16}), m);
      for (float& x : v.in.v) x *= size / 8;
      v.run();
      for (float x : v.out) EXPECT_TRUE(std::isfinite(x)) << name(m) << " v " << size;
      Call k(normal({1, 5, 260, 1, 1, 16, 16}), m);
      for (float& x : k.in.k) x *= size / 8;
      k.options.softmax_scale = 0.25f / size;
      k.run();
      for (float x : k.out) EXPECT_TRUE(std::isfinite(x)) << name(m) << " k " << size;
    }
}

// Hazards of docs/methods.md 2 (chitu_int8), each with data made for it.

ref::Values c3(const std::vector<float>& v, std::int64_t rows, std::int64_t dim) {
  return ref::quantize_values(core::default_scheme(Method::chitu_int8, DType::f32), {v.data(), DType::f32, dim, rows, dim});
}

TEST(C3, FlagsByTokenNormAndCountsZeroTokens) {
  std::vector<float> v(256 * 8, 1.0f);
  EXPECT_EQ(c3(v, 256, 8).flagged, (std::vector<std::uint8_t>{0, 0}));
  for (std::size_t d = 0; d < 8; ++d) v[(128 + 77) * 8 + d] = 0;
  const ref::Values zero = c3(v, 256, 8);
  EXPECT_EQ(zero.flagged, (std::vector<std::uint8_t>{0, 1}));
  EXPECT_EQ(zero.token_scale[128 + 77], zero.token_scale[128] * 0x1p-24f);
  EXPECT_EQ(zero.code(128 + 77, 0), 0);
  EXPECT_EQ(zero.code(128 + 78, 0), 127);
  EXPECT_EQ(c3(v, 250, 8).flagged, (std::vector<std::uint8_t>{0, 1})) << "padding of a ragged tile does not count";
  EXPECT_EQ(c3(std::vector<float>(130 * 8, 1.0f), 130, 8).flagged, (std::vector<std::uint8_t>{0, 0}));
}

TEST(C3, TinyAndZeroValues) {
  std::vector<float> v(128 * 8, 0.0f);
  ref::Values zero = c3(v, 128, 8);
  EXPECT_EQ(zero.channel_scale, std::vector<float>(8, 1.0f));
  EXPECT_EQ(zero.tile_scale[0], 0.0f);
  v[64 * 8] = 1e-30f;  // a sampled token, everything else zero: the tile is flagged, no 1/t overflows
  v[65 * 8] = 1e-37f;
  const ref::Values tiny = c3(v, 128, 8);
  for (float t : tiny.token_scale) EXPECT_TRUE(std::isfinite(t) && t > 0);
  for (float x : tiny.decoded) EXPECT_TRUE(std::fabs(x) <= 127);
}

TEST(C3, SparseChannelDoesNotStarveTheOthers) {
  Inputs in = normal({1, 64, 4096, 1, 1, 32, 32}, 2);
  for (std::size_t j = 0; j < 4096; ++j) in.v[j * 32 + 7] = j == 1000 ? 40.0f : 0.0f;
  Call c(in, Method::chitu_int8);
  c.run();
  const auto rows = sample_rows(1, 1, 64, 0);
  const ExactRows want = exact64(c.args, {}, {}, rows, 1);
  double error = 0, norm = 0;
  for (std::size_t i = 0; i < want.out.size(); ++i) error += std::pow(c.out[i] - want.out[i], 2), norm += want.out[i] * want.out[i];
  EXPECT_LT(std::sqrt(error / norm), 0.025);
}

TEST(Accumulators, F16OverflowsOverALongRowAndTruncationDrifts) {  // why whole-row accumulators are never a default (N2, N4 of the regression list)
  std::vector<float> code(65536), v(65536 * 4, 1.5f), f16(4), fp8(4), tile(4), f32(4);
  std::vector<std::int32_t> index(65536);
  for (std::int32_t j = 0; j < 65536; ++j) index[static_cast<std::size_t>(j)] = j;
  std::fill(code.begin(), code.end(), 1.0f);
  ref::accumulate_f16({code.data(), index.data(), 65536, v.data(), 4}, 16, f16.data());
  EXPECT_TRUE(std::isinf(f16[0]));
  for (std::size_t j = 0; j < code.size(); ++j) code[j] = core::e4m3_to_f32(core::f32_to_e4m3(static_cast<float>(448 * Random(1, 1).uniform(j))));
  ref::accumulate_fp8({code.data(), index.data(), 65536, v.data(), 4}, fp8.data());
  ref::accumulate_f32({code.data(), index.data(), 65536, v.data(), 4}, f32.data());
  EXPECT_LT(fp8[0], 0.97f * f32[0]);  // cut toward zero at every step: a loss of several percent
  double promoted = 0;
  for (std::int64_t j = 0; j < 65536; j += 128) {
    std::fill(tile.begin(), tile.end(), 0.0f);
    ref::accumulate_fp8({code.data() + j, index.data() + j, 128, v.data(), 4}, tile.data());
    promoted += tile[0];
  }
  EXPECT_NEAR(promoted / f32[0], 1, 1e-3);
}

TEST(Accumulators, Fp8KeepsThirteenBits) {
  // 2^0 and 2^-13 survive together, 2^-14 does not; a negative term is cut toward zero as well.
  std::vector<std::int32_t> index{0, 1, 2};
  std::vector<float> code{1, 1, 1}, v{1.0f, 0x1p-13f, -0x1.8p-14f}, acc{0};
  ref::accumulate_fp8({code.data(), index.data(), 3, v.data(), 1}, acc.data());
  EXPECT_EQ(acc[0], 1 + 0x1p-13f);
}

TEST(Keys, TileMeanAndGroupsByHand) {
  // 130 keys of one channel: tile 0 holds 0, 1, .., 127, tile 1 holds 128 and 130.
  std::vector<float> k(130);
  for (std::size_t j = 0; j < 130; ++j) k[j] = static_cast<float>(j < 129 ? j : 130);
  core::Scheme s = core::default_scheme(Method::chitu, DType::f32);
  s.rotate = false;
  const ref::Keys keys = ref::quantize_keys(s, {k.data(), DType::f32, 1, 130, 1});
  EXPECT_EQ(keys.center, (std::vector<float>{63.5f, 129.0f}));
  ASSERT_EQ(keys.scales.size(), 8u);
  EXPECT_EQ(keys.scales[0], 63.5f / 127);  // tokens 8i + {0, 1}: the first is farthest from the mean
  EXPECT_EQ(keys.scales[3], 63.5f / 127);  // tokens 8i + {6, 7}: the last
  EXPECT_EQ(keys.scales[1], 61.5f / 127);
  EXPECT_EQ(keys.codes[0], -127);
  EXPECT_EQ(keys.codes[127], 127);
  EXPECT_EQ(keys.codes[128], -127);
  EXPECT_EQ(keys.codes[129], 127);
  EXPECT_EQ(keys.scales[5], 0.0f) << "a group without a valid token is zero";
}

TEST(Scheme, ReverseOrderAndSplitTilesAgree) {  // a tile-local method does not depend on the order of tiles beyond f32 addition
  const Inputs in = normal({1, 32, 700, 1, 1, 32, 32});
  const ref::HeadView q{in.q.data(), DType::f32, 32, 32, 32}, k{in.k.data(), DType::f32, 32, 700, 32}, v{in.v.data(), DType::f32, 32, 700, 32};
  core::Scheme s = core::default_scheme(Method::chitu_int8, DType::f32);
  std::vector<std::int64_t> rows(32);
  for (std::size_t i = 0; i < 32; ++i) rows[i] = static_cast<std::int64_t>(i);
  std::vector<float> a(32 * 32), b(32 * 32), lse_a(32), lse_b(32);
  const core::Band band({}, 32, 700);
  ref::attend({s, 0.2f, band, {}}, q, ref::quantize_keys(s, k), ref::quantize_values(s, v), rows, a.data(), lse_a.data());
  s.reverse = true;
  ref::attend({s, 0.2f, band, {}}, q, ref::quantize_keys(s, k), ref::quantize_values(s, v), rows, b.data(), lse_b.data());
  for (std::size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], 1e-6);
  for (std::size_t i = 0; i < 32; ++i) EXPECT_NEAR(lse_a[i], lse_b[i], 1e-6);
}

}  // namespace
}  // namespace chitu::test
