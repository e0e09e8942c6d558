// Correctness and speed of the sm_90 attention kernels, without the library.
//   sm90_attention_bench [check] [repeat] [time] [sweep]      exit 1 if a check fails; ONLY=name part
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <unistd.h>
#include <functional>
#include <string>
#include <vector>

#include "sm90_bench.cuh"
#include "sm90_variants.h"

template <class T> int check(const Variant& v, const Shape& s) {
  Buffers mem;
  AttentionParams p;
  prepare_any<T>(p, mem, s, v.bias_from_memory);
  if (v.exact_method) p.q8 = nullptr;
  int64_t rows = int64_t{s.batch} * s.heads_q * s.seqlen_q;
  double *scratch = mem.take<double>(rows * s.seqlen_k), *out = mem.take<double>(rows * s.head_dim), *lse = mem.take<double>(rows), *stats = mem.take<double>(4);
  double h[2][4];
  CHECK(run(v.launch, p));
  CHECK(cudaDeviceSynchronize());
  for (int kind = 0; kind < 2; ++kind) {
    if (kind == 0 && v.exact_method) { std::memset(h[0], 0, sizeof h[0]); continue; }
    bench::reference<T><<<dim3(s.seqlen_q, s.heads_q, s.batch), 128>>>(p, kind == 0, scratch, out, lse);
    CHECK(cudaMemset(stats, 0, 32));
    bench::compare<T><<<64, 128>>>(p, out, lse, stats);
    CHECK(cudaMemcpy(h[kind], stats, 32, cudaMemcpyDeviceToHost));
  }
  bool half = std::is_same_v<T, __half>;
  double spec = h[0][1] > 0 ? sqrt(h[0][0] / h[0][1]) : 0, exact = h[1][1] > 0 ? sqrt(h[1][0] / h[1][1]) : sqrt(h[1][0]);
  double bar = half ? 6e-4 : 5e-3;
  double lse_bar = s.scale >= 0.5f ? 2e-3 : 2e-4;
  bool ok = spec < bar && h[0][2] < lse_bar && h[0][3] == 0 && h[1][3] == 0 && exact < (v.exact_method ? bar : s.scale >= 0.5f ? 0.3 : 0.02);
  static const bool verbose = std::getenv("VERBOSE") != nullptr;
  if (!ok || verbose) std::printf("%s %-22s %s B%d H%d/%d Sq%d Sk%d D%d%s w%d%s s%g: spec %.2e lse %.1e | f64 %.3f%% lse %.1e bad %g\n", ok ? "ok  " : "FAIL", v.name, half ? "f16" : "bf16",
              s.batch, s.heads_q, s.heads_kv, s.seqlen_q, s.seqlen_k, s.head_dim, s.causal ? " causal" : "", s.left, s.lengths ? " ragged" : "", s.scale, spec, h[0][2],
              100 * exact, h[1][2], h[0][3] + h[1][3]);
  return ok ? 0 : 1;
}

// The same call many times: the bits of out and lse must not change.
template <class T> int repeat(const Variant& v, int times) {
  Shape s{2, 8, 2, 1000, 1500, v.head_dim, true};
  Buffers mem;
  AttentionParams p;
  prepare_any<T>(p, mem, s, v.bias_from_memory);
  int64_t rows = int64_t{s.batch} * s.heads_q * s.seqlen_q, words = rows * s.head_dim / 2;
  uint32_t *out = mem.take<uint32_t>(words), *lse = mem.take<uint32_t>(rows);
  int* count = mem.take<int>(1);
  CHECK(cudaMemset(count, 0, 4));
  CHECK(run(v.launch, p));
  CHECK(cudaMemcpy(out, p.out, words * 4, cudaMemcpyDeviceToDevice));
  CHECK(cudaMemcpy(lse, p.lse, rows * 4, cudaMemcpyDeviceToDevice));
  for (int i = 0; i < times; ++i) {
    CHECK(cudaMemsetAsync(p.out, 0xff, words * 4));
    CHECK(run(v.launch, p));
    count_differences<<<256, 256>>>(out, static_cast<const uint32_t*>(p.out), words, count);
    count_differences<<<256, 256>>>(lse, reinterpret_cast<const uint32_t*>(p.lse), rows, count);
  }
  int h;
  CHECK(cudaMemcpy(&h, count, 4, cudaMemcpyDeviceToHost));
  std::printf("repeat %-22s %d runs, %d words differ\n", v.name, times, h);
  return h != 0;
}

// only: a part of the name, or "main": the library's f16 kernels.
bool named(const Variant& v, const char* only) {
  const bool is_main = std::strstr(v.name, "f16_d") && !std::strstr(v.name, "bf16") && !std::strstr(v.name, "bias");
  return std::strstr(v.name, only) || (!std::strcmp(only, "main") && is_main);
}

