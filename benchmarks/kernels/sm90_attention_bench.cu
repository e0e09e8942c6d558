// Correctness and speed of the sm_90 attention kernels, without the library.
//   sm90_attention_bench [check] [time] [sweep]      exit 1 if a check fails
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <unistd.h>
#include <functional>
#include <string>
#include <vector>

#include "sm90_reference.cuh"
#include "sm90_variants.h"

using chitu::cuda::sm90::AttentionParams;
using chitu::cuda::sm90::Float;
using chitu::cuda::sm90::kUnbounded;

#define CHECK(x)                                                                                  \
  do {                                                                                            \
    cudaError_t e_ = (x);                                                                         \
    if (e_ != cudaSuccess) {                                                                      \
      std::printf("%s:%d %s: %s\n", __FILE__, __LINE__, #x, cudaGetErrorString(e_)); \
      std::exit(2);                                                                               \
    }                                                                                             \
  } while (0)

struct Shape {
  int batch, heads_q, heads_kv, seqlen_q, seqlen_k, head_dim;
  bool causal = false;
  int left = -1;             // sliding window, -1: none
  bool lengths = false;      // ragged keys per batch, values beyond them NaN
  float scale = 0;           // 0: 1/sqrt(head_dim)
  float shift = 0;           // added to k
};

struct Buffers {
  std::vector<void*> all;
  template <class T> T* take(int64_t n) {
    void* p;
    CHECK(cudaMalloc(&p, n * sizeof(T) + 256));
    CHECK(cudaMemset(p, 0xff, n * sizeof(T) + 256));
    all.push_back(p);
    return static_cast<T*>(p);
  }
  ~Buffers() {
    for (void* p : all) cudaFree(p);
  }
};

template <class T, int kD> void prepare(AttentionParams& p, Buffers& mem, const Shape& s, bool want_bias) {
  int64_t nq = int64_t{s.batch} * s.seqlen_q * s.heads_q * kD, nk = int64_t{s.batch} * s.seqlen_k * s.heads_kv * kD;
  T *q = mem.take<T>(nq), *k = mem.take<T>(nk), *v = mem.take<T>(nk);
  bench::fill_normal<<<2048, 256>>>(q, nq, 1, 1.f, 0.f);
  bench::fill_normal<<<2048, 256>>>(k, nk, 2, 1.f, s.shift);
  bench::fill_normal<<<2048, 256>>>(v, nk, 3, 1.f, 0.f);
  p = {};
  if (s.lengths) {
    std::vector<int32_t> lengths(s.batch);
    for (int b = 0; b < s.batch; ++b) lengths[b] = b == 1 ? 0 : s.seqlen_k - 37 * b - (b ? 61 : 0);
    int32_t* d = mem.take<int32_t>(s.batch);
    CHECK(cudaMemcpy(d, lengths.data(), s.batch * 4, cudaMemcpyHostToDevice));
    bench::poison<<<2048, 256>>>(k, d, s.batch, s.seqlen_k, s.heads_kv * kD);
    bench::poison<<<2048, 256>>>(v, d, s.batch, s.seqlen_k, s.heads_kv * kD);
    p.seqlens_k = d;
  }
  p.batch = s.batch; p.num_heads_q = s.heads_q; p.num_heads_kv = s.heads_kv; p.head_dim = kD;
  p.seqlen_q = s.seqlen_q; p.seqlen_k = s.seqlen_k;
  p.seqlen_q_padded = (s.seqlen_q + 127) / 128 * 128;
  p.tiles_k = (s.seqlen_k + 127) / 128;
  p.softmax_scale = s.scale != 0 ? s.scale : 1.f / sqrtf(kD);
  p.q = {q, int64_t{s.seqlen_q} * s.heads_q * kD, int64_t{s.heads_q} * kD, kD};
  p.k = {k, int64_t{s.seqlen_k} * s.heads_kv * kD, int64_t{s.heads_kv} * kD, kD};
  p.v = {v, int64_t{s.seqlen_k} * s.heads_kv * kD, int64_t{s.heads_kv} * kD, kD};
  p.input = p.output = sizeof(T) == 2 && std::is_same_v<T, __half> ? Float::f16 : Float::bf16;
  T* out = mem.take<T>(nq);
  p.out = out;
  p.out_batch_stride = p.q.batch_stride; p.out_seq_stride = p.q.seq_stride; p.out_head_stride = kD;
  p.lse = mem.take<float>(int64_t{s.batch} * s.heads_q * s.seqlen_q);
  p.lse_batch_stride = int64_t{s.heads_q} * s.seqlen_q; p.lse_head_stride = s.seqlen_q; p.lse_seq_stride = 1;
  p.window_left = s.left < 0 ? kUnbounded : s.left;
  p.window_right = s.causal ? 0 : kUnbounded;
  p.diagonal_from_length = true;
  int64_t q_rows = int64_t{s.batch} * s.heads_q * p.seqlen_q_padded, tiles = int64_t{s.batch} * s.heads_kv * p.tiles_k;
  int8_t *q8 = mem.take<int8_t>(q_rows * kD), *k8 = mem.take<int8_t>(tiles * 128 * kD);
  float *qs = mem.take<float>(q_rows), *ks = mem.take<float>(tiles * 4);
  T* means = mem.take<T>(tiles * kD);
  bench::quantize_q<T, kD><<<(q_rows + 127) / 128, 128>>>(p, q8, qs);
  int shared = 128 * (kD + 1) * 4;
  CHECK(cudaFuncSetAttribute(bench::quantize_k<T, kD>, cudaFuncAttributeMaxDynamicSharedMemorySize, shared));
  bench::quantize_k<T, kD><<<dim3(p.tiles_k, s.heads_kv, s.batch), 128, shared>>>(p, k8, ks, means);
  p.q8 = q8; p.q_scale = qs; p.k8 = k8; p.k_scale = ks; p.k_mean = means;
  if (want_bias) {
    int64_t n = q_rows * p.tiles_k;
    float* bias = mem.take<float>(n);
    bench::make_bias<T><<<(n + 255) / 256, 256>>>(p, bias);
    p.bias = bias;
  }
  p.work_counter = mem.take<int32_t>(1);
  int device, sms;
  CHECK(cudaGetDevice(&device));
  CHECK(cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, device));
  p.num_sms = sms;
  CHECK(cudaGetLastError());
  CHECK(cudaDeviceSynchronize());
}

