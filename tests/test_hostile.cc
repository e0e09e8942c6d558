// Inputs that break careless kernels. Finite in, finite out; NaN and Inf go where docs/methods.md says and nowhere else.

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <random>

#include "common/effort.h"
#include "common/oracle.h"
#include "common/rows.h"

namespace chitu::test {
namespace {

CallSpec shape(std::uint64_t seed) {
  CallSpec s;
  s.batch = 2;
  s.heads_q = 2;
  s.heads_kv = 2;
  s.seqlen_q = 1 + static_cast<std::int64_t>(seed * 37 % 70);
  s.seqlen_k = 1 + static_cast<std::int64_t>(seed * 53 % 270);
  s.head_dim = seed % 3 == 0 ? 64 : 1 + static_cast<std::int64_t>(seed * 29 % 130);
  s.head_dim_v = s.head_dim;
  s.dtype = seed % 3 == 1 ? DType::f16 : seed % 3 == 2 ? DType::bf16 : DType::f32;
  if (seed % 4 == 0) s.mask = Mask::causal();
  s.seed = seed;
  return s;
}

void for_each_row(TestCall& call, const std::function<void(const core::Kernel&, Method, const std::string&)>& body) {
  for (const core::Kernel* row : cpu_rows(true))
    for (Method m : served_methods(*row, call)) body(*row, m, std::string(row->name) + " for " + std::string(method_name(m)) + ", " + call.spec().text());
}

/// Values from all over the range of the type, rows and channels of zeros, denormals, alternating signs.
std::vector<float> wild(std::mt19937_64& random, std::size_t n, std::int64_t dim, float largest) {
  std::vector<float> x(n);
  const int flavour = static_cast<int>(random() % 6);
  for (std::size_t i = 0; i < n; ++i) {
    const double u = static_cast<double>(random() % 2000001) / 1e6 - 1;
    const std::size_t row = i / static_cast<std::size_t>(dim), channel = i % static_cast<std::size_t>(dim);
    switch (flavour) {
      case 0:
        x[i] = static_cast<float>(u * largest);
        break;
      case 1:
        x[i] = static_cast<float>(u * std::exp2(static_cast<double>(random() % 51) - 50) * largest);
        break;
      case 2:
        x[i] = row % 3 == 0 ? 0.0f : static_cast<float>(u);
        break;
      case 3:
        x[i] = channel % 2 == 0 ? 0.0f : channel % 5 == 1 ? largest : static_cast<float>(u);
        break;
      case 4:
        x[i] = static_cast<float>(u * 1e-42);
        break;
      default:
        x[i] = row % 7 == 3 ? static_cast<float>(u * largest) : static_cast<float>(u * 1e-6);
    }
  }
  return x;
}

TEST(Hostile, FiniteInFiniteOut) {
  std::mt19937_64 random(11);
  const int cases = effort(360);  // x 14 rows and methods: 5,000 calls
  for (int n = 0; n < cases; ++n) {
    TestCall call(shape(static_cast<std::uint64_t>(n)));
    const bool narrow = call.spec().dtype == DType::f16;
    const CallSpec& s = call.spec();
    call.set_q(wild(random, call.q().size(), s.head_dim, 200));  // logits below 2^20, where f32 still tells octaves apart
    call.set_k(wild(random, call.k().size(), s.head_dim, 200));
    call.set_v(wild(random, call.v().size(), s.head_dim_v, narrow ? 6e4f : 1e15f));
    for_each_row(call, [&](const core::Kernel& row, Method m, const std::string& what) {
      ASSERT_EQ(call.run(call.options(m, row.name)), "") << what;
      const Results got{call.out(), call.lse()};
      float v_max = 0;
      for (float x : call.v()) v_max = std::max(v_max, std::fabs(x));
      for (float x : got.out) ASSERT_TRUE(std::fabs(x) <= 4 * v_max) << what << " case " << n << " out " << x;
      for (float x : got.lse) ASSERT_TRUE(std::isfinite(x) || x == -INFINITY) << what << " case " << n << " lse " << x;
    });
  }
}

/// Logits up to 1e18: every weight is 0 or 1 but for rounding, and nothing may overflow.
TEST(Hostile, HugeScoresStayFinite) {
  std::mt19937_64 random(12);
  for (int n = 0; n < effort(80); ++n) {
    TestCall call(shape(static_cast<std::uint64_t>(n) + 500));
    const CallSpec& s = call.spec();
    const float largest = s.dtype == DType::f16 ? 3e4f : 1e8f;
    call.set_q(wild(random, call.q().size(), s.head_dim, largest));
    call.set_k(wild(random, call.k().size(), s.head_dim, largest));
    for_each_row(call, [&](const core::Kernel& row, Method m, const std::string& what) {
      ASSERT_EQ(call.run(call.options(m, row.name)), "") << what;
      for (float x : call.out()) ASSERT_TRUE(std::isfinite(x)) << what << " case " << n;
      for (float x : call.lse()) ASSERT_TRUE(std::isfinite(x) || x == -INFINITY) << what << " case " << n;
    });
  }
}

/// A NaN or Inf in one element of q, k or v: every row that must show it does; rows of other heads and batches keep their bits.
TEST(Hostile, NanAndInfAreNeitherLostNorSpread) {
  for (int n = 0; n < effort(40); ++n) {
    TestCall call(shape(static_cast<std::uint64_t>(n) + 1000));
    const CallSpec& s = call.spec();
    const auto q = call.q(), k = call.k(), v = call.v();
    const float bad = n % 3 == 0 ? INFINITY : n % 3 == 1 ? NAN : -INFINITY;
    const std::int64_t key = n % s.seqlen_k, query = n % s.seqlen_q, channel = n % s.head_dim;
    for_each_row(call, [&](const core::Kernel& row, Method m, const std::string& what) {
      ASSERT_EQ(call.run(call.options(m, row.name)), "") << what;
      const Results clean{call.out(), call.lse()};
      for (int which = 0; which < 3; ++which) {
        auto x = which == 0 ? q : which == 1 ? k : v;
        const std::int64_t at = which == 0 ? query : key;  // batch 0, head 1
        x[static_cast<std::size_t>((at * 2 + 1) * s.head_dim + channel)] = bad;
        which == 0 ? call.set_q(x) : which == 1 ? call.set_k(x) : call.set_v(x);
        ASSERT_EQ(call.run(call.options(m, row.name)), "") << what;
        const Results got{call.out(), call.lse()};
        which == 0 ? call.set_q(q) : which == 1 ? call.set_k(k) : call.set_v(v);
        const std::string where = what + (which == 0 ? " bad q" : which == 1 ? " bad k" : " bad v") + " row " + std::to_string(at);
        for (std::int64_t b = 0; b < 2; ++b)
          for (std::int64_t h = 0; h < 2; ++h)
            for (std::int64_t i = 0; i < s.seqlen_q; ++i) {
              const auto out = static_cast<std::size_t>(((b * s.seqlen_q + i) * 2 + h) * s.head_dim_v);
              if (b == 1 || h == 0) {
                for (std::int64_t c = 0; c < s.head_dim_v; ++c)
                  ASSERT_EQ(got.out[out + static_cast<std::size_t>(c)], clean.out[out + static_cast<std::size_t>(c)]) << where << " leaks";
                continue;
              }
              const std::int64_t last = s.mask.right ? i + s.seqlen_k - s.seqlen_q : s.seqlen_k - 1;
              const bool must = last >= 0 && (which == 0 ? i == query : key <= last);
              if (which == 0 && i != query) continue;  // a group of q rows may share the scale
              if (!must) continue;
              bool shown = false;
              for (std::int64_t c = 0; c < s.head_dim_v; ++c) shown = shown || !std::isfinite(got.out[out + static_cast<std::size_t>(c)]);
              // -Inf in a key of method exact is a weight of zero or infinity, as in fp64: only NaN must show there
              const bool legal = m == Method::exact && !std::isnan(bad) && which != 2;
              ASSERT_TRUE(shown || legal) << where << " is lost in output row " << i;
            }
      }
    });
  }
}

TEST(Hostile, ZerosAreExact) {
  for (int n = 0; n < effort(30); ++n) {
    TestCall call(shape(static_cast<std::uint64_t>(n) + 2000));
    const CallSpec& s = call.spec();
    const auto q = call.q(), v = call.v();
    for_each_row(call, [&](const core::Kernel& row, Method m, const std::string& what) {
      call.set_v(std::vector<float>(v.size(), 0.0f));
      ASSERT_EQ(call.run(call.options(m, row.name)), "") << what;
      for (float x : call.out()) ASSERT_EQ(x, 0.0f) << what << ": V = 0";
      call.set_v(v);
      call.set_q(std::vector<float>(q.size(), 0.0f));  // uniform weights: lse = ln(visible keys)
      ASSERT_EQ(call.run(call.options(m, row.name)), "") << what;
      for (std::int64_t b = 0; b < 2; ++b)
        for (std::int64_t i = 0; i < s.seqlen_q; i += 3) {
          const OracleRow exact = oracle_row(call.args(), call.options(m), b, 0, i);
          if (exact.visible == 0) continue;
          ASSERT_NEAR(read_lse(call.args(), b, 0, i), std::log(static_cast<double>(exact.visible)), 1e-5) << what << ": q = 0";
        }
      call.set_q(q);
    });
  }
}

}  // namespace
}  // namespace chitu::test
