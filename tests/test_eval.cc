// The evaluation library judges everything else, so it is checked against independent arithmetic here.

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <set>

#include "eval/compare.h"
#include "eval/exact64.h"
#include "eval/fill.h"
#include "eval/random.h"

namespace chitu::test {
namespace {

using namespace eval;

TEST(Random, PhiloxKnownAnswers) {  // the known-answer tests published with the generator (Random123)
  EXPECT_EQ(philox({0, 0, 0, 0}, {0, 0}), (std::array<std::uint32_t, 4>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}),
            (std::array<std::uint32_t, 4>{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
}

TEST(Random, NormalHasTheRightMomentsAndTail) {
  std::vector<float> x(1 << 20);
  fill_normal(x.data(), static_cast<std::int64_t>(x.size()), 11, 3, 2);
  double m1 = 0, m2 = 0, m3 = 0, m4 = 0, beyond2 = 0;
  for (float e : x) {
    const double v = e;
    m1 += v, m2 += v * v, m3 += v * v * v, m4 += v * v * v * v, beyond2 += std::fabs(v) > 2;
  }
  const double n = static_cast<double>(x.size());
  EXPECT_NEAR(m1 / n, 0, 0.004);
  EXPECT_NEAR(m2 / n, 1, 0.006);
  EXPECT_NEAR(m3 / n, 0, 0.02);
  EXPECT_NEAR(m4 / n, 3, 0.05);
  EXPECT_NEAR(beyond2 / n, 0.0455, 0.001);
}

TEST(Random, FillDoesNotDependOnThreadsOrLength) {
  std::vector<float> a(200001), b(200001), c(77);
  fill_normal(a.data(), 200001, 5, 1, 1);
  fill_normal(b.data(), 200001, 5, 1, 3);
  fill_normal(c.data(), 77, 5, 1, 1);
  EXPECT_EQ(a, b);
  for (std::size_t i = 0; i < c.size(); ++i) EXPECT_EQ(c[i], a[i]);
  EXPECT_EQ(static_cast<float>(Random(5, 1).normal(123)), a[123]);
}

TEST(Random, OwnMathAgreesWithLibm) {
  for (double t = -3; t < 3; t += 0.0137) {
    const auto cs = cos_sin_turns(t);
    EXPECT_NEAR(cs[0], std::cos(6.283185307179586477 * t), 2e-11);
    EXPECT_NEAR(cs[1], std::sin(6.283185307179586477 * t), 2e-11);
    EXPECT_NEAR(exp2_exact_ops(7 * t) / std::exp2(7 * t), 1, 1e-14);
  }
}

TEST(Fill, EverySetIsFiniteNamedOnceAndReproducible) {
  std::set<std::string> names;
  for (const InputSet& set : input_sets()) {
    EXPECT_TRUE(names.insert(set.name).second);
    EXPECT_EQ(find_input_set(set.name), &set);
    const Shape shape{2, 37, 259, 4, 2, 24, 40};
    const Inputs a = make_inputs(set, shape, 9), b = make_inputs(set, shape, 9, DType::f16, 0, 3), c = make_inputs(set, shape, 10);
    EXPECT_EQ(a.q, b.q);
    EXPECT_EQ(a.k, b.k);
    EXPECT_EQ(a.v, b.v);
    EXPECT_NE(a.k, c.k) << set.name;
    for (const auto* x : {&a.q, &a.k, &a.v})
      for (float e : *x) ASSERT_TRUE(std::isfinite(e)) << set.name;
  }
  EXPECT_EQ(find_input_set("no such set"), nullptr);
}

/// The same bits on every machine: sums of the bit patterns of the first draw, recorded once.
TEST(Fill, GoldenChecksums) {
  auto checksum = [](const std::vector<float>& x) {
    std::uint64_t h = 1469598103934665603ull;
    for (unsigned char b : encode(x, DType::f32)) h = (h ^ b) * 1099511628211ull;
    return h;
  };
  const Inputs a = make_inputs(*find_input_set("1"), {1, 64, 64, 1, 1, 64, 64}, 1);
  const Inputs b = make_inputs(*find_input_set("6"), {1, 64, 64, 1, 1, 64, 64}, 1);
  EXPECT_EQ(checksum(a.q), 11060842377596331828ull);
  EXPECT_EQ(checksum(b.k), 1159550939405353399ull);
}

TEST(Fill, SinksReachTheirGap) {
  const Shape shape{1, 256, 512, 1, 1, 64, 64};
  const Inputs in = make_inputs(*find_input_set("7"), shape, 1);
  double sink = 0, other = 0;
  for (std::int64_t i = 0; i < 256; ++i)
    for (std::int64_t j = 0; j < 512; ++j) {
      double s = 0;
      for (std::int64_t d = 0; d < 64; ++d) s += in.q[static_cast<std::size_t>(i * 64 + d)] * in.k[static_cast<std::size_t>(j * 64 + d)] / 8;
      (j < 4 ? sink : other) += s;
    }
  EXPECT_NEAR(sink / (256 * 4) - other / (256 * 508), 6, 0.8);
}

TEST(Fill, EncodeDecode) {
  const std::vector<float> x{0.0f, -1.5f, 65504.0f, 0x1p-24f};
  for (DType t : {DType::f32, DType::f16}) EXPECT_EQ(decode(encode(x, t).data(), 4, t), x);
  const std::vector<float> y{1.0f, -3.0e38f};
  EXPECT_NEAR(decode(encode(y, DType::bf16).data(), 2, DType::bf16)[1] / y[1], 1, 1.0 / 256);
}

TEST(Compare, ByHand) {
  const std::vector<float> o{1, 2, 3, 5, 0, 0};
  const std::vector<double> r{1, 2, 3, 4, 0, 0};
  const Metrics m = compare(o, r, 2);
  EXPECT_EQ(m.rows, 3);
  EXPECT_DOUBLE_EQ(m.max_diff, 1);
  EXPECT_DOUBLE_EQ(m.mean_diff, 1.0 / 6);
  EXPECT_DOUBLE_EQ(m.rel_l1, 0.1);
  EXPECT_DOUBLE_EQ(m.rmse, std::sqrt(1.0 / 6));
  EXPECT_DOUBLE_EQ(m.nrmse, std::sqrt(1.0 / 30));
  EXPECT_DOUBLE_EQ(m.worst_row, 0.2);
  EXPECT_EQ(m.worst_row_index, 1);
  EXPECT_DOUBLE_EQ(m.cos_sim, 34 / std::sqrt(39.0 * 30));
  EXPECT_TRUE(m.clean());
}

TEST(Compare, CountsWhatIsNotFinite) {
  const float nan = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();
  const std::vector<float> o{nan, inf, 1, nan, 1, 2}, lse{0, -inf, nan, -inf};
  const std::vector<double> r{1, 1, 1, std::nan(""), inf, 2}, lse_ref{0.5, -inf, 0, 0};
  const Metrics m = compare(o, r, 2, lse, lse_ref);
  EXPECT_EQ(m.nan, 2);  // also where the reference is NaN: whoever reads the output must learn of it
  EXPECT_EQ(m.inf, 1);
  EXPECT_EQ(m.laundered, 1);
  EXPECT_EQ(m.compared, 2);
  EXPECT_EQ(m.lse_compared, 1);
  EXPECT_EQ(m.lse_not_finite_mismatch, 2);
  EXPECT_DOUBLE_EQ(m.lse_max, 0.5);
  EXPECT_FALSE(m.clean());
}

TEST(Compare, FiniteWhereTheReferenceIsNotIsNotClean) {
  const std::vector<float> o{1};
  const std::vector<double> r{std::nan("")};
  const Metrics m = compare(o, r, 1);
  EXPECT_EQ(m.laundered, 1);
  EXPECT_EQ(m.compared, 0);
  EXPECT_FALSE(m.clean());
}

/// Attention by the textbook, one row, long double.
std::vector<long double> textbook(const Inputs& in, std::int64_t b, std::int64_t head, std::int64_t row, std::int64_t begin, std::int64_t end,
                                  long double scale, long double* lse) {
  const Shape& s = in.shape;
  const std::int64_t kv = head / (s.num_heads_q / s.num_heads_kv);
  std::vector<long double> p, out(static_cast<std::size_t>(s.head_dim_v), 0);
  long double sum = 0;
  for (std::int64_t j = begin; j < end; ++j) {
    long double x = 0;
    for (std::int64_t d = 0; d < s.head_dim; ++d)
      x += static_cast<long double>(in.q[static_cast<std::size_t>(((b * s.seqlen_q + row) * s.num_heads_q + head) * s.head_dim + d)]) *
           in.k[static_cast<std::size_t>(((b * s.seqlen_k + j) * s.num_heads_kv + kv) * s.head_dim + d)];
    p.push_back(std::exp(scale * x));
    sum += p.back();
  }
  for (std::int64_t j = begin; j < end; ++j)
    for (std::int64_t d = 0; d < s.head_dim_v; ++d)
      out[static_cast<std::size_t>(d)] +=
          p[static_cast<std::size_t>(j - begin)] / sum * in.v[static_cast<std::size_t>(((b * s.seqlen_k + j) * s.num_heads_kv + kv) * s.head_dim_v + d)];
  *lse = std::log(sum);
  return out;
}

TEST(Exact64, AgreesWithTheTextbook) {
  const Shape s{2, 9, 300, 4, 2, 19, 23};
  const Inputs in = make_inputs(*find_input_set("1"), s, 4, DType::f32);
  AttentionArgs a;
  a.q = contiguous_view<const void*, 4>(in.q.data(), DType::f32, {2, 9, 4, 19});
  a.k = contiguous_view<const void*, 4>(in.k.data(), DType::f32, {2, 300, 2, 19});
  a.v = contiguous_view<const void*, 4>(in.v.data(), DType::f32, {2, 300, 2, 23});
  const auto rows = sample_rows(2, 4, 9, 0);
  ASSERT_EQ(rows.size(), 72u);
  for (bool causal : {false, true}) {
    const ExactRows e = exact64(a, causal ? Mask::causal() : Mask{}, 0.3f, rows, 2);
    for (std::size_t i = 0; i < rows.size(); ++i) {
      long double lse;
      const auto want = textbook(in, rows[i].sequence, rows[i].head, rows[i].row, 0, causal ? rows[i].row + 292 : 300, 0.3f, &lse);
      EXPECT_NEAR(e.lse[i], static_cast<double>(lse), 1e-12);
      for (std::size_t d = 0; d < 23; ++d) EXPECT_NEAR(e.out[i * 23 + d], static_cast<double>(want[d]), 1e-13);
    }
  }
}

TEST(Exact64, MasksAndEmptyRows) {
  const Shape s{1, 4, 6, 1, 1, 8, 8};
  const Inputs in = make_inputs(*find_input_set("1"), s, 4, DType::f32);
  AttentionArgs a;
  a.q = contiguous_view<const void*, 4>(in.q.data(), DType::f32, {1, 4, 1, 8});
  a.k = contiguous_view<const void*, 4>(in.k.data(), DType::f32, {1, 6, 1, 8});
  a.v = contiguous_view<const void*, 4>(in.v.data(), DType::f32, {1, 6, 1, 8});
  const std::vector<unsigned char> keep{1, 1, 1, 0, 0, 0, /**/ 0, 0, 0, 0, 0, 0, /**/ 1, 1, 1, 1, 1, 1, /**/ 0, 0, 1, 1, 0, 0};
  std::vector<float> bias;
  for (unsigned char k : keep) bias.push_back(k ? 0.5f : -std::numeric_limits<float>::infinity());
  const auto rows = sample_rows(1, 1, 4, 0);
  a.mask = contiguous_view<const void*, 4>(keep.data(), DType::boolean, {1, 1, 4, 6});
  const ExactRows boolean = exact64(a, {}, {}, rows, 1);
  a.mask = contiguous_view<const void*, 4>(bias.data(), DType::f32, {1, 1, 4, 6});
  const ExactRows additive = exact64(a, {}, {}, rows, 1);
  EXPECT_EQ(boolean.lse[1], -std::numeric_limits<double>::infinity());
  for (std::size_t d = 0; d < 8; ++d) EXPECT_EQ(boolean.out[8 + d], 0);
  for (std::size_t i : {0u, 2u, 3u}) EXPECT_NEAR(additive.lse[i], boolean.lse[i] + 0.5, 1e-14);
  for (std::size_t d = 0; d < 32; ++d) EXPECT_NEAR(additive.out[d], boolean.out[d], 1e-14);
  long double lse;
  const auto want = textbook(in, 0, 0, 3, 2, 4, 1 / std::sqrt(8.0f), &lse);
  EXPECT_NEAR(boolean.lse[3], static_cast<double>(lse), 1e-14);
}

TEST(Exact64, BroadcastMasksWithDenseStrides) {
  const Shape s{2, 3, 5, 2, 1, 8, 8};
  const Inputs in = make_inputs(*find_input_set("1"), s, 4, DType::f32);
  AttentionArgs a;
  a.q = contiguous_view<const void*, 4>(in.q.data(), DType::f32, {2, 3, 2, 8});
  a.k = contiguous_view<const void*, 4>(in.k.data(), DType::f32, {2, 5, 1, 8});
  a.v = contiguous_view<const void*, 4>(in.v.data(), DType::f32, {2, 5, 1, 8});
  const auto rows = sample_rows(2, 2, 3, 0);
  for (const std::array<std::int64_t, 4> shape : {std::array<std::int64_t, 4>{1, 1, 1, 5}, {1, 1, 3, 5}, {2, 1, 3, 1}, {1, 2, 1, 5}}) {
    std::vector<float> part(static_cast<std::size_t>(shape[0] * shape[1] * shape[2] * shape[3])), whole;
    for (std::size_t i = 0; i < part.size(); ++i) part[i] = 0.25f * static_cast<float>(i);
    for (std::int64_t b = 0; b < 2; ++b)
      for (std::int64_t h = 0; h < 2; ++h)
        for (std::int64_t i = 0; i < 3; ++i)
          for (std::int64_t j = 0; j < 5; ++j)
            whole.push_back(part[static_cast<std::size_t>((((b % shape[0]) * shape[1] + h % shape[1]) * shape[2] + i % shape[2]) * shape[3] + j % shape[3])]);
    a.mask = contiguous_view<const void*, 4>(whole.data(), DType::f32, {2, 2, 3, 5});
    const ExactRows want = exact64(a, {}, {}, rows, 1);
    a.mask = contiguous_view<const void*, 4>(part.data(), DType::f32, shape);
    const ExactRows got = exact64(a, {}, {}, rows, 1);
    EXPECT_EQ(got.out, want.out);
    EXPECT_EQ(got.lse, want.lse);
  }
}

TEST(SampleRows, SortedUniqueSpreadAndComplete) {
  const auto all = sample_rows(2, 3, 5, 0);
  EXPECT_EQ(all.size(), 30u);
  const auto some = sample_rows(2, 3, 1000, 64, 7);
  EXPECT_EQ(some.size(), 64u);
  EXPECT_EQ(some.front().row, 0);
  std::int64_t last = -1;
  for (const RowIndex& r : some) {
    const std::int64_t at = (r.sequence * 3 + r.head) * 1000 + r.row;
    EXPECT_GT(at, last);
    last = at;
  }
  EXPECT_TRUE(sample_rows(0, 3, 5, 10).empty());
}

}  // namespace
}  // namespace chitu::test
