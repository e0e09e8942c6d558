// Every seqlen_k 1..130 with every head_dim 1..256: 33,280 calls whose rows and methods take turns. V = 1 shows one key too many or too few wherever the
// normaliser is that of the same weights; NaN behind the last key (layouts gaps and odd) shows every read beyond it; every eighth call is compared with the
// specification.

#include <gtest/gtest.h>

#include <cmath>

#include "common/effort.h"
#include "common/rows.h"

namespace chitu::test {
namespace {

constexpr int kLengths = 130, kDims = 256, kBlocks = 26;

CallSpec spec_of(int seqlen_k, int head_dim, int turn) {
  CallSpec s;
  s.seqlen_q = 1 + turn % 3;
  s.seqlen_k = seqlen_k;
  s.head_dim = head_dim;
  s.head_dim_v = turn % 5 == 0 ? 1 + (head_dim * 7 + seqlen_k) % kDims : head_dim;
  s.dtype = turn % 4 == 3 ? DType::bf16 : turn % 4 == 2 ? DType::f32 : DType::f16;
  s.layout = turn % 2 == 0 ? Layout::gaps : Layout::odd;
  if (turn % 7 == 0 && s.seqlen_k >= s.seqlen_q) s.mask = Mask::causal();
  s.seed = static_cast<std::uint64_t>(turn) + 1;
  return s;
}

class Lengths : public testing::TestWithParam<int> {};

TEST_P(Lengths, EveryLengthAndHeadDim) {
  int turn = GetParam() * 7919;
  const int stride = effort(100) >= 100 ? 1 : 100 / effort(100);  // less effort: fewer head_dims per length, still all of them over the lengths
  for (int n = GetParam() * kLengths / kBlocks + 1; n <= (GetParam() + 1) * kLengths / kBlocks; ++n) {
    for (int d = 1 + n % stride; d <= kDims; d += stride) {
      ++turn;
      TestCall call(spec_of(n, d, turn));
      std::vector<std::pair<const core::Kernel*, Method>> choices;
      for (const core::Kernel* row : cpu_rows(turn % 16 == 0))
        for (Method m : served_methods(*row, call)) choices.emplace_back(row, m);
      const auto [row, method] = choices[static_cast<std::size_t>(turn) % choices.size()];
      const std::string what = std::string(row->name) + " for " + std::string(method_name(method)) + ", " + call.spec().text();
      const AttentionOptions options = call.options(method, row->name);
      const core::Scheme scheme = executed_scheme(*row, call, method);
      if (turn % 8 == 0) {
        ASSERT_EQ(call.run(options), "") << what;
        const Results got{call.out(), call.lse()};
        ASSERT_EQ(accuracy(call, options, scheme, got, 1).failure, "") << what;
        if (method == Method::exact || row->reference) continue;
        TightComparison tight(scheme.p);
        ASSERT_EQ(tight.add(call, got, run_specification(call, scheme)), "") << what;
        ASSERT_LE(static_cast<double>(tight.ties()), tight.expected_ties()) << what;
        continue;
      }
      call.set_v(std::vector<float>(call.v().size(), 1.0f));
      ASSERT_EQ(call.run(options), "") << what;
      // At most 130 keys: a lost or doubled one moves a raw sum by its weight too, beyond the rounding of P allowed here unless it weighs that little.
      const bool raw = scheme.p_sum == core::PSum::raw;
      const double bar = !raw                              ? 1e-5
                         : scheme.p == core::PFormat::f32  ? 1e-5
                         : scheme.p == core::PFormat::f16  ? 0x1p-7
                         : scheme.p == core::PFormat::bf16 ? 0x1p-8
                                                           : 0.5;
      for (float x : call.out()) ASSERT_NEAR(x, 1.0f, bar) << what;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Blocks, Lengths, testing::Range(0, kBlocks));

/// One side empty, or a single row or key, in every combination.
TEST(Lengths, NothingAndAlmostNothing) {
  for (std::int64_t batch : {0, 1, 2})
    for (std::int64_t seqlen_q : {0, 1, 2})
      for (std::int64_t seqlen_k : {0, 1, 2})
        for (std::int64_t dim : {1, 64, 256}) {
          CallSpec s;
          s.batch = batch;
          s.seqlen_q = seqlen_q;
          s.seqlen_k = seqlen_k;
          s.head_dim = s.head_dim_v = dim;
          TestCall call(s);
          for (const core::Kernel* row : cpu_rows(true))
            for (Method m : served_methods(*row, call)) {
              ASSERT_EQ(call.run_checked(call.options(m, row->name)), "") << row->name << ", " << s.text();
              for (float x : call.out()) ASSERT_TRUE(seqlen_k == 0 ? x == 0.0f : std::isfinite(x)) << row->name << ", " << s.text();
              for (float x : call.lse()) ASSERT_TRUE(seqlen_k == 0 ? x == -INFINITY : std::isfinite(x)) << row->name << ", " << s.text();
            }
        }
}

}  // namespace
}  // namespace chitu::test