int main(int argc, char** argv) {
  auto wants = [&](const char* word) {
    for (int i = 1; i < argc; ++i) if (!std::strcmp(argv[i], word)) return true;
    return false;
  };
  const char* only = std::getenv("ONLY");
  int failures = 0;
  auto selected = [&](const Variant& v) { return !only || named(v, only); };
  if (wants("check")) {
    for (const Variant& v : variants()) {
      if (!selected(v)) continue;
      int d = v.head_dim;
      std::vector<Shape> shapes = {{1, 1, 1, 128, 128, d}, {1, 2, 2, 300, 1000, d}, {2, 4, 2, 257, 385, d, true}, {1, 2, 1, 200, 2300, d, true},
                                   {1, 1, 1, 500, 130, d, true}, {3, 2, 1, 190, 700, d, true, -1, true}, {3, 2, 2, 129, 640, d, false, -1, true},
                                   {1, 2, 2, 600, 600, d, true, 150}, {1, 1, 1, 33, 1, d}, {1, 2, 2, 128, 1111, d, false, -1, false, 0, 3.f}, {2, 1, 1, 65, 129, d, false, -1, false, 0.5f},
                                   {1, 2, 1, 300, 1500, d, true, -1, false, 2.f}, {1, 2, 1, 300, 1500, d, false, 400, false, 1.f}};
      if (!v.exact_method) shapes.push_back({1, 1, 1, 100, 300, d, false, -1, false, -0.1f});
      for (const Shape& s : shapes) failures += v.bf16 ? check<__nv_bfloat16>(v, s) : check<__half>(v, s);
    }
    std::printf("%d failures\n", failures);
  }
  if (wants("repeat")) {
    for (const Variant& v : variants()) {
      if (selected(v)) failures += v.bf16 ? repeat<__nv_bfloat16>(v, 1000) : repeat<__half>(v, 1000);
    }
  }
  if (wants("time")) {
    const char* path = std::getenv("JSON");
    std::FILE* json = path ? std::fopen(path, "w") : nullptr;
    long header = 0;
    if (json) {
      cudaDeviceProp device;
      int driver;
      CHECK(cudaGetDeviceProperties(&device, 0));
      CHECK(cudaDriverGetVersion(&driver));
      const char *hash = std::getenv("GIT_HASH"), *date = std::getenv("DATE"), *driver_name = std::getenv("DRIVER");
      std::fprintf(json,
                   "{\"gpu\": \"%s\", \"cuda\": %d, \"driver\": \"%s\", \"git\": \"%s\", \"date\": \"%s\", \"command\": \"%s\", \"repeats\": 20, "
                   "\"statistic\": \"median\",\n \"results\": [",
                   device.name, driver, driver_name ? driver_name : "", hash ? hash : "", date ? date : "", command_line(argc, argv).c_str());
      header = std::ftell(json);
    }
    std::vector<int> lengths = {16384};
    if (wants("sweep")) lengths = {1024, 4096, 16384, 32768};
    for (int causal = 0; causal < 2; ++causal) {
      for (int length : lengths) {
        for (const Variant& v : variants()) {
          if (!selected(v)) continue;
          Shape s{std::max(1, 16384 / length), 2048 / v.head_dim, 2048 / v.head_dim, length, length, v.head_dim, causal == 1};
          Buffers mem;
          AttentionParams p;
          v.bf16 ? prepare_any<__nv_bfloat16>(p, mem, s, v.bias_from_memory) : prepare_any<__half>(p, mem, s, v.bias_from_memory);
          if (!v.dynamic) p.work_counter = nullptr;
          double spread;
          usleep(150000);  // let the power budget recover: variants must not heat each other
          double tflops = time_launch(v.launch, p, s, 20, &spread);
          if (json) std::fprintf(json, "%s\n  {\"kernel\": \"%s\", \"head_dim\": %d, \"batch\": %d, \"heads\": %d, \"seqlen\": %d, \"causal\": %s, \"kernel_tflops\": %.1f, \"spread_percent\": %.1f}",
                                 std::ftell(json) > header ? "," : "", v.name, v.head_dim, s.batch, s.heads_q, length, causal ? "true" : "false", tflops, spread);
          std::printf("time %-22s D%-3d S%-5d %-6s %7.1f TFLOPS  spread %.1f%%  %4.0f MHz\n", v.name, v.head_dim, length, causal ? "causal" : "", tflops, spread, clock_mhz());
        }
      }
    }
    if (json) {
      std::fprintf(json, "\n]}\n");
      std::fclose(json);
    }
  }
  return failures != 0;
}
