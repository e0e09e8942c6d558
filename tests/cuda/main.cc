// The CUDA tests; with `timing [seqlen] [heads] [head_dim] [causal]` instead the times of all rows and of the pre-pass on the GPU at hand (docs/kernels).
// One binary, because it holds all kernels and is carried to other machines.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

#include "core/codec.h"
#include "core/validate.h"
#include "cuda/attention_call.h"
#include "gpu_call.h"

namespace chitu::test {
namespace {

double median_ms(int repeats, const std::function<void()>& body) {
  std::vector<float> times;
  cudaEvent_t begin, end;
  CUDA_OK(cudaEventCreate(&begin));
  CUDA_OK(cudaEventCreate(&end));
  for (int i = 0; i < repeats + 2; ++i) {
    CUDA_OK(cudaEventRecord(begin));
    body();
    CUDA_OK(cudaEventRecord(end));
    CUDA_OK(cudaEventSynchronize(end));
    float ms = 0;
    CUDA_OK(cudaEventElapsedTime(&ms, begin, end));
    if (i >= 2) times.push_back(ms);
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

std::vector<std::uint16_t> noise(std::int64_t n, DType t, std::uint64_t seed) {
  std::vector<std::uint16_t> x(static_cast<std::size_t>(n));
  for (auto& e : x) {
    float sum = -6.0f;  // twelve uniforms: nearly normal
    for (int i = 0; i < 3; ++i) {
      seed = seed * 6364136223846793005ull + 1442695040888963407ull;
      for (int s = 0; s < 64; s += 16) sum += static_cast<float>(seed >> s & 0xffff) / 65536.0f;
    }
    e = t == DType::bf16 ? core::f32_to_bf16(sum) : core::f32_to_f16(sum);
  }
  return x;
}

void time_shape(std::int64_t seqlen, std::int64_t heads, std::int64_t dim, bool causal) {
  const std::int64_t n = seqlen * heads * dim;
  DeviceBuffer q(static_cast<std::size_t>(2 * n)), k(static_cast<std::size_t>(2 * n)), v(static_cast<std::size_t>(2 * n)), out(static_cast<std::size_t>(2 * n));
  q.upload(noise(n, DType::f16, 1).data());
  k.upload(noise(n, DType::f16, 2).data());
  v.upload(noise(n, DType::f16, 3).data());
  const Device gpu{DeviceType::cuda, 0};
  AttentionArgs a;
  a.q = contiguous_view<const void*, 4>(q.data(), DType::f16, {1, seqlen, heads, dim}, gpu);
  a.k = contiguous_view<const void*, 4>(k.data(), DType::f16, {1, seqlen, heads, dim}, gpu);
  a.v = contiguous_view<const void*, 4>(v.data(), DType::f16, {1, seqlen, heads, dim}, gpu);
  a.out = contiguous_view<void*, 4>(out.data(), DType::f16, {1, seqlen, heads, dim}, gpu);
  const double flops = 4.0 * heads * seqlen * seqlen * dim * (causal ? 0.5 : 1.0);
  std::printf("seqlen %lld heads %lld head_dim %lld%s\n", static_cast<long long>(seqlen), static_cast<long long>(heads), static_cast<long long>(dim),
              causal ? " causal" : "");
  const double copy = median_ms(5, [&] { CUDA_OK(cudaMemcpyAsync(out.data(), q.data(), static_cast<std::size_t>(2 * n), cudaMemcpyDeviceToDevice)); });
  const double copy_speed = 4.0 * static_cast<double>(n) / copy / 1e6;
  std::printf("  copy %.1f us, %.0f GB/s\n", copy * 1e3, copy_speed);
  for (Method m :
       {Method::exact, Method::chitu, Method::chitu_int8, Method::chitu_fast, Method::sage1, Method::sage2, Method::int_flash, Method::int_flash_half}) {
    for (const core::Kernel& row : cuda::backend().kernels) {
      AttentionOptions o;
      o.method = m;
      o.kernel = row.name;
      if (causal) o.mask = Mask::causal();
      core::Problem p = core::validate(a, o);
      p.caps = cuda::backend().caps(p.device);
      p.scheme = core::resolve_scheme(m, p.dtype, {});
      if (!row.why_not(p).empty()) continue;
      const Plan plan = chitu::plan(a, o);
      DeviceBuffer workspace(plan.workspace_bytes());
      const double whole = median_ms(3, [&] { chitu::run(plan, a, workspace.data()); });
      double prepass = 0;
      if (m != Method::exact) {  // in memory of its own: a row may put other things into its workspace as well
        const bool e4m3_tiles = std::string(row.name) == "sm90_int8_f8";
        core::Workspace measure;
        cuda::prepare({p, a, nullptr}, measure, e4m3_tiles);
        const DeviceBuffer operands(measure.used());
        prepass = median_ms(5, [&] {
          core::Workspace carve(operands.data(), operands.size());
          cuda::prepare({p, a, nullptr}, carve, e4m3_tiles);
        });
      }
      std::printf("  %-15s %-21s %8.3f ms  %6.1f TFLOPS end to end  %6.1f kernel  prepass %7.1f us = %4.0f %% of copy at 6 B\n",
                  std::string(method_name(m)).c_str(), row.name, whole, flops / whole / 1e9, flops / (whole - prepass) / 1e9, prepass * 1e3,
                  prepass > 0 ? 6.0 * static_cast<double>(n) / prepass / 1e6 / copy_speed * 100 : 0.0);
    }
  }
}

}  // namespace
}  // namespace chitu::test

int main(int argc, char** argv) {
  if (argc < 2 || std::strcmp(argv[1], "timing") != 0) {
    testing::InitGoogleTest(&argc, argv);
    return RUN_ALL_TESTS();
  }
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  auto number = [&](int i, std::int64_t otherwise) { return argc > i ? std::atoll(argv[i]) : otherwise; };
  if (chitu::cuda::device_count() == 0) {
    std::printf("no CUDA device is visible\n");
    return 0;
  }
  chitu::test::time_shape(number(2, 16384), number(3, 16), number(4, 128), number(5, 0) != 0);
  return 0;
}
