// Random small calls, each on a random row for a random method that it serves: against the specification of its scheme and against fp64. Every case is
// reproducible by its number: CHITU_TEST_CASE=n runs that one alone. tests/CMakeLists.txt spreads the blocks over shards and instruction sets.

#include <gtest/gtest.h>

#include <map>

#include "common/effort.h"
#include "common/random_spec.h"
#include "common/rows.h"

namespace chitu::test {
namespace {

constexpr int kBlocks = 48;
constexpr int kCasesPerBlock = 450;  // 21,600 in all
constexpr std::uint64_t kSeed = 20260;

struct Pooled {
  AccuracySample accuracy;
  std::map<core::PFormat, TightComparison> tight;
};

void run_case(std::uint64_t number, std::map<Method, Pooled>& pools) {
  TestCall call(random_spec(kSeed, number));
  std::vector<std::pair<const core::Kernel*, Method>> choices;
  for (const core::Kernel* row : cpu_rows(false))
    for (Method m : served_methods(*row, call)) choices.emplace_back(row, m);
  const auto [row, method] = choices[(number * 2654435761u >> 7) % choices.size()];
  const std::string what = "case " + std::to_string(number) + ", " + row->name + " for " + std::string(method_name(method)) + ", ";
  const AttentionOptions options = call.options(method, row->name);
  ASSERT_EQ(call.run_checked(options), "") << what << call.spec().text();
  const Results got{call.out(), call.lse()};
  const core::Scheme scheme = executed_scheme(*row, call, method);
  const AccuracySample sample = accuracy(call, options, scheme, got, 2);
  ASSERT_EQ(sample.failure, "") << what;
  ASSERT_LE(sample.worst_row, 6.0) << what << call.spec().text();
  // Random shapes include ones whose few roundings are not independent, where the model's sigma is up to half again too small.
  ASSERT_LE(sample.worst_lse, 1.5) << what << call.spec().text();
  Pooled& pool = pools[method];
  pool.accuracy.merge(sample);
  if (method == Method::exact) return;
  const std::string fault = pool.tight.try_emplace(scheme.p, scheme.p).first->second.add(call, got, run_specification(call, scheme));
  ASSERT_EQ(fault, "") << what;
}

class Differential : public testing::TestWithParam<int> {};

TEST_P(Differential, AgreesWithSpecificationAndFp64) {
  std::map<Method, Pooled> pools;
  if (const char* only = std::getenv("CHITU_TEST_CASE")) {
    if (GetParam() == 0) run_case(std::strtoull(only, nullptr, 10), pools);
    return;
  }
  const int cases = effort(kCasesPerBlock);
  for (int i = 0; i < cases; ++i) {
    run_case(static_cast<std::uint64_t>(GetParam() * kCasesPerBlock + i), pools);
    if (HasFatalFailure()) return;
  }
  for (auto& [method, pool] : pools) {
    for (auto& [p, tight] : pool.tight) {
      EXPECT_LE(static_cast<double>(tight.ties()), tight.expected_ties()) << method_name(method) << ", " << tight.rows() << " rows";
    }
    EXPECT_LE(static_cast<double>(pool.accuracy.lse_over), 1 + 1e-4 * static_cast<double>(pool.accuracy.rows)) << method_name(method);
    if (pool.accuracy.rows < 100) continue;
    // Too small fails as well: a rounding that the method prescribes did not happen.
    EXPECT_GE(pool.accuracy.z(), 0.6) << method_name(method) << ", " << pool.accuracy.rows << " rows";
    EXPECT_LE(pool.accuracy.z(), 1.5) << method_name(method) << ", " << pool.accuracy.rows << " rows";
  }
  RecordProperty("cases", cases);
}

INSTANTIATE_TEST_SUITE_P(Blocks, Differential, testing::Range(0, kBlocks));

}  // namespace
}  // namespace chitu::test
