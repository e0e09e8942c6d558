// The number of threads, the order of work and other callers change no bit.

#include <gtest/gtest.h>

#include <atomic>
#include <stdexcept>
#include <thread>

#include "common/effort.h"
#include "common/random_spec.h"
#include "common/rows.h"

namespace chitu::test {
namespace {

CallSpec several_items(std::uint64_t n) {
  CallSpec s = random_spec(55, n);
  s.batch = 2;
  if (!s.lens_q.empty()) s.lens_q = {30, 0, 45}, s.lens_k = {140, 10, 77};
  if (s.lens_q.empty() && !s.lens_k.empty()) s.lens_k.assign(2, 1);
  s.heads_kv = 2;
  s.heads_q = 4;
  s.seqlen_k = std::max<std::int64_t>(s.seqlen_k, 150);
  if (!s.lens_q.empty()) s.lens_k = {140, 10, 77};
  return s;
}

struct RestoreThreads {
  ~RestoreThreads() {
    set_parallel_for({});
    set_num_threads(0);
  }
};

TEST(Parallel, ThreadCountsGiveTheSameBits) {
  const RestoreThreads restore;
  for (int n = 0; n < effort(12); ++n) {
    TestCall call(several_items(static_cast<std::uint64_t>(n)));
    for (const core::Kernel* row : cpu_rows(false))
      for (Method m : served_methods(*row, call)) {
        Results first;
        for (int threads : {1, 2, 3, 8}) {
          set_num_threads(threads);
          EXPECT_EQ(num_threads(), threads);
          ASSERT_EQ(call.run(call.options(m, row->name)), "") << row->name << ", " << call.spec().text();
          const Results r{call.out(), call.lse()};
          if (threads == 1) first = r;
          EXPECT_TRUE(same_bits(r.out, first.out) && same_bits(r.lse, first.lse)) << row->name << " with " << threads << " threads, " << call.spec().text();
        }
      }
  }
}

TEST(Parallel, RepeatedRunsGiveTheSameBits) {
  const RestoreThreads restore;
  set_num_threads(4);
  TestCall call(several_items(3));
  for (const core::Kernel* row : cpu_rows(false))
    for (Method m : served_methods(*row, call)) {
      Results first;
      for (int round = 0; round < effort(30); ++round) {
        ASSERT_EQ(call.run(call.options(m, row->name)), "");
        const Results r{call.out(), call.lse()};
        if (round == 0) first = r;
        ASSERT_TRUE(same_bits(r.out, first.out) && same_bits(r.lse, first.lse)) << row->name << " round " << round;
      }
    }
}

TEST(Parallel, CallersOnSeveralThreads) {
  const RestoreThreads restore;
  set_num_threads(2);
  std::vector<CallSpec> specs;
  for (std::uint64_t n = 0; n < 4; ++n) specs.push_back(several_items(n + 20));
  std::vector<Results> want(specs.size());
  auto run_one = [&](std::size_t i) {
    TestCall call(specs[i]);
    attention(call.args(), call.options(Method::chitu_int8));
    return Results{call.out(), call.lse()};
  };
  for (std::size_t i = 0; i < specs.size(); ++i) want[i] = run_one(i);
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < 8; ++t) {
    threads.emplace_back([&, t] {
      for (int round = 0; round < effort(20) + 1; ++round) {
        const std::size_t i = (t + static_cast<std::size_t>(round)) % specs.size();
        const Results r = run_one(i);
        wrong += !same_bits(r.out, want[i].out) || !same_bits(r.lse, want[i].lse);
      }
    });
  }
  for (auto& t : threads) t.join();
  EXPECT_EQ(wrong, 0);
}

TEST(Parallel, AHostFrameworksLoop) {
  const RestoreThreads restore;
  TestCall call(several_items(5));
  const AttentionOptions options = call.options(Method::chitu_int8);
  ASSERT_EQ(call.run(options), "");
  const Results want{call.out(), call.lse()};
  std::atomic<int> loops{0};
  set_parallel_for([&](std::int64_t n, const std::function<void(std::int64_t)>& body) {  // backwards, and on two threads
    ++loops;
    std::thread half([&] {
      for (std::int64_t i = n - 1; i >= n / 2; --i) body(i);
    });
    for (std::int64_t i = n / 2 - 1; i >= 0; --i) body(i);
    half.join();
  });
  ASSERT_EQ(call.run(options), "");
  EXPECT_GT(loops, 0);
  EXPECT_TRUE(same_bits(call.out(), want.out) && same_bits(call.lse(), want.lse));
  set_parallel_for([](std::int64_t, const std::function<void(std::int64_t)>&) { throw std::runtime_error("the framework's own"); });
  EXPECT_THROW(attention(call.args(), options), std::runtime_error);
  set_parallel_for({});
  ASSERT_EQ(call.run(options), "") << "usable after an exception";
  EXPECT_TRUE(same_bits(call.out(), want.out));
}

TEST(Parallel, DefaultThreads) {
  set_num_threads(0);
  EXPECT_GE(num_threads(), 1);
}

}  // namespace
}  // namespace chitu::test
