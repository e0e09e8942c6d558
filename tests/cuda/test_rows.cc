// Every row against the specification of the scheme it executes, and against fp64, over shapes, layouts, masks and sequences.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "row_cases.h"

namespace chitu::test {
namespace {

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
    const auto rows = gpu.rows(host.options(GetParam()));
    ASSERT_FALSE(rows.empty());
    for (const std::string& row : rows) {
      SCOPED_TRACE(row);
      std::vector<float> out[2], lse[2];
      for (bool poison : {false, true}) {
        host.set_q(poison ? poisoned(q, first.q_begin * dim, q_end * dim, nan) : q);
        host.set_k(poison ? poisoned(k, first.k_begin * dim, k_end * dim, nan) : k);
        host.set_v(poison ? poisoned(v, first.k_begin * dim, k_end * dim, inf) : v);
        gpu.refresh_inputs();
        ASSERT_EQ(gpu.run(host.options(GetParam(), row)), "");
        out[poison] = between(host.out(), first.q_begin * dim, q_end * dim);
        lse[poison] = between(host.lse(), first.q_begin, q_end);
        for (float x : out[poison]) ASSERT_TRUE(std::isfinite(x));
        for (float x : between(host.out(), empty.q_begin * dim, last.q_begin * dim)) EXPECT_EQ(x, 0.0f);
        for (float x : between(host.lse(), empty.q_begin, last.q_begin)) EXPECT_EQ(x, -inf);
      }
      EXPECT_TRUE(std::any_of(out[0].begin(), out[0].end(), [](float x) { return x != 0.0f; }));
      EXPECT_TRUE(same_bits(out[0], out[1]) && same_bits(lse[0], lse[1])) << "head_dim " << dim;
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

}  // namespace
}  // namespace chitu::test
