// merge_states: argument checks, the formula in fp64, identities, and parts of a call against the whole.

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <random>

#include "common/bad_call.h"
#include "common/effort.h"
#include "common/rows.h"

namespace chitu::test {
namespace {

constexpr Device kCuda{DeviceType::cuda, 99};

struct Part {
  std::int64_t rows = 5, heads = 3, dim = 20;
  std::vector<float> out = std::vector<float>(static_cast<std::size_t>(rows * heads * dim)), lse = std::vector<float>(static_cast<std::size_t>(rows * heads));
  TensorView out_view() { return contiguous_view<void*, 4>(out.data(), DType::f32, {1, rows, heads, dim}); }
  LseView lse_view() { return contiguous_view<float*, 3>(lse.data(), DType::f32, {1, heads, rows}); }
};

void merge(Part& a, Part& b) {
  const TensorView v = b.out_view();
  merge_states(a.out_view(), a.lse_view(), {v.data, v.dtype, v.device, v.shape, v.stride}, b.lse_view());
}

Part random_part(std::uint64_t seed, double lse_spread = 3) {
  Part p;
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal;
  for (float& x : p.out) x = static_cast<float>(normal(random));
  for (float& x : p.lse) x = static_cast<float>(lse_spread * normal(random));
  return p;
}

TEST(Merge, TheFormula) {
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    const double spread = seed % 3 == 0 ? 300 : 3;
    Part a = random_part(2 * seed, spread), b = random_part(2 * seed + 1, spread);
    const Part first = a;
    merge(a, b);
    for (std::int64_t i = 0; i < a.rows; ++i)
      for (std::int64_t h = 0; h < a.heads; ++h) {
        const auto l = static_cast<std::size_t>(h * a.rows + i);
        const double top = std::max(first.lse[l], b.lse[l]), wa = std::exp(first.lse[l] - top), wb = std::exp(b.lse[l] - top);
        ASSERT_NEAR(a.lse[l], top + std::log(wa + wb), 4e-7 * (1 + std::fabs(top)));
        for (std::int64_t d = 0; d < a.dim; ++d) {
          const auto o = static_cast<std::size_t>((i * a.heads + h) * a.dim + d);
          // a difference of two f32 logarithms of this size is exact; exp, two products, a sum, a quotient
          const double bar = 8 * 0x1p-24 * (std::fabs(first.out[o]) + std::fabs(b.out[o]));
          ASSERT_NEAR(a.out[o], (wa * first.out[o] + wb * b.out[o]) / (wa + wb), bar);
        }
      }
  }
}

TEST(Merge, AnEmptySideIsTheIdentity) {
  Part a = random_part(1), empty = random_part(2);
  std::fill(empty.lse.begin(), empty.lse.end(), -INFINITY);
  std::fill(empty.out.begin(), empty.out.end(), NAN);  // never read
  const Part before = a;
  merge(a, empty);
  EXPECT_TRUE(same_bits(a.out, before.out) && same_bits(a.lse, before.lse));
  Part b = empty;
  Part copy = before;
  merge(b, copy);
  EXPECT_TRUE(same_bits(b.out, before.out) && same_bits(b.lse, before.lse));
  merge(empty, b = empty);
  for (float x : empty.out) EXPECT_EQ(x, 0.0f);
  for (float x : empty.lse) EXPECT_EQ(x, -INFINITY);
}

TEST(Merge, Commutes) {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    Part a = random_part(seed), b = random_part(seed + 100), a2 = a, b2 = b;
    merge(a, b);
    merge(b2, a2);
    for (std::size_t i = 0; i < a.out.size(); ++i) EXPECT_NEAR(a.out[i], b2.out[i], 8 * 0x1p-24 * (std::fabs(a2.out[i]) + std::fabs(b.out[i])));
    for (std::size_t i = 0; i < a.lse.size(); ++i) EXPECT_NEAR(a.lse[i], b2.lse[i], 1e-6);
  }
}

TEST(Merge, NanPassesThrough) {
  Part a = random_part(1), b = random_part(2);
  a.out[0] = NAN;
  b.lse[1] = NAN;
  merge(a, b);
  EXPECT_TRUE(std::isnan(a.out[0]));
  EXPECT_TRUE(std::isnan(a.lse[1]));
}

TEST(Merge, StridedOperands) {
  Part a = random_part(3), b = random_part(4), plain = a;
  merge(plain, b);
  std::vector<float> memory(2000, 7.0f);
  TensorView out{memory.data(), DType::f32, {}, {1, a.rows, a.heads, a.dim}, {1900, a.dim + 3, (a.dim + 3) * a.rows + 5, 1}};
  std::vector<float> sums(100, 7.0f);
  const LseView lse{sums.data(), DType::f32, {}, {1, a.heads, a.rows}, {90, 2, 7}};
  for (std::int64_t i = 0; i < a.rows; ++i)
    for (std::int64_t h = 0; h < a.heads; ++h) {
      for (std::int64_t d = 0; d < a.dim; ++d)
        memory[static_cast<std::size_t>(i * out.stride[1] + h * out.stride[2] + d)] = a.out[static_cast<std::size_t>((i * a.heads + h) * a.dim + d)];
      sums[static_cast<std::size_t>(h * 2 + i * 7)] = a.lse[static_cast<std::size_t>(h * a.rows + i)];
    }
  const TensorView v = b.out_view();
  merge_states(out, lse, {v.data, v.dtype, v.device, v.shape, v.stride}, b.lse_view());
  for (std::int64_t i = 0; i < a.rows; ++i)
    for (std::int64_t h = 0; h < a.heads; ++h) {
      for (std::int64_t d = 0; d < a.dim; ++d)
        ASSERT_EQ(memory[static_cast<std::size_t>(i * out.stride[1] + h * out.stride[2] + d)],
                  plain.out[static_cast<std::size_t>((i * a.heads + h) * a.dim + d)]);
      ASSERT_EQ(sums[static_cast<std::size_t>(h * 2 + i * 7)], plain.lse[static_cast<std::size_t>(h * a.rows + i)]);
    }
  EXPECT_EQ(memory[static_cast<std::size_t>(a.dim)], 7.0f) << "between rows";
}

