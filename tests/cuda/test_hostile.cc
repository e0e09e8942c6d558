// Scores and values at the edge of f32 on the GPU rows: finite in, finite out, and the weights that are left are right.

#include <gtest/gtest.h>

#include <cmath>

#include "common/effort.h"
#include "gpu_call.h"

namespace chitu::test {
namespace {

constexpr Method kMethods[] = {Method::exact, Method::chitu, Method::chitu_int8, Method::chitu_fast, Method::sage1, Method::int_flash, Method::int_flash_half};

CallSpec shape(std::int64_t head_dim, DType dtype) {
  CallSpec s;
  s.seqlen_q = 70, s.seqlen_k = 400, s.heads_q = 2, s.head_dim = s.head_dim_v = head_dim;
  s.dtype = dtype;
  s.out_dtype = DType::f32;
  return s;
}

/// Keys +-a along q, q = q0 for all rows: the even keys share all weight, however large the logits are. Value j has only channel j % 2.
void two_kinds_of_keys(TestCall& call, float q0, float a, bool biased) {
  const CallSpec& s = call.spec();
  std::vector<float> q(call.q().size(), q0), k(call.k().size()), v(call.v().size());
  for (std::size_t i = 0; i < k.size(); ++i) {
    const bool even = i / static_cast<std::size_t>(s.head_dim * s.heads_kv) % 2 == 0;
    k[i] = even ? a : biased ? 0.5f * a : -a;
  }
  for (std::size_t i = 0; i < v.size(); ++i) {
    const std::size_t row = i / static_cast<std::size_t>(s.head_dim_v * s.heads_kv), d = i % static_cast<std::size_t>(s.head_dim_v);
    v[i] = row % 2 == d % 2 ? 1.0f : 0.0f;
  }
  call.set_q(q);
  call.set_k(k);
  call.set_v(v);
}

TEST(RowsHostile, HugeScoresKeepTheirWeights) {
  CHITU_NEED_GPU();
  int turn = 0;
  for (std::int64_t dim : {64, 128, 256})
    for (DType dtype : {DType::f16, DType::bf16})
      for (Method m : kMethods) {
        // logits 2^10 .. 2^35 nats for f16 (values below 65504), further for bf16
        for (float size : {4.0f, 64.0f, 1024.0f, 8192.0f, 32768.0f}) {
          for (bool biased : {false, true}) {
            TestCall call(shape(dim, dtype));
            two_kinds_of_keys(call, size, size, biased);
            GpuCall gpu(call);
            AttentionOptions options = call.options(m);
            if (m == Method::sage1) options.scheme.pv_accumulation = turn++ / 2 % 2 == 0 ? PvAccumulation::fp32 : PvAccumulation::fp16_fp32;
            for (const std::string& row : gpu.rows(options)) {
              const std::string what = row + " for " + std::string(method_name(m)) + " head_dim " + std::to_string(dim) + " size " + std::to_string(size);
              options.kernel = row;
              ASSERT_EQ(gpu.run(options), "") << what;
              const auto out = call.out();
              for (std::size_t i = 0; i < out.size(); ++i) ASSERT_NEAR(out[i], i % 2 == 0 ? 1.0f : 0.0f, 0.02f) << what << ", element " << i;
              for (float x : call.lse()) ASSERT_TRUE(std::isfinite(x)) << what;
            }
          }
        }
      }
}

/// Outlier tokens that c[d] has not sampled, in channels whose weights differ by 1e4: what the correction puts back is no larger than V.
TEST(RowsHostile, TheCorrectionStaysWithinV) {
  CHITU_NEED_GPU();
  for (int n = 0; n < effort(20); ++n) {
    CallSpec s = shape(64, DType::f16);
    s.seed = static_cast<std::uint64_t>(n);
    s.softmax_scale = 0.05f + 0.02f * static_cast<float>(n % 7);
    TestCall call(s);
    auto v = call.v();
    float largest = 0;
    for (std::size_t i = 0; i < v.size(); ++i) {
      const std::size_t row = i / static_cast<std::size_t>(s.head_dim_v * s.heads_kv), d = i % static_cast<std::size_t>(s.head_dim_v);
      if (d < 8)
        v[i] *= row % 8 == 3 ? 6e2f : 1e-2f;  // tokens 3, 11, ..: never sampled
      else
        v[i] = 3e4f + 3e2f * v[i];
      largest = std::max(largest, std::fabs(v[i]));
    }
    call.set_v(v);
    GpuCall gpu(call);
    for (const std::string& row : gpu.rows(call.options(Method::chitu_int8))) {
      ASSERT_EQ(gpu.run(call.options(Method::chitu_int8, row)), "") << row;
      for (float x : call.out()) ASSERT_LE(std::fabs(x), 2 * largest) << row << " case " << n;
    }
  }
}

}  // namespace
}  // namespace chitu::test