template <class T> void prepare_any(AttentionParams& p, Buffers& mem, const Shape& s, bool want_bias) {
  if (s.head_dim == 64) prepare<T, 64>(p, mem, s, want_bias);
  if (s.head_dim == 96) prepare<T, 96>(p, mem, s, want_bias);
  if (s.head_dim == 128) prepare<T, 128>(p, mem, s, want_bias);
  if (s.head_dim == 256) prepare<T, 256>(p, mem, s, want_bias);
}

cudaError_t run(const Variant& v, const AttentionParams& p) {
  if (p.work_counter) CHECK(cudaMemsetAsync(p.work_counter, 0, 4));
  return v.launch(p, nullptr);
}

template <class T> int check(const Variant& v, const Shape& s) {
  Buffers mem;
  AttentionParams p;
  prepare_any<T>(p, mem, s, v.bias_from_memory);
  if (v.exact_method) p.q8 = nullptr;
  int64_t rows = int64_t{s.batch} * s.heads_q * s.seqlen_q;
  double *scratch = mem.take<double>(rows * s.seqlen_k), *out = mem.take<double>(rows * s.head_dim), *lse = mem.take<double>(rows), *stats = mem.take<double>(4);
  double h[2][4];
  CHECK(run(v, p));
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

__global__ void count_differences(const uint32_t* a, const uint32_t* b, int64_t n, int* count) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < n; i += int64_t{gridDim.x} * blockDim.x)
    if (a[i] != b[i]) atomicAdd(count, 1);
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
  CHECK(run(v, p));
  CHECK(cudaMemcpy(out, p.out, words * 4, cudaMemcpyDeviceToDevice));
  CHECK(cudaMemcpy(lse, p.lse, rows * 4, cudaMemcpyDeviceToDevice));
  for (int i = 0; i < times; ++i) {
    CHECK(cudaMemsetAsync(p.out, 0xff, words * 4));
    CHECK(run(v, p));
    count_differences<<<256, 256>>>(out, static_cast<const uint32_t*>(p.out), words, count);
    count_differences<<<256, 256>>>(lse, reinterpret_cast<const uint32_t*>(p.lse), rows, count);
  }
  int h;
  CHECK(cudaMemcpy(&h, count, 4, cudaMemcpyDeviceToHost));
  std::printf("repeat %-22s %d runs, %d words differ\n", v.name, times, h);
  return h != 0;
}

