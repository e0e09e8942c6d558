// What the kernel benchmarks share: buffers, problems, timing.
#pragma once
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "sm90_reference.cuh"

using chitu::cuda::sm90::AttentionParams;
using chitu::cuda::sm90::Float;
using chitu::cuda::sm90::kUnbounded;

#define CHECK(x)                                                                     \
  do {                                                                               \
    cudaError_t e_ = (x);                                                            \
    if (e_ != cudaSuccess) {                                                         \
      std::printf("%s:%d %s: %s\n", __FILE__, __LINE__, #x, cudaGetErrorString(e_)); \
      std::exit(2);                                                                  \
    }                                                                                \
  } while (0)

// For the record: the words given, and what the environment adds.
inline std::string command_line(int argc, char** argv) {
  std::string text;
  for (const char* name : {"ONLY", "ALL"})
    if (const char* value = std::getenv(name)) text += std::string(name) + "=" + value + " ";
  const std::string program = argv[0];
  text += program.substr(program.rfind('/') + 1);
  for (int i = 1; i < argc; ++i) text += std::string(" ") + argv[i];
  return text;
}

struct Shape {
  int batch, heads_q, heads_kv, seqlen_q, seqlen_k, head_dim;
  bool causal = false;
  int left = -1;         // sliding window, -1: none
  bool lengths = false;  // ragged keys per batch, values beyond them NaN
  float scale = 0;       // 0: 1/sqrt(head_dim)
  float shift = 0;       // added to k
};

struct Buffers {
  std::vector<void*> all;
  template <class T>
  T* take(int64_t n) {
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

template <class T, int kD>
void prepare(AttentionParams& p, Buffers& mem, const Shape& s, bool want_bias) {
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
  p.batch = s.batch;
  p.num_heads_q = s.heads_q;
  p.num_heads_kv = s.heads_kv;
  p.head_dim = kD;
  p.seqlen_q = s.seqlen_q;
  p.seqlen_k = s.seqlen_k;
  p.seqlen_q_padded = (s.seqlen_q + 127) / 128 * 128;
  p.tiles_k = (s.seqlen_k + 127) / 128;
  p.softmax_scale = s.scale != 0 ? s.scale : 1.f / sqrtf(kD);
  p.q = {q, int64_t{s.seqlen_q} * s.heads_q * kD, int64_t{s.heads_q} * kD, kD};
  p.k = {k, int64_t{s.seqlen_k} * s.heads_kv * kD, int64_t{s.heads_kv} * kD, kD};
  p.v = {v, int64_t{s.seqlen_k} * s.heads_kv * kD, int64_t{s.heads_kv} * kD, kD};
  p.input = p.output = sizeof(T) == 2 && std::is_same_v<T, __half> ? Float::f16 : Float::bf16;
  T* out = mem.take<T>(nq);
  p.out = out;
  p.out_batch_stride = p.q.batch_stride;
  p.out_seq_stride = p.q.seq_stride;
  p.out_head_stride = kD;
  p.lse = mem.take<float>(int64_t{s.batch} * s.heads_q * s.seqlen_q);
  p.lse_batch_stride = int64_t{s.heads_q} * s.seqlen_q;
  p.lse_head_stride = s.seqlen_q;
  p.lse_seq_stride = 1;
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
  p.q8 = q8;
  p.q_scale = qs;
  p.k8 = k8;
  p.k_scale = ks;
  p.k_mean = means;
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

template <class T>
void prepare_any(AttentionParams& p, Buffers& mem, const Shape& s, bool want_bias) {
  if (s.head_dim == 64) prepare<T, 64>(p, mem, s, want_bias);
  if (s.head_dim == 96) prepare<T, 96>(p, mem, s, want_bias);
  if (s.head_dim == 128) prepare<T, 128>(p, mem, s, want_bias);
  if (s.head_dim == 256) prepare<T, 256>(p, mem, s, want_bias);
}

using Launch = cudaError_t (*)(const AttentionParams&, cudaStream_t);

inline cudaError_t run(Launch launch, const AttentionParams& p) {
  if (p.work_counter) CHECK(cudaMemsetAsync(p.work_counter, 0, 4));
  return launch(p, nullptr);
}

static __global__ void count_differences(const uint32_t* a, const uint32_t* b, int64_t n, int* count) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < n; i += int64_t{gridDim.x} * blockDim.x)
    if (a[i] != b[i]) atomicAdd(count, 1);
}

// TFLOPS of the median run; spread: between the first and last tenth, in percent.
inline double time_launch(Launch launch, const AttentionParams& p, const Shape& s, int repeats, double* spread) {
  std::vector<cudaEvent_t> at(repeats * 2);
  for (auto& e : at) CHECK(cudaEventCreate(&e));
  for (int i = 0; i < 3; ++i) CHECK(run(launch, p));
  for (int i = 0; i < repeats; ++i) {
    if (p.work_counter) CHECK(cudaMemsetAsync(p.work_counter, 0, 4));
    CHECK(cudaEventRecord(at[2 * i]));
    CHECK(launch(p, nullptr));
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
static __global__ void measure_clock(double* mhz) {
  uint64_t t0, t1;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(t0));
  int64_t c0 = clock64();
  do asm volatile("mov.u64 %0, %globaltimer;" : "=l"(t1));
  while (t1 - t0 < 200000);
  *mhz = double(clock64() - c0) / double(t1 - t0) * 1e3;
}

inline double clock_mhz() {
  static double* d = nullptr;
  if (!d) CHECK(cudaMalloc(&d, 8));
  double h;
  measure_clock<<<1, 1>>>(d);
  CHECK(cudaMemcpy(&h, d, 8, cudaMemcpyDeviceToHost));
  return h;
}
