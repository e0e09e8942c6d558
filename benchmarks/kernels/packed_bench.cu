// Packed sequences (cu_seqlens), end to end through the public interface: every method with a kernel of its own, by the library's choice of row.
//   packed_bench         median of 21 runs; ONLY=name of a method. HEAD_DIM: default 128, 2048 / HEAD_DIM heads
// TFLOPS count 4 L^2 head_dim of each head and sequence, half of it under a causal mask. It checks nothing (tests/cuda does). Built by
// benchmarks/kernels/build.sh.
#include <chitu/chitu.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "cuda/runtime.h"

namespace {

constexpr int kRuns = 21;

__global__ void fill(__half* x, std::int64_t n, std::uint32_t seed) {
  for (std::int64_t i = blockIdx.x * std::int64_t{blockDim.x} + threadIdx.x; i < n; i += std::int64_t{gridDim.x} * blockDim.x) {
    float sum = -2.0f;
    std::uint32_t r = (static_cast<std::uint32_t>(i) ^ seed * 0x9e3779b9u) * 0x85ebca6bu;  // three tensors that do not resemble one another
    r = (r ^ r >> 15) * 0xc2b2ae35u;
    for (int k = 0; k < 4; ++k) r = r * 1664525u + 1013904223u, sum += static_cast<float>(r >> 8) * 5.9604645e-8f;  // nearly normal
    x[i] = __float2half_rn(sum);
  }
}

template <class T>
struct Memory {
  T* data = nullptr;
  explicit Memory(std::size_t n) { CHITU_CUDA(cudaMalloc(&data, n * sizeof(T) + 256)); }
  ~Memory() { cudaFree(data); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
};

struct Lengths {
  const char* name;
  std::vector<std::int32_t> of;
};

std::vector<Lengths> shapes() {
  std::vector<Lengths> all = {{"1 x 16384", {16384}}, {"8 x 2048", std::vector<std::int32_t>(8, 2048)}, {"64 x 256", std::vector<std::int32_t>(64, 256)}};
  std::vector<std::int32_t> skewed(63, 130), ragged, tiny(1024, 16);
  skewed.insert(skewed.begin() + 20, 8194);
  for (int i = 0; i < 16; ++i) ragged.push_back(1024 + (i * 7919 % 16 - 7) * 120 - 60);
  all.push_back({"16 between 124 and 1924", ragged});
  all.push_back({"63 x 130 and 8194", skewed});
  all.push_back({"1024 x 16", tiny});
  return all;
}

float median_ms(const chitu::Plan& plan, const chitu::AttentionArgs& args, void* workspace) {
  cudaEvent_t begin, end;
  CHITU_CUDA(cudaEventCreate(&begin));
  CHITU_CUDA(cudaEventCreate(&end));
  std::vector<float> ms;
  for (int i = -2; i < kRuns; ++i) {
    float t = 0;
    CHITU_CUDA(cudaEventRecord(begin));
    chitu::run(plan, args, workspace);
    CHITU_CUDA(cudaEventRecord(end));
    CHITU_CUDA(cudaEventSynchronize(end));
    CHITU_CUDA(cudaEventElapsedTime(&t, begin, end));
    if (i >= 0) ms.push_back(t);
  }
  CHITU_CUDA(cudaEventDestroy(begin));
  CHITU_CUDA(cudaEventDestroy(end));
  std::nth_element(ms.begin(), ms.begin() + kRuns / 2, ms.end());
  return ms[kRuns / 2];
}

void time_lengths(const Lengths& lengths, std::int64_t head_dim, bool causal, const char* only) {
  using namespace chitu;
  const std::int64_t heads = 2048 / head_dim;
  std::vector<std::int32_t> ends = {0};
  double flops = 0;
  for (const std::int32_t n : lengths.of) {
    ends.push_back(ends.back() + n);
    flops += (causal ? 2.0 : 4.0) * n * n * static_cast<double>(head_dim * heads);
  }
  const std::int64_t total = ends.back(), elements = total * heads * head_dim;
  const Memory<__half> q(elements), k(elements), v(elements), out(elements);
  const Memory<std::int32_t> cu(ends.size());
  fill<<<1024, 256>>>(q.data, elements, 1u);
  fill<<<1024, 256>>>(k.data, elements, 2u);
  fill<<<1024, 256>>>(v.data, elements, 3u);
  CHITU_CUDA(cudaGetLastError());
  CHITU_CUDA(cudaMemcpy(cu.data, ends.data(), ends.size() * sizeof(std::int32_t), cudaMemcpyHostToDevice));
  const Device gpu{DeviceType::cuda, 0};
  const auto view = [&](const void* data) { return contiguous_view<const void*, 4>(data, DType::f16, {1, total, heads, head_dim}, gpu); };
  AttentionArgs a;
  a.q = view(q.data), a.k = view(k.data), a.v = view(v.data);
  a.out = contiguous_view<void*, 4>(out.data, DType::f16, {1, total, heads, head_dim}, gpu);
  a.sequences.cu_seqlens_q = a.sequences.cu_seqlens_k = cu.data;
  a.sequences.batch = static_cast<std::int64_t>(lengths.of.size());
  a.sequences.max_seqlen_q = a.sequences.max_seqlen_k = *std::max_element(lengths.of.begin(), lengths.of.end());
  std::printf("%s%s: %lld tokens\n", lengths.name, causal ? ", causal" : "", static_cast<long long>(total));
  for (const Method m : {Method::exact, Method::chitu, Method::chitu_fast, Method::chitu_int8, Method::sage2}) {
    if (only != nullptr && method_name(m) != only) continue;
    AttentionOptions o;
    o.method = m;
    if (causal) o.mask = Mask::causal();
    const Plan chosen = plan(a, o);
    const Memory<char> workspace(chosen.workspace_bytes());
    const float ms = median_ms(chosen, a, workspace.data);
    std::printf("  %-12s %-22s %9.4f ms  %6.1f TFLOPS\n", std::string(method_name(m)).c_str(), std::string(chosen.kernel()).c_str(), ms, flops / ms * 1e-9);
  }
}

}  // namespace

int main() {
  const char *only = std::getenv("ONLY"), *dim = std::getenv("HEAD_DIM");
  const std::int64_t head_dim = dim != nullptr ? std::atoll(dim) : 128;
  if (head_dim < 1 || head_dim > 256) {
    std::fprintf(stderr, "packed_bench: HEAD_DIM: want a number from 1 to 256, got '%s'\n", dim);
    return 2;
  }
  for (const bool causal : {false, true})
    for (const Lengths& lengths : shapes()) time_lengths(lengths, head_dim, causal, only);
  return 0;
}
