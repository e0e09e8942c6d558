// Slow, plain GPU code for the kernel benchmarks: random inputs, the pre-pass of `chitu`, and attention in f64.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "../../src/cuda/sm90/params.h"

namespace bench {
using chitu::cuda::sm90::AttentionParams;

template <class T> __device__ float load(const T* p) { return static_cast<float>(*p); }

__device__ inline uint32_t mix(uint64_t x) {
  x ^= x >> 33; x *= 0xff51afd7ed558ccdull; x ^= x >> 33; x *= 0xc4ceb9fe1a85ec53ull; x ^= x >> 33;
  return static_cast<uint32_t>(x);
}

template <class T> __global__ void fill_normal(T* x, int64_t n, uint64_t seed, float scale, float shift) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < n; i += int64_t{gridDim.x} * blockDim.x) {
    float u = (mix(seed * 0x9e3779b97f4a7c15ull + 2 * i) + 1.f) * 2.3283064e-10f, v = mix(seed * 0x9e3779b97f4a7c15ull + 2 * i + 1) * 2.3283064e-10f;
    x[i] = T(scale * sqrtf(-2.f * logf(fminf(u, 1.f))) * cospif(2.f * v) + shift);
  }
}

// Rows at or beyond the length of their sequence become NaN.
template <class T> __global__ void poison(T* x, const int32_t* lengths, int batch, int seqlen, int width) {
  int64_t n = int64_t{batch} * seqlen * width;
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < n; i += int64_t{gridDim.x} * blockDim.x) {
    int b = i / width / seqlen, s = i / width % seqlen;
    if (s >= lengths[b]) x[i] = T(__int_as_float(0x7fc00000));
  }
}

__device__ inline void rotate(float* x, int d) {  // in place, one thread
  for (int i = 0; i < d; ++i) if (mix(i + 12345) & 1) x[i] = -x[i];
  int first = 0;
  for (int block = 256; block >= 1; block /= 2) {
    if (!(d & block)) continue;
    float* y = x + first;
    for (int stride = 1; stride < block; stride *= 2)
      for (int i = 0; i < block; ++i)
        if (!(i & stride)) { float a = y[i], b = y[i + stride]; y[i] = __fadd_rn(a, b); y[i + stride] = __fsub_rn(a, b); }
    float f = static_cast<float>(1.0 / sqrt(static_cast<double>(block)));
    for (int i = 0; i < block; ++i) y[i] = __fmul_rn(y[i], f);
    first += block;
  }
}

__device__ inline int8_t code_of(float x, float inv) { return static_cast<int8_t>(fminf(fmaxf(rintf(__fmul_rn(x, inv)), -127.f), 127.f)); }

// One thread per row of q.
template <class T, int kD> __global__ void quantize_q(AttentionParams p, int8_t* codes, float* scales) {
  int64_t row = blockIdx.x * int64_t{blockDim.x} + threadIdx.x;
  if (row >= int64_t{p.batch} * p.num_heads_q * p.seqlen_q_padded) return;
  int i = row % p.seqlen_q_padded, h = row / p.seqlen_q_padded % p.num_heads_q, b = row / p.seqlen_q_padded / p.num_heads_q;
  float x[kD];
  float a = 0;
  if (i < p.seqlen_q) {
    const T* q = static_cast<const T*>(p.q.data) + b * p.q.batch_stride + i * p.q.seq_stride + h * p.q.head_stride;
    for (int d = 0; d < kD; ++d) x[d] = p.softmax_scale < 0 ? -load(q + d) : load(q + d);
    rotate(x, kD);
    for (int d = 0; d < kD; ++d) a = fmaxf(a, fabsf(x[d]));
  } else {
    for (int d = 0; d < kD; ++d) x[d] = 77.f;  // junk on purpose
    a = 5.f;
  }
  scales[row] = a < 0x1p-100f ? 0.f : __fdiv_rn(a, 127.f);
  float inv = a < 0x1p-100f ? 0.f : __fdiv_rn(127.f, a);
  for (int d = 0; d < kD; ++d) codes[row * kD + d] = code_of(x[d], inv);
}

