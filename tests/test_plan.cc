// Which row serves a call, why the others do not, and what a plan promises.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <set>
#include <thread>

#include "common/bad_call.h"
#include "core/env.h"
#include "core/policy.h"
#include "registry.h"

namespace chitu::test {
namespace {

constexpr Device kCpu{};

/// A CPU call of any size without memory: plan() reads no tensor contents.
struct LargeCall {
  AttentionArgs args;
  AttentionOptions options;
  LargeCall(std::int64_t seqlen_q, std::int64_t seqlen_k, DType dtype = DType::f16, std::int64_t head_dim = 64) {
    // far apart, because out must not overlap an input
    auto at = [](std::uintptr_t slot) { return reinterpret_cast<char*>(slot << 40); };
    args.q = contiguous_view<const void*, 4>(at(1), dtype, {1, seqlen_q, 8, head_dim});
    args.k = contiguous_view<const void*, 4>(at(2), dtype, {1, seqlen_k, 8, head_dim});
    args.v = contiguous_view<const void*, 4>(at(3), dtype, {1, seqlen_k, 8, head_dim});
    args.out = contiguous_view<void*, 4>(at(4), dtype, {1, seqlen_q, 8, head_dim});
  }
};

bool is_reference(const std::string& name) {
  for (const core::Backend* backend : backends(DeviceType::cpu))
    for (const core::Kernel& row : backend->kernels)
      if (name == row.name) return row.reference;
  ADD_FAILURE() << "no row " << name;
  return false;
}

TEST(Plan, RowsHaveDistinctNamesAndReasons) {
  std::set<std::string> names;
  for (const KernelInfo& info : list_kernels(kCpu)) {
    EXPECT_TRUE(names.insert(info.name).second) << info.name;
    EXPECT_EQ(info.device, DeviceType::cpu);
    EXPECT_EQ(info.reason.find('\n'), std::string::npos) << info.name;
  }
  EXPECT_GE(names.size(), 3u);
}

TEST(Plan, ExplainNamesEveryRowAndAgreesWithPlan) {
  for (Method m : list_methods()) {
    for (DType t : {DType::f32, DType::f16, DType::bf16}) {
      LargeCall call(512, 2048, t);
      call.options.method = m;
      const auto rows = explain(call.args, call.options);
      EXPECT_EQ(rows.size(), list_kernels(kCpu).size());
      std::string chosen;
      bool unverified_seen = false;
      for (const KernelInfo& row : rows) {
        EXPECT_EQ(row.method, m);
        EXPECT_FALSE(row.verified && unverified_seen) << "verified rows go first: " << row.name;
        unverified_seen = unverified_seen || !row.verified;
        if (row.chosen) {
          EXPECT_EQ(chosen, "") << "two rows are chosen";
          EXPECT_EQ(row.reason, "");
          chosen = row.name;
        } else {
          EXPECT_NE(row.reason, "") << row.name;
        }
      }
      ASSERT_NE(chosen, "") << method_name(m) << " must run on a CPU, if only by its specification";
      const Plan p = plan(call.args, call.options);
      EXPECT_EQ(p.kernel(), chosen);
      EXPECT_EQ(p.method(), m);
      EXPECT_NE(p.describe().find(chosen), std::string::npos);
      EXPECT_NE(p.describe().find(method_name(m)), std::string::npos);
    }
  }
}

TEST(Plan, ForcedKernelIsTakenOrRefusedNeverReplaced) {
  int served = 0;
  for (Method m : list_methods()) {
    for (const KernelInfo& info : list_kernels(kCpu)) {
      LargeCall call(512, 2048);
      call.options.method = m;
      call.options.kernel = info.name;
      const std::string refused = refusal([&] {
        const Plan p = plan(call.args, call.options);
        EXPECT_EQ(p.kernel(), info.name);
        EXPECT_EQ(p.method(), m);
        ++served;
      });
      if (refused.empty()) continue;
      EXPECT_EQ(refused.rfind("Unsupported: no kernel serves this call", 0), 0u) << refused;
      for (const KernelInfo& row : list_kernels(kCpu)) EXPECT_NE(refused.find("\n  " + row.name + " ("), std::string::npos) << refused;
      EXPECT_NE(refused.find("options.kernel asks for " + info.name), std::string::npos) << refused;
    }
  }
  EXPECT_GE(served, 8) << "at least the specification of every method";
}

TEST(Plan, AForcedKernelAlsoServesAutomatic) {
  for (const KernelInfo& info : list_kernels(kCpu)) {
    LargeCall call(512, 2048);
    call.options.kernel = info.name;
    const std::string refused = refusal([&] { EXPECT_EQ(plan(call.args, call.options).kernel(), info.name); });
    if (!refused.empty()) {
      EXPECT_EQ(refused.rfind("Unsupported", 0), 0u) << refused;
    }
  }
}

TEST(Plan, AutomaticTakesOnlyWhatItMay) {
  for (DType t : {DType::f32, DType::f16, DType::bf16})
    for (std::int64_t d : {1, 40, 64, 128, 256})
      for (std::int64_t seqlen_q : {1, 17, 300})
        for (std::int64_t seqlen_k : {0, 1, 100, 255, 256, 5000}) {
          LargeCall call(seqlen_q, seqlen_k, t, d);
          const Plan p = plan(call.args, call.options);
          EXPECT_TRUE(p.method() == Method::exact || p.method() == Method::chitu_int8 || p.method() == Method::chitu) << p.describe();
          EXPECT_FALSE(is_reference(std::string(p.kernel()))) << p.describe();
        }
}

TEST(Plan, AutomaticFollowsTheBreakEvenLengths) {
  for (std::int64_t seqlen_q : {1, 7, 8, 64, 300})
    for (std::int64_t seqlen_k : {1, 255, 256, 257, 4096, 100000}) {
      core::Problem p;
      p.num_heads_q = p.num_heads_kv = 8;
      p.seqlen_q = seqlen_q;
      p.seqlen_k = seqlen_k;
      p.head_dim = 64;
      const auto methods = core::automatic_methods(p);
      ASSERT_EQ(methods.size(), 2u);
      EXPECT_EQ(std::count(methods.begin(), methods.end(), Method::exact), 1);
      EXPECT_EQ(std::count(methods.begin(), methods.end(), Method::chitu_fast), 0);
      if (seqlen_k < core::break_even_keys(p) || seqlen_q == 1) {
        EXPECT_EQ(methods.front(), Method::exact) << seqlen_q << " x " << seqlen_k;
      }
      if (seqlen_k >= 4096 && seqlen_q >= 64) {
        EXPECT_EQ(methods.front(), Method::chitu_int8) << seqlen_q << " x " << seqlen_k;
      }
    }
  LargeCall short_call(512, 32), long_call(512, 1 << 20);
  EXPECT_EQ(plan(short_call.args).method(), Method::exact);
  EXPECT_EQ(plan(long_call.args).method(), Method::chitu_int8);
}

TEST(Plan, SizesAreThoseOfTheShapes) {
  LargeCall a(300, 5000), b(300, 5000);
  a.options.method = b.options.method = Method::chitu_int8;
  b.args.q.data = static_cast<const char*>(b.args.q.data) + 4096;
  b.options.softmax_scale = 2.5f;
  EXPECT_EQ(plan(a.args, a.options).workspace_bytes(), plan(b.args, b.options).workspace_bytes());
  LargeCall longer(300, 500000);
  longer.options.method = Method::chitu_int8;
  EXPECT_GT(plan(longer.args, longer.options).workspace_bytes(), plan(a.args, a.options).workspace_bytes());
  LargeCall empty(0, 5000);
  EXPECT_EQ(plan(empty.args).workspace_bytes(), 0u);
}

TEST(Plan, QuantizedKvDecidesTheMethod) {
  ValidCall call(Kind::quantized);
  call.options.method = Method::automatic;
  const std::string refused = refusal([&] { EXPECT_EQ(plan(call.args, call.options).method(), Method::chitu_int8); });
  EXPECT_EQ(refused, "");
}

TEST(Plan, IsTheSameFromEveryThread) {
  std::vector<std::thread> threads;
  std::vector<std::string> texts(8);
  for (std::size_t i = 0; i < texts.size(); ++i) {
    threads.emplace_back([&texts, i] {
      for (int round = 0; round < 50; ++round) {
        LargeCall call(300, 5000);
        texts[i] = plan(call.args, call.options).describe();
      }
    });
  }
  for (auto& t : threads) t.join();
  for (const auto& text : texts) EXPECT_EQ(text, texts[0]);
}

TEST(Plan, NamesOfChituDisable) {
  using Names = std::vector<std::string>;
  EXPECT_EQ(core::parse_disabled(""), Names{});
  EXPECT_EQ(core::parse_disabled("a"), Names{"a"});
  EXPECT_EQ(core::parse_disabled("a,b_c,d"), (Names{"a", "b_c", "d"}));
  for (const char* text : {",", "a,", ",a", "a,,b"}) {
    EXPECT_EQ(refusal([&] { core::parse_disabled(text); }),
              std::string("InvalidArgument: environment CHITU_DISABLE: want names of rows separated by commas, got an empty one in '") + text + "'");
  }
}

// The environment is read once, so each of these runs in a process of its own.
class Environment : public testing::Test {
 protected:
  void SetUp() override { testing::FLAGS_gtest_death_test_style = "threadsafe"; }
};
using EnvironmentDeathTest = Environment;

[[noreturn]] void report(const LargeCall& call) {
  const std::string refused = refusal([&] {
    const Plan p = plan(call.args, call.options);
    std::fprintf(stderr, "took %s by %s\n", std::string(method_name(p.method())).c_str(), std::string(p.kernel()).c_str());
  });
  std::fprintf(stderr, "%s\n", refused.c_str());
  std::exit(0);
}

TEST_F(EnvironmentDeathTest, ChituMethodSaysWhatAutomaticMeans) {
  auto body = [](const char* value, Method asked) {
    setenv("CHITU_METHOD", value, 1);
    LargeCall call(300, 5000);
    call.options.method = asked;
    report(call);
  };
  EXPECT_EXIT(body("sage1", Method::automatic), testing::ExitedWithCode(0), "took sage1 by");
  EXPECT_EXIT(body("sage1", Method::exact), testing::ExitedWithCode(0), "took exact by");
  EXPECT_EXIT(body("", Method::exact), testing::ExitedWithCode(0), "took exact by");
  EXPECT_EXIT(body("sage9", Method::automatic), testing::ExitedWithCode(0), "InvalidArgument: environment CHITU_METHOD: want a method name, got 'sage9'");
}

TEST_F(EnvironmentDeathTest, ChituDisableRemovesRows) {
  std::string all;
  for (const KernelInfo& info : list_kernels(kCpu)) all += (all.empty() ? "" : ",") + info.name;
  auto body = [](const std::string& rows) {
    setenv("CHITU_DISABLE", rows.c_str(), 1);
    LargeCall call(300, 5000);
    call.options.method = Method::exact;
    report(call);
  };
  EXPECT_EXIT(body(all), testing::ExitedWithCode(0), "Unsupported: .*disabled by CHITU_DISABLE");
  EXPECT_EXIT(body(""), testing::ExitedWithCode(0), "took exact by");
  EXPECT_EXIT(body("ref_scheme"), testing::ExitedWithCode(0), "took exact by");
  const std::string want = "InvalidArgument: environment CHITU_DISABLE: want names of rows of this build .*ref_exact.*, got ";
  EXPECT_EXIT(body("no_such_row"), testing::ExitedWithCode(0), want + "'no_such_row'");
  EXPECT_EXIT(body("ref_scheme, ref_exact"), testing::ExitedWithCode(0), want + "' ref_exact'");
  EXPECT_EXIT(body("ref_exact,"), testing::ExitedWithCode(0), "InvalidArgument: environment CHITU_DISABLE: .* got an empty one in 'ref_exact,'");
}

}  // namespace
}  // namespace chitu::test
