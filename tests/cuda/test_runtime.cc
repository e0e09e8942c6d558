// Streams, graphs, threads, determinism, caches of quantized K and V, merging, offsets beyond 2^32.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <thread>
#include <utility>

#include "common/effort.h"
#include "core/codec.h"
#include "gpu_call.h"

namespace chitu::test {
namespace {

constexpr Method kMethods[] = {Method::exact, Method::chitu, Method::chitu_int8, Method::chitu_fast,
                               Method::sage1, Method::sage2, Method::int_flash,  Method::int_flash_half};

CallSpec small_call() {
  CallSpec s;
  s.batch = 2, s.seqlen_q = 100, s.seqlen_k = 700, s.heads_q = 4, s.heads_kv = 2, s.head_dim = s.head_dim_v = 64;
  s.mask = Mask::causal();
  s.input_set = "6";  // key weights other than 1
  return s;
}

class Stream_ {
 public:
  Stream_() { CUDA_OK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking)); }
  ~Stream_() { cudaStreamDestroy(stream_); }
  operator cudaStream_t() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

class CudaRuntime : public testing::TestWithParam<Method> {};

/// 1000 runs beside other work, and the results of every 20th.
TEST_P(CudaRuntime, SameBitsEveryTime) {
  CHITU_NEED_GPU();
  TestCall host(small_call());
  GpuCall gpu(host);
  CallSpec busy_spec = small_call();
  busy_spec.seed = 9;
  TestCall busy_host(busy_spec);
  GpuCall busy(busy_host);
  const Stream_ main, side;
  gpu.with_every_row(host.options(GetParam()), 0, [&](const AttentionOptions& o) {
    ASSERT_EQ(gpu.run(o), "");
    const auto out = host.out(), lse = host.lse();
    const Plan p = plan(gpu.args(), o);
    DeviceBuffer workspace(p.workspace_bytes()), other(p.workspace_bytes());
    settle();
    for (int i = 0; i < 1000; ++i) {
      chitu::run(p, busy.args(), other.data(), static_cast<cudaStream_t>(side));
      chitu::run(p, gpu.args(), workspace.data(), static_cast<cudaStream_t>(main));
      if (i % 20 != 19) continue;
      settle();
      gpu.download_results();
      ASSERT_TRUE(same_bits(out, host.out()) && same_bits(lse, host.lse())) << i;
    }
  });
}

TEST_P(CudaRuntime, AGraphReplaysIt) {
  CHITU_NEED_GPU();
  TestCall host(small_call());
  GpuCall gpu(host);
  const auto k = host.k(), q = host.q();
  auto other_k = k, other_q = q;
  for (float& x : other_k) x = core::round_f16(x * 1.5f + 0.25f);
  for (float& x : other_q) x = core::round_f16(0.5f - x);
  gpu.with_every_row(host.options(GetParam()), 0, [&](const AttentionOptions& o) {
    const Plan p = plan(gpu.args(), o);
    DeviceBuffer workspace(p.workspace_bytes());
    const Stream_ stream;
    settle();
    chitu::run(p, gpu.args(), workspace.data(), static_cast<cudaStream_t>(stream));  // loads the kernels
    CUDA_OK(cudaStreamSynchronize(stream));
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    CUDA_OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    chitu::run(p, gpu.args(), workspace.data(), static_cast<cudaStream_t>(stream));
    CUDA_OK(cudaStreamEndCapture(stream, &graph));
    CUDA_OK(cudaGraphInstantiate(&exec, graph, 0));
    host.set_k(other_k);
    host.set_q(other_q);
    gpu.refresh_inputs();
    settle();
    CUDA_OK(cudaGraphLaunch(exec, stream));
    CUDA_OK(cudaStreamSynchronize(stream));
    gpu.download_results();
    const auto out = host.out(), lse = host.lse();
    ASSERT_EQ(gpu.run(o), "");
    EXPECT_TRUE(same_bits(out, host.out()) && same_bits(lse, host.lse()));
    CUDA_OK(cudaGraphExecDestroy(exec));
    CUDA_OK(cudaGraphDestroy(graph));
    host.set_k(k);
    host.set_q(q);
    gpu.refresh_inputs();
  });
}

TEST_P(CudaRuntime, TwoThreadsTwoStreams) {
  CHITU_NEED_GPU();
  CallSpec specs[2] = {small_call(), small_call()};
  specs[1].seed = 5;
  TestCall first(specs[0]);
  GpuCall(first).with_every_row(first.options(GetParam()), 0, [&](const AttentionOptions& o) {
    std::vector<float> want[2], got[2];
    for (int i = 0; i < 2; ++i) {
      TestCall host(specs[i]);
      GpuCall gpu(host);
      ASSERT_EQ(gpu.run(o), "");
      want[i] = host.out();
    }
    auto work = [&](int i) {
      TestCall host(specs[i]);
      GpuCall gpu(host);
      const Stream_ stream;
      settle();
      for (int n = 0; n < 20; ++n) chitu::attention(gpu.args(), o, static_cast<cudaStream_t>(stream));
      CUDA_OK(cudaStreamSynchronize(stream));
      gpu.download_results();
      got[i] = host.out();
    };
    std::thread a(work, 0), b(work, 1);
    a.join();
    b.join();
    EXPECT_TRUE(same_bits(want[0], got[0]) && same_bits(want[1], got[1]));
  });
}

/// More pieces of work than a persistent kernel has blocks, of different lengths: heads that hold the same have the same bits, and those of a call of one head.
void expect_the_same_in_turn(Method method, const CallSpec& one) {
  const std::int64_t sms = cuda::backend().caps({DeviceType::cuda, 0}).sm_count;
  CallSpec many = one;
  many.heads_q = many.heads_kv = sms;  // two to five pieces each
  TestCall single(one), host(many);
  const auto repeated = [&](const std::vector<float>& head) {
    std::vector<float> all;
    all.reserve(head.size() * static_cast<std::size_t>(sms));
    for (auto row = head.begin(); row != head.end(); row += one.head_dim)
      for (std::int64_t h = 0; h < sms; ++h) all.insert(all.end(), row, row + one.head_dim);
    return all;
  };
  host.set_q(repeated(single.q()));
  host.set_k(repeated(single.k()));
  host.set_v(repeated(single.v()));
  GpuCall gpu_one(single), gpu(host);
  gpu.with_every_row(host.options(method), 0, [&](const AttentionOptions& o) {
    ASSERT_EQ(gpu_one.run(o), "");
    ASSERT_EQ(gpu.run(o), "");
    const auto out = single.out();
    EXPECT_TRUE(std::any_of(out.begin(), out.end(), [](float x) { return std::fabs(x) > 1e-3f; })) << one.text();
    EXPECT_TRUE(same_bits(repeated(out), host.out())) << one.text();
    const auto lse = single.lse(), all = host.lse();
    if (one.seqlen_k > one.seqlen_q) {
      EXPECT_GT(lse[0], 1.0f) << "row 0 sees 41 keys: " << one.text();
    } else {
      EXPECT_EQ(lse[0], -std::numeric_limits<float>::infinity()) << "row 0 sees no key: " << one.text();
    }
    for (std::int64_t h = 0; h < sms; ++h) {
      const auto first = all.begin() + h * one.seqlen_q;
      EXPECT_TRUE(same_bits(lse, std::vector<float>(first, first + one.seqlen_q))) << h << ": " << one.text();
    }
  });
}

TEST_P(CudaRuntime, PiecesInTurn) {
  CHITU_NEED_GPU();
  for (std::int64_t dim : {64, 96, 128, 256}) {
    for (std::int64_t keys : {300, 60}) {  // pieces of odd and even numbers of tiles; pieces of one tile after pieces without any
      CallSpec one;
      one.seqlen_q = 260, one.seqlen_k = keys, one.heads_q = one.heads_kv = 1, one.head_dim = one.head_dim_v = dim;
      one.mask = Mask::causal();
      expect_the_same_in_turn(GetParam(), one);
    }
  }
}

/// A blob made by quantize_kv gives what k and v give, bit for bit. `turn`: as in GpuCall::with_every_row.
void expect_the_same_from_a_cache(const CallSpec& s, Method method, int turn) {
  TestCall host(s);
  GpuCall gpu(host);
  AttentionArgs a = gpu.args();
  const QuantizeOptions q{method, a.sequences.seqlens_k};
  DeviceBuffer blob(quantized_kv_bytes(a.k, a.v, q)), scratch(quantize_kv_workspace_bytes(a.k, a.v, q));
  blob.fill(0xFF);
  scratch.fill(0xFF);
  const QuantizedKV kv = quantize_kv(a.k, a.v, q, blob.data(), scratch.data());
  CUDA_OK(cudaDeviceSynchronize());
  EXPECT_TRUE(blob.intact() && scratch.intact());
  a.k = a.v = {};
  a.kv = &kv;
  const auto compare = [&](const AttentionOptions& o) {
    ASSERT_EQ(gpu.run(o), "");
    const auto out = host.out(), lse = host.lse();
    EXPECT_TRUE(std::any_of(out.begin(), out.end(), [](float x) { return std::fabs(x) > 1e-3f; })) << s.text();
    EXPECT_TRUE(std::any_of(lse.begin(), lse.end(), [](float x) { return std::isfinite(x) && x != 0.0f; })) << s.text();
    const Plan p = plan(a, o);
    DeviceBuffer workspace(p.workspace_bytes());
    workspace.fill(0xFF);
    chitu::run(p, a, workspace.data());
    CUDA_OK(cudaDeviceSynchronize());
    EXPECT_TRUE(workspace.intact());
    gpu.download_results();
    EXPECT_TRUE(same_bits(out, host.out()) && same_bits(lse, host.lse())) << s.text();
  };
  gpu.with_every_row(host.options(method), turn, compare, &a);
}

TEST_P(CudaRuntime, QuantizedKvIsTheSame) {
  CHITU_NEED_GPU();
  if (GetParam() == Method::exact) GTEST_SKIP() << "exact quantizes nothing";
  int turn = static_cast<int>(GetParam());
  for (DType t : {DType::f16, DType::bf16, DType::f32}) {
    for (bool padded : {false, true}) {
      for (std::int64_t dim : {64, 80, 128}) {
        if (!chosen(turn++, 18, 0)) continue;
        CallSpec s = small_call();
        s.dtype = t;
        s.head_dim = dim;
        if (turn % 3 != 0) s.head_dim_v = dim;  // what Hopper kernels want
        if (padded) s.lens_k = {700, 257};
        expect_the_same_from_a_cache(s, GetParam(), turn);
      }
    }
  }
}

/// Calls that every row maps, by all of them whatever the effort: a kernel that reads the cache in its own way is left out of none.
TEST_P(CudaRuntime, QuantizedKvIsTheSameByEveryRow) {
  CHITU_NEED_GPU();
  if (GetParam() == Method::exact) GTEST_SKIP() << "exact quantizes nothing";
  int kind = static_cast<int>(GetParam());
  for (std::int64_t dim : {64, 96, 128, 256}) {
    if (!chosen(kind++, 4, 0)) continue;
    CallSpec s = small_call();
    s.head_dim = s.head_dim_v = dim;
    expect_the_same_from_a_cache(s, GetParam(), GpuCall::kAllRows);
    s.seqlen_q = 1, s.seqlen_k = 150, s.heads_q = 32, s.heads_kv = 8;  // a decoding step of so many heads that it is worth tiles of V
    expect_the_same_from_a_cache(s, GetParam(), GpuCall::kAllRows);
  }
}

INSTANTIATE_TEST_SUITE_P(Methods, CudaRuntime, testing::ValuesIn(kMethods), [](const auto& p) { return std::string(method_name(p.param)); });

TEST(CudaMerge, TwoHalvesMakeTheWhole) {
  CHITU_NEED_GPU();
  CallSpec s;
  s.seqlen_q = 50, s.seqlen_k = 300, s.heads_q = s.heads_kv = 2, s.head_dim = s.head_dim_v = 64;
  s.input_set = "5";
  for (Method m : {Method::chitu, Method::sage2, Method::exact}) {
    TestCall host(s);
    GpuCall gpu(host);
    AttentionOptions o = host.options(m);
    ASSERT_EQ(gpu.run(o), "");
    const auto whole = host.out(), whole_lse = host.lse();
    AttentionArgs first = gpu.args(), second = gpu.args();
    first.k.shape[1] = first.v.shape[1] = 128;
    second.k.shape[1] = second.v.shape[1] = 172;
    second.k.data = static_cast<const std::uint8_t*>(second.k.data) + 128 * second.k.stride[1] * 2;
    second.v.data = static_cast<const std::uint8_t*>(second.v.data) + 128 * second.v.stride[1] * 2;
    DeviceBuffer out_b(50 * 2 * 64 * 4), lse_b(50 * 2 * 4);
    second.out.data = out_b.data();
    second.lse.data = reinterpret_cast<float*>(lse_b.data());
    attention(first, o);
    attention(second, o);
    const ConstTensorView b{second.out.data, DType::f32, second.out.device, second.out.shape, second.out.stride};
    merge_states(first.out, first.lse, b, second.lse);
    CUDA_OK(cudaDeviceSynchronize());
    gpu.download_results();
    EXPECT_LE(difference(host.out(), whole).nrmse, m == Method::sage2 ? 0.1 : 0.02) << method_name(m);
    EXPECT_LE(largest_difference(host.lse(), whole_lse), m == Method::exact ? 1e-4 : 0.2) << method_name(m);
  }
}

TEST(CudaMerge, EmptySides) {
  CHITU_NEED_GPU();
  const float inf = std::numeric_limits<float>::infinity();
  const std::vector<float> out_a = {1, 2, 5, 6, 9, 9, 7, 8}, out_b = {3, 4, 7, 8, 9, 9, 1, 1}, lse_a = {0, -inf, -inf, 1}, lse_b = {0, 2, -inf, -inf};
  DeviceBuffer a(32), b(32), la(16), lb(16);
  a.upload(out_a.data());
  b.upload(out_b.data());
  la.upload(lse_a.data());
  lb.upload(lse_b.data());
  const Device gpu{DeviceType::cuda, 0};
  const LseView view_a = contiguous_view<float*, 3>(reinterpret_cast<float*>(la.data()), DType::f32, {1, 1, 4}, gpu);
  const LseView view_b = contiguous_view<float*, 3>(reinterpret_cast<float*>(lb.data()), DType::f32, {1, 1, 4}, gpu);
  merge_states(contiguous_view<void*, 4>(a.data(), DType::f32, {1, 4, 1, 2}, gpu), view_a,
               contiguous_view<const void*, 4>(b.data(), DType::f32, {1, 4, 1, 2}, gpu), view_b);
  CUDA_OK(cudaDeviceSynchronize());
  EXPECT_EQ(a.download_as<float>(), (std::vector<float>{2, 3, 7, 8, 0, 0, 7, 8}));
  const auto lse = la.download_as<float>();
  EXPECT_NEAR(lse[0], std::log(2.0), 1e-6);
  EXPECT_EQ(lse[1], 2.0f);
  EXPECT_EQ(lse[2], -inf);
  EXPECT_EQ(lse[3], 1.0f);
}

TEST(CudaErrors, RefusesWithASentence) {
  CHITU_NEED_GPU();
  CallSpec s = small_call();
  s.dtype = DType::f32;
  TestCall host(s);
  GpuCall gpu(host);
  try {
    plan(gpu.args(), host.options(Method::exact));
    FAIL() << "exact f32 is refused on CUDA";
  } catch (const Unsupported& e) {
    EXPECT_NE(std::string(e.what()).find("f32"), std::string::npos) << e.what();
  }
  AttentionArgs elsewhere = gpu.args();
  for (auto* d : {&elsewhere.q.device, &elsewhere.k.device, &elsewhere.v.device, &elsewhere.out.device, &elsewhere.lse.device}) d->index = 63;
  EXPECT_THROW(plan(elsewhere, host.options(Method::chitu)), Unsupported);
  int device = -1;
  CUDA_OK(cudaGetDevice(&device));
  EXPECT_EQ(device, 0);
}

/// Codes and layout of a cache are those of the default scheme: a kernel of another one would read past its end.
TEST(CudaErrors, NoOtherSchemeBesideACache) {
  CHITU_NEED_GPU();
  TestCall host(small_call());
  GpuCall gpu(host);
  AttentionArgs a = gpu.args();
  const QuantizeOptions q{Method::sage1, nullptr};
  DeviceBuffer blob(quantized_kv_bytes(a.k, a.v, q)), scratch(quantize_kv_workspace_bytes(a.k, a.v, q));
  const QuantizedKV kv = quantize_kv(a.k, a.v, q, blob.data(), scratch.data());
  a.k = a.v = {};
  a.kv = &kv;
  AttentionOptions o = host.options(Method::sage1);
  EXPECT_NO_THROW(plan(a, o));
  o.scheme.granularity = Granularity::per_token;
  try {
    plan(a, o);
    FAIL() << "a scale per token beside a cache of one per block";
  } catch (const InvalidArgument& e) {
    EXPECT_NE(std::string(e.what()).find("scheme"), std::string::npos) << e.what();
  }
}

/// Rows 2^31 and more elements apart: any 32-bit offset lands elsewhere.
TEST(CudaLarge, OffsetsBeyond32Bits) {
  CHITU_NEED_GPU();
  std::size_t free = 0, total = 0;
  CUDA_OK(cudaMemGetInfo(&free, &total));
  const std::int64_t far = (std::int64_t{1} << 32) + 64, n = 3;
  if (free < static_cast<std::size_t>(far) * 2 * 2 * 2 + (1u << 30)) GTEST_SKIP() << "needs 36 GB of GPU memory";
  CallSpec s;
  s.batch = n, s.seqlen_q = 5, s.seqlen_k = 140, s.head_dim = s.head_dim_v = 64;
  s.dtype = s.out_dtype = DType::f16;
  TestCall host(s);
  GpuCall gpu(host);
  DeviceBuffer big(static_cast<std::size_t>(far) * 2 * 2 + 140 * 64 * 2 * 4), big_out(static_cast<std::size_t>(far) * 2 * 2 + 5 * 64 * 2);
  const auto compare = [&](const AttentionOptions& o) {
    ASSERT_EQ(gpu.run(o), "");
    const auto want = host.out();
    AttentionArgs a = gpu.args();
    std::size_t start = 0;
    auto move = [&](auto& view, std::int64_t rows) {
      const std::size_t bytes = static_cast<std::size_t>(rows * 64 * 2);
      for (std::int64_t b = 0; b < n; ++b) {
        CUDA_OK(cudaMemcpy(big.data() + start + static_cast<std::size_t>(b * far) * 2,
                           static_cast<const std::uint8_t*>(view.data) + static_cast<std::size_t>(b) * bytes, bytes, cudaMemcpyDeviceToDevice));
      }
      view.data = big.data() + start;
      view.stride[0] = far;
      start += bytes;
    };
    move(a.q, 5);
    move(a.k, 140);
    move(a.v, 140);
    a.out.data = big_out.data();
    a.out.stride[0] = far;
    attention(a, o);
    for (std::int64_t b = 0; b < n; ++b) {
      CUDA_OK(cudaMemcpy(static_cast<std::uint8_t*>(gpu.args().out.data) + b * 5 * 64 * 2, static_cast<std::uint8_t*>(a.out.data) + b * far * 2, 5 * 64 * 2,
                         cudaMemcpyDeviceToDevice));
    }
    gpu.download_results();
    EXPECT_TRUE(same_bits(want, host.out()));
  };
  for (Method m : kMethods) gpu.with_every_row(host.options(m), 0, compare);
}

/// More heads and batches than a grid's y and z take.
TEST(CudaLarge, ManyHeads) {
  CHITU_NEED_GPU();
  for (Method m : kMethods) {
    CallSpec s;
    s.batch = 1, s.seqlen_q = 1, s.seqlen_k = 3, s.heads_q = s.heads_kv = 70000, s.head_dim = s.head_dim_v = 8;
    TestCall host(s);
    GpuCall gpu(host);
    gpu.with_every_row(host.options(m), 0, [&](const AttentionOptions& o) {
      ASSERT_EQ(gpu.run(o), "");
      const auto out = host.out();
      gpu.run_reference(o);
      EXPECT_LE(difference(out, host.out()).nrmse, 5e-3);
    });
  }
}

}  // namespace
}  // namespace chitu::test