// One block of 128 threads per tile; thread = token.
template <class T, int kD> __global__ void quantize_k(AttentionParams p, int8_t* codes, float* scales, T* means) {
  extern __shared__ float tile[];  // [128][kD + 1]
  __shared__ float amax[4];
  int t = blockIdx.x, h = blockIdx.y, b = blockIdx.z, j = threadIdx.x;
  int length = p.seqlens_k ? min(p.seqlens_k[b], p.seqlen_k) : p.seqlen_k;
  int count = max(0, min(128, length - t * 128));
  const T* k = static_cast<const T*>(p.k.data) + b * p.k.batch_stride + h * p.k.head_stride;
  float* x = tile + j * (kD + 1);
  for (int d = 0; d < kD; ++d) x[d] = j < count ? __fmul_rn(load(k + (t * 128 + j) * p.k.seq_stride + d), 0x1p-7f) : 0.f;
  if (j < 4) amax[j] = 0;
  __syncthreads();
  int64_t index = (int64_t{b} * p.num_heads_kv + h) * p.tiles_k + t;
  for (int stride = 64; stride > 0; stride /= 2) {
    if (j < stride) for (int d = 0; d < kD; ++d) x[d] = __fadd_rn(x[d], tile[(j + stride) * (kD + 1) + d]);
    __syncthreads();
  }
  for (int d = j; d < kD; d += 128) means[index * kD + d] = T(count ? __fmul_rn(tile[d], static_cast<float>(128.0 / count)) : 0.f);
  __syncthreads();
  for (int d = 0; d < kD; ++d) x[d] = j < count ? __fsub_rn(load(k + (t * 128 + j) * p.k.seq_stride + d), load(means + index * kD + d)) : 0.f;
  rotate(x, kD);
  float a = 0;
  for (int d = 0; d < kD; ++d) a = fmaxf(a, fabsf(x[d]));
  atomicMax(reinterpret_cast<int*>(&amax[j / 2 % 4]), __float_as_int(a));
  __syncthreads();
  float group = amax[j / 2 % 4];
  float inv = group < 0x1p-100f ? 0.f : __fdiv_rn(127.f, group);
  for (int d = 0; d < kD; ++d) codes[(index * 128 + j) * kD + d] = j < count ? code_of(x[d], inv) : 111;
  if (j < 4) scales[index * 4 + j] = amax[j] < 0x1p-100f ? 0.f : __fdiv_rn(amax[j], 127.f);
}

// bias in log2 units, for kernels that take it from memory.
template <class T> __global__ void make_bias(AttentionParams p, float* bias) {
  int64_t at = blockIdx.x * int64_t{blockDim.x} + threadIdx.x;
  if (at >= int64_t{p.batch} * p.num_heads_q * p.tiles_k * p.seqlen_q_padded) return;
  int i = at % p.seqlen_q_padded, t = at / p.seqlen_q_padded % p.tiles_k, h = at / p.seqlen_q_padded / p.tiles_k % p.num_heads_q,
      b = at / p.seqlen_q_padded / p.tiles_k / p.num_heads_q;
  float dot = 0;
  if (i < p.seqlen_q) {
    const T* q = static_cast<const T*>(p.q.data) + b * p.q.batch_stride + i * p.q.seq_stride + h * p.q.head_stride;
    const T* mu = static_cast<const T*>(p.k_mean) + ((int64_t{b} * p.num_heads_kv + h / (p.num_heads_q / p.num_heads_kv)) * p.tiles_k + t) * p.head_dim;
    for (int d = 0; d < p.head_dim; ++d) dot += load(q + d) * load(mu + d);
  }
  bias[at] = dot * p.softmax_scale * 1.4426950408889634f;
}