/// Parts of the keys, merged, are the whole: with the true lse, also for the methods that subtract means (their parts subtract other ones), on a K whose
/// mean drifts. Cut at tiles of 128, so own methods quantize the same groups.
TEST(Merge, PartsOfTheKeysAreTheWhole) {
  for (int parts : {2, 3, 5}) {
    if (parts != 3 && effort(100) < 100) continue;
    for (const char* set : {"1", "drift", "segments"}) {
      CallSpec spec;
      spec.seqlen_q = 40;
      spec.seqlen_k = 1280;
      spec.head_dim = spec.head_dim_v = 64;
      spec.dtype = DType::f32;
      spec.input_set = set;
      TestCall whole(spec);
      for (Method m : list_methods()) {
        const AttentionOptions options = whole.options(m);
        Part sum;
        sum.rows = 40, sum.heads = 1, sum.dim = 64;
        sum.out.assign(40 * 64, 0.0f);
        sum.lse.assign(40, -INFINITY);
        for (int p = 0; p < parts; ++p) {
          const std::int64_t first = 10 * p / parts * 128, last = 10 * (p + 1) / parts * 128;
          CallSpec piece = spec;
          piece.seqlen_k = last - first;
          TestCall part(piece);
          part.set_q(whole.q());
          part.set_k({whole.k().begin() + first * 64, whole.k().begin() + last * 64});
          part.set_v({whole.v().begin() + first * 64, whole.v().begin() + last * 64});
          ASSERT_EQ(part.run(options), "");
          Part result;
          result.rows = 40, result.heads = 1, result.dim = 64;
          result.out = part.out();
          result.lse = part.lse();
          merge(sum, result);
        }
        ASSERT_EQ(whole.run(options), "");
        const Results merged{sum.out, sum.lse};
        const std::string name(plan(whole.args(), options).kernel());
        for (const core::Kernel* row : cpu_rows(true)) {
          if (name != row->name) continue;
          const AccuracySample sample = accuracy(whole, options, executed_scheme(*row, whole, m), merged, 10);
          EXPECT_EQ(sample.failure, "") << name << " set " << set;
          EXPECT_LE(sample.worst_lse, 1.0) << name << " for " << method_name(m) << " set " << set << " parts " << parts;
          if (sample.rows >= 10 && m != Method::exact) {
            EXPECT_LE(sample.z(), 1.5) << name << " for " << method_name(m) << " set " << set << " parts " << parts;
          }
        }
      }
    }
  }
}

TEST(Merge, BadCallsNameTheirArgument) {
  using MergeChange = std::function<void(MergeOperands&)>;
  const std::tuple<const char*, MergeChange, const char*> calls[] = {
      {"out null", [](MergeOperands& m) { m.out.data = nullptr; }, "out.data"},
      {"out_b null", [](MergeOperands& m) { m.out_b.data = nullptr; }, "out_b.data"},
      {"lse null", [](MergeOperands& m) { m.lse.data = nullptr; }, "lse.data"},
      {"lse_b null", [](MergeOperands& m) { m.lse_b.data = nullptr; }, "lse_b.data"},
      {"out f16", [](MergeOperands& m) { m.out.dtype = DType::f16; }, "out.dtype"},
      {"out_b bf16", [](MergeOperands& m) { m.out_b.dtype = DType::bf16; }, "out_b.dtype"},
      {"out_b size", [](MergeOperands& m) { m.out_b.shape[1] = 2; }, "out_b.shape"},
      {"lse size", [](MergeOperands& m) { m.lse.shape[2] = 2; }, "lse.shape"},
      {"lse_b size", [](MergeOperands& m) { m.lse_b.shape[1] = 3; }, "lse_b.shape"},
      {"lse f16", [](MergeOperands& m) { m.lse.dtype = DType::f16; }, "lse.dtype"},
      {"out strided along head_dim", [](MergeOperands& m) { m.out.stride[3] = 2; }, "out.stride[3]"},
      {"out broadcast", [](MergeOperands& m) { m.out.stride[1] = 0; }, "out.stride["},
      {"lse broadcast", [](MergeOperands& m) { m.lse.stride[2] = 0; }, "lse.stride["},
      {"out_b elsewhere", [](MergeOperands& m) { m.out_b.device = kCuda; }, "out_b.device"},
      {"lse_b elsewhere", [](MergeOperands& m) { m.lse_b.device = kCuda; }, "lse_b.device"},
      {"out negative size", [](MergeOperands& m) { m.out.shape[2] = -1; }, "out.shape"},
  };
  for (const auto& [what, change, begins] : calls) {
    MergeOperands m;
    change(m);
    const std::string got = refusal([&] { merge_states(m.out, m.lse, m.out_b, m.lse_b); });
    EXPECT_EQ(got.rfind(std::string("InvalidArgument: ") + begins, 0), 0u) << what << ": " << got;
  }
}

}  // namespace
}  // namespace chitu::test