double time_variant(const Variant& v, const AttentionParams& p, const Shape& s, int repeats, double* spread) {
  std::vector<cudaEvent_t> at(repeats * 2);
  for (auto& e : at) CHECK(cudaEventCreate(&e));
  for (int i = 0; i < 3; ++i) CHECK(run(v, p));
  for (int i = 0; i < repeats; ++i) {
    if (p.work_counter) CHECK(cudaMemsetAsync(p.work_counter, 0, 4));
    CHECK(cudaEventRecord(at[2 * i]));
    CHECK(v.launch(p, nullptr));
    CHECK(cudaEventRecord(at[2 * i + 1]));
  }
  CHECK(cudaDeviceSynchronize());
  std::vector<float> ms(repeats);
  for (int i = 0; i < repeats; ++i) CHECK(cudaEventElapsedTime(&ms[i], at[2 * i], at[2 * i + 1]));
  for (auto& e : at) cudaEventDestroy(e);
  std::sort(ms.begin(), ms.end());
  double flops = 4.0 * s.batch * s.heads_q * double(s.seqlen_q) * s.seqlen_k * s.head_dim * (s.causal ? 0.5 : 1);
  *spread = (ms[repeats * 9 / 10] - ms[repeats / 10]) / ms[repeats / 2] * 100;
  return flops / ms[repeats / 2] * 1e-9;
}

// SM clock in MHz, over ~0.2 ms of spinning.
__global__ void measure_clock(double* mhz) {
  uint64_t t0, t1;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(t0));
  int64_t c0 = clock64();
  do asm volatile("mov.u64 %0, %globaltimer;" : "=l"(t1)); while (t1 - t0 < 200000);
  *mhz = double(clock64() - c0) / double(t1 - t0) * 1e3;
}

double clock_mhz() {
  static double* d = nullptr;
  if (!d) CHECK(cudaMalloc(&d, 8));
  double h;
  measure_clock<<<1, 1>>>(d);
  CHECK(cudaMemcpy(&h, d, 8, cudaMemcpyDeviceToHost));
  return h;
}

int main(int argc, char** argv) {
  auto wants = [&](const char* word) {
    for (int i = 1; i < argc; ++i) if (!std::strcmp(argv[i], word)) return true;
    return false;
  };
  const char* only = std::getenv("ONLY");
  int failures = 0;
  auto selected = [&](const Variant& v) { return !only || std::strstr(v.name, only) || (!std::strcmp(only, "main") && std::strstr(v.name, "f16_d") && !std::strstr(v.name, "bf16") && !std::strstr(v.name, "bias")); };
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
      std::fprintf(json, "{\"gpu\": \"%s\", \"cuda\": %d, \"driver\": \"%s\", \"git\": \"%s\", \"date\": \"%s\", \"command\": \"sm90_attention_bench time sweep\", \"repeats\": 20, \"statistic\": \"median\",\n \"results\": [",
                   device.name, driver, driver_name ? driver_name : "", hash ? hash : "", date ? date : "");
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
          double tflops = time_variant(v, p, s, 20, &spread);
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