// One block of 128 threads per row (i, h, b): f64 attention, from the codes or from the original tensors. Scores live in `scratch`.
template <class T> __global__ void reference(AttentionParams p, bool from_codes, double* scratch, double* out, double* lse) {
  __shared__ double shared[128];
  int i = blockIdx.x, h = blockIdx.y, b = blockIdx.z, tid = threadIdx.x, D = p.head_dim;
  int hk = h / (p.num_heads_q / p.num_heads_kv);
  int length = p.seqlens_k ? max(0, min(p.seqlens_k[b], p.seqlen_k)) : p.seqlen_k;
  int64_t diagonal = p.diagonal_from_length ? length - p.seqlen_q : p.diagonal;
  int64_t row = (int64_t{b} * p.num_heads_q + h) * gridDim.x + i;
  double* x = scratch + row * p.seqlen_k;
  int64_t qrow = (int64_t{b} * p.num_heads_q + h) * p.seqlen_q_padded + i;
  const T* q = static_cast<const T*>(p.q.data) + b * p.q.batch_stride + i * p.q.seq_stride + h * p.q.head_stride;
  double top = -INFINITY;
  for (int j = tid; j < length; j += 128) {
    bool seen = j >= i + diagonal - p.window_left && j <= i + diagonal + p.window_right;
    double value = -INFINITY;
    if (seen) {
      const T* k = static_cast<const T*>(p.k.data) + b * p.k.batch_stride + j * p.k.seq_stride + hk * p.k.head_stride;
      if (from_codes) {
        int64_t t = (int64_t{b} * p.num_heads_kv + hk) * p.tiles_k + j / 128;
        int dot = 0;
        double bias = 0;
        for (int d = 0; d < D; ++d) {
          dot += int{p.q8[qrow * D + d]} * int{p.k8[(t * 128 + j % 128) * D + d]};
          bias += double(load(q + d)) * load(static_cast<const T*>(p.k_mean) + t * D + d);
        }
        value = double(dot) * fabs(double(p.softmax_scale)) * p.q_scale[qrow] * p.k_scale[t * 4 + j / 2 % 4] + bias * p.softmax_scale;
      } else {
        value = 0;
        for (int d = 0; d < D; ++d) value += double(load(q + d)) * load(k + d);
        value *= p.softmax_scale;
      }
    }
    x[j] = value;
    top = fmax(top, value);
  }
  shared[tid] = top;
  __syncthreads();
  for (int j = 0; j < 128; ++j) top = fmax(top, shared[j]);
  __syncthreads();
  double sum = 0;
  for (int j = tid; j < length; j += 128) {
    x[j] = x[j] == -INFINITY ? 0 : exp(x[j] - top);
    sum += x[j];
  }
  shared[tid] = sum;
  __syncthreads();
  sum = 0;
  for (int j = 0; j < 128; ++j) sum += shared[j];
  for (int d = tid; d < D; d += 128) {
    double o = 0;
    for (int j = 0; j < length; ++j)
      if (x[j] != 0) o += x[j] * load(static_cast<const T*>(p.v.data) + b * p.v.batch_stride + j * p.v.seq_stride + hk * p.v.head_stride + d);
    out[row * D + d] = sum > 0 ? o / sum : 0;
  }
  if (tid == 0) lse[row] = sum > 0 ? top + log(sum) : -INFINITY;
}

// stats: |a - ref|^2, |ref|^2, max |lse difference|, not-finite or wrong-infinity count.
template <class T> __global__ void compare(AttentionParams p, const double* out, const double* lse, double* stats) {
  int64_t n = int64_t{p.batch} * p.num_heads_q * p.seqlen_q;
  double diff = 0, norm = 0, worst = 0, bad = 0;
  for (int64_t row = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; row < n; row += int64_t{gridDim.x} * blockDim.x) {
    int i = row % p.seqlen_q, h = row / p.seqlen_q % p.num_heads_q, b = row / p.seqlen_q / p.num_heads_q;
    const T* o = static_cast<const T*>(p.out) + b * p.out_batch_stride + i * p.out_seq_stride + h * p.out_head_stride;
    for (int d = 0; d < p.head_dim; ++d) {
      double a = load(o + d), r = out[row * p.head_dim + d];
      if (!isfinite(a)) bad += 1;
      diff += (a - r) * (a - r);
      norm += r * r;
    }
    if (p.lse) {
      double a = p.lse[b * p.lse_batch_stride + h * p.lse_head_stride + i * p.lse_seq_stride], r = lse[row];
      if (isinf(r) ? a != r : !isfinite(a)) bad += 1; else if (!isinf(r)) worst = fmax(worst, fabs(a - r));
    }
  }
  atomicAdd(stats, diff);
  atomicAdd(stats + 1, norm);
  atomicMax(reinterpret_cast<long long*>(stats + 2), __double_as_longlong(worst));
  atomicAdd(stats + 3, bad);
}

}  // namespace bench
