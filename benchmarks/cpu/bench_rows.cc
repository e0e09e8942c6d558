// Times any method through the public interface: per-thread CPU time (1 thread) or wall clock, best of `rounds`.
//   bench_rows METHOD [seqlen_q] [seqlen_k] [head_dim] [heads_q] [heads_kv] [causal] [f16|bf16|f32] [rounds] [threads] [cached]
// cached = 1: K and V are quantized outside the timing (decode); then GB/s of the blob beside the bandwidth of a plain read of as many bytes.
#include <time.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "chitu/chitu.h"
#include "core/codec.h"
#include "cpu/isa.h"

using namespace chitu;

namespace {
double seconds(clockid_t c) {
  timespec t;
  clock_gettime(c, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}
std::uint64_t state = 88172645463325252ull;
float normal() {  // sum of 8 uniforms: near enough for timing
  float s = 0;
  for (int i = 0; i < 8; ++i) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    s += static_cast<float>(state >> 40) * 0x1p-24f;
  }
  return (s - 4.0f) * 1.2247449f;
}
struct Tensor {
  std::vector<unsigned char> bytes;
  ConstTensorView view;
  Tensor(DType t, std::array<std::int64_t, 4> shape) : bytes(static_cast<std::size_t>(shape[0] * shape[1] * shape[2] * shape[3]) * dtype_size(t)) {
    view = contiguous_view<const void*, 4>(bytes.data(), t, shape);
    for (std::size_t i = 0; i < bytes.size() / dtype_size(t); ++i) {
      const float x = normal();
      const std::uint16_t h = t == DType::f16 ? core::f32_to_f16(x) : core::f32_to_bf16(x);
      if (t == DType::f32) std::memcpy(&bytes[4 * i], &x, 4);
      else std::memcpy(&bytes[2 * i], &h, 2);
    }
  }
};
std::uint64_t read_all(const void* p, std::size_t bytes) {
  const auto* w = static_cast<const std::uint64_t*>(p);
  std::uint64_t s[8] = {};
  for (std::size_t i = 0; i + 8 <= bytes / 8; i += 8)
    for (int j = 0; j < 8; ++j) s[j] ^= w[i + j];
  return s[0] ^ s[1] ^ s[2] ^ s[3] ^ s[4] ^ s[5] ^ s[6] ^ s[7];
}
}  // namespace

int main(int argc, char** argv) {
  auto arg = [&](int i, long d) { return argc > i ? std::atol(argv[i]) : d; };
  const std::string name = argc > 1 ? argv[1] : "chitu_int8", type = argc > 8 ? argv[8] : "bf16";
  const auto method = parse_method(name);
  if (!method) return 2;
  const std::int64_t sq = arg(2, 4096), sk = arg(3, sq), d = arg(4, 64), hq = arg(5, 8), hkv = arg(6, hq);
  const bool causal = arg(7, 0) != 0, cached = arg(11, 0) != 0;
  const int rounds = static_cast<int>(arg(9, 6)), threads = static_cast<int>(arg(10, 1));
  const DType dtype = type == "f16" ? DType::f16 : type == "f32" ? DType::f32 : DType::bf16;
  set_num_threads(threads);
  Tensor q(dtype, {1, sq, hq, d}), k(dtype, {1, sk, hkv, d}), v(dtype, {1, sk, hkv, d});
  std::vector<float> out(static_cast<std::size_t>(sq * hq * d)), lse(static_cast<std::size_t>(sq * hq));
  AttentionArgs args;
  args.q = q.view;
  args.k = k.view;
  args.v = v.view;
  args.out = contiguous_view<void*, 4>(out.data(), DType::f32, {1, sq, hq, d});
  args.lse = contiguous_view<float*, 3>(lse.data(), DType::f32, {1, hq, sq});
  AttentionOptions options;
  options.method = *method;
  if (causal) options.mask = Mask::causal();
  QuantizedKV kv;
  std::unique_ptr<void, void (*)(void*)> blob(nullptr, std::free), memory(nullptr, std::free);
  if (cached) {
    QuantizeOptions o;
    o.method = *method;
    blob.reset(std::aligned_alloc(256, quantized_kv_bytes(args.k, args.v, o)));
    memory.reset(std::aligned_alloc(256, quantize_kv_workspace_bytes(args.k, args.v, o) + 256));
    kv = quantize_kv(args.k, args.v, o, blob.get(), memory.get());
    args.k = args.v = {};
    args.kv = &kv;
  }
  const Plan p = plan(args, options);
  memory.reset(std::aligned_alloc(256, (p.workspace_bytes() + 511) / 256 * 256));
  const clockid_t clock = threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC;
  double best = 1e9, peak = 0, read = 1e9;
  std::uint64_t sink = 0;
  for (int i = 0; i < rounds; ++i) {
    double t0 = seconds(CLOCK_THREAD_CPUTIME_ID);
    const auto ops = static_cast<double>(cpu::isa_table().dot_peak(300000));
    peak = std::max(peak, ops / (seconds(CLOCK_THREAD_CPUTIME_ID) - t0) * 1e-9);
    if (cached) {
      t0 = seconds(CLOCK_THREAD_CPUTIME_ID);
      sink += read_all(kv.data, kv.bytes);
      read = std::min(read, seconds(CLOCK_THREAD_CPUTIME_ID) - t0);
    }
    t0 = seconds(clock);
    run(p, args, memory.get());
    best = std::min(best, seconds(clock) - t0);
  }
  const double flops = 4.0 * static_cast<double>(hq) * static_cast<double>(sq) * static_cast<double>(sk) * static_cast<double>(d) * (causal ? 0.5 : 1.0);
  std::printf("%s %s %s sq=%ld sk=%ld d=%ld h=%ld/%ld causal=%d threads=%d: %.3f ms, %.1f GFLOP/s = %.1f %% of 8-bit peak %.0f", name.c_str(), type.c_str(),
              std::string(p.kernel()).c_str(), static_cast<long>(sq), static_cast<long>(sk), static_cast<long>(d), static_cast<long>(hq), static_cast<long>(hkv), causal,
              threads, best * 1e3, flops / best * 1e-9, 100 * flops / best * 1e-9 / (peak * threads), peak);
  if (cached) {
    const double bytes = static_cast<double>(kv.bytes);
    std::printf(", %.1f GB/s; plain read, one thread: %.1f GB/s%s", bytes / best * 1e-9, bytes / read * 1e-9, sink == 1 ? "." : "");
  }
  std::printf("\n");
}
