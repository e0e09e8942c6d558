// Slow, plain GPU code for the benchmark of the kernels with 8-bit PV: V's pre-pass, and attention in f64 with the roundings of docs/methods.md 2 and 3.
#pragma once
#include "core/codec.h"
#include "cuda/params.h"
#include "sm90_reference.cuh"

namespace bench {
using chitu::cuda::value_position;

enum class Kind { fast, sage, int8 };  // chitu_fast, sage2 (without means), chitu_int8 (with channel weights 1)

// absmax over the valid keys, one thread per channel. grid (heads_kv, batch), head_dim threads.
template <class T>
__global__ void channel_absmax(AttentionParams p, float* absmax) {
  int h = blockIdx.x, b = blockIdx.y, d = threadIdx.x;
  int length = p.seqlens_k ? min(p.seqlens_k[b], p.seqlen_k) : p.seqlen_k;
  const T* v = static_cast<const T*>(p.v.data) + b * p.v.batch_stride + h * p.v.head_stride;
  float a = 0;
  for (int j = 0; j < length; ++j) a = fmaxf(a, fabsf(load(v + j * p.v.seq_stride + d)));
  absmax[(int64_t{b} * p.num_heads_kv + h) * p.head_dim + d] = a;
}

// One block of 128 threads per tile; thread = token. Slots behind the end hold codes 0. scale, limit, mean: of chitu_int8.
template <class T>
__global__ void make_v8(AttentionParams p, Kind kind, const float* absmax, uint8_t* codes, float* v_scale, float* scale, float* limit, float* mean) {
  __shared__ float token[128];
  int t = blockIdx.x, h = blockIdx.y, b = blockIdx.z, j = threadIdx.x, D = p.head_dim;
  int length = p.seqlens_k ? min(p.seqlens_k[b], p.seqlen_k) : p.seqlen_k;
  int count = max(0, min(128, length - t * 128));
  const T* v = static_cast<const T*>(p.v.data) + b * p.v.batch_stride + h * p.v.head_stride + int64_t{t * 128 + j} * p.v.seq_stride;
  int64_t head = int64_t{b} * p.num_heads_kv + h, tile = head * p.tiles_k + t;
  uint8_t* to = codes + tile * D * 128 + j / 16 * 16 + value_position(j % 16);
  if (kind != Kind::int8) {
    for (int d = 0; d < D; ++d) {
      auto g = chitu::core::group_scale(absmax[head * D + d], 448.f);
      to[d * 128] = j < count ? chitu::core::e4m3_code(load(v + d), g.inv) : 0;
      if (t == 0 && j == 0) v_scale[head * D + d] = g.scale;
    }
    return;
  }
  float a = 0;
  for (int d = 0; d < D && j < count; ++d) a = fmaxf(a, fabsf(load(v + d)));
  token[j] = a;
  __syncthreads();
  float largest = 0, smallest = INFINITY;
  for (int i = 0; i < count; ++i) largest = fmaxf(largest, token[i]), smallest = fminf(smallest, token[i]);
  bool flagged = largest > 4 * smallest;
  auto g = chitu::core::group_scale(flagged && j < count ? fmaxf(a, fmaxf(largest * 0x1p-24f, chitu::core::kZeroGroup)) : largest, 127.f);
  scale[tile * 128 + j] = g.scale;
  if (j == 0) limit[tile] = flagged ? 1e30f : 0.f;
  for (int d = 0; d < D; ++d) {
    to[d * 128] = j < count ? static_cast<uint8_t>(chitu::core::int8_code(load(v + d), g.inv)) : 0;
    if (t == 0 && j == 0) v_scale[head * D + d] = 1.f;
  }
  __syncthreads();
  for (int d = j; d < D; d += 128) {
    int sum = 0;
    for (int i = 0; i < 128; ++i) sum += static_cast<int8_t>(codes[(tile * D + d) * 128 + i]);
    mean[tile * D + d] = count ? __fdiv_rn(static_cast<float>(sum), static_cast<float>(count)) : 0.f;
  }
}

// Tokens j % 16 == 3 times `factor`: flags every tile.
template <class T>
__global__ void weaken_tokens(T* v, int64_t tokens, int width, float factor) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < tokens * width; i += int64_t{gridDim.x} * blockDim.x)
    if (i / width % 16 == 3) v[i] = T(load(v + i) * factor);
}

template <class Op>
__device__ double block_reduce(double x, double* shared, Op op) {
  __syncthreads();
  shared[threadIdx.x] = x;
  __syncthreads();
  x = shared[0];
  for (int i = 1; i < 128; ++i) x = op(x, shared[i]);
  return x;
}

// One block of 128 threads per row; thread = key of a tile. Weights are rounded as the specification says, sums are f64.
template <class T>
__global__ void reference8(AttentionParams p, Kind kind, uint32_t log_words, double* out, double* lse) {
  __shared__ double shared[128], weight[128];
  int i = blockIdx.x, h = blockIdx.y, b = blockIdx.z, tid = threadIdx.x, D = p.head_dim, hk = h / (p.num_heads_q / p.num_heads_kv);
  int length = p.seqlens_k ? max(0, min(p.seqlens_k[b], p.seqlen_k)) : p.seqlen_k;
  int64_t diagonal = p.diagonal_from_length ? length - p.seqlen_q : p.diagonal;
  int64_t qrow = (int64_t{b} * p.num_heads_q + h) * p.seqlen_q_padded + i, row = (int64_t{b} * p.num_heads_q + h) * p.seqlen_q + i;
  int64_t head = int64_t{b} * p.num_heads_kv + hk;
  const T* q = static_cast<const T*>(p.q.data) + b * p.q.batch_stride + i * p.q.seq_stride + h * p.q.head_stride;
  const auto add = [](double x, double y) { return x + y; };
  const auto larger = [](double x, double y) { return fmax(x, y); };
  double m = -INFINITY, l = 0, sum = 0, o[2] = {};
  for (int t = p.tiles_k - 1; t >= 0; --t) {
    int64_t tile = head * p.tiles_k + t;
    int j = t * 128 + tid, dot = 0;
    bool seen = j < length && j >= i + diagonal - p.window_left && j <= i + diagonal + p.window_right;
    for (int d = 0; d < D && seen; ++d) dot += int{p.q8[qrow * D + d]} * int{p.k8[(tile * 128 + tid) * D + d]};
    float factor = __fmul_rn(__fmul_rn(__fmul_rn(fabsf(p.softmax_scale), 1.4426950408889634f), p.q_scale[qrow]), p.k_scale[tile * 4 + tid / 2 % 4]);
    float x = seen ? __fmul_rn(static_cast<float>(dot), factor) : -INFINITY;
    float top = block_reduce(x, shared, larger);
    if (top == -INFINITY) continue;
    double bias = 0;
    for (int d = tid; d < D && p.k_mean; d += 128) bias += double(load(q + d)) * load(static_cast<const T*>(p.k_mean) + tile * D + d);
    bias = block_reduce(bias, shared, add) * p.softmax_scale * 1.4426950408889634;
    double m1 = fmax(m, top + bias), keep = exp2(m - m1), level = exp2(top + bias - m1);
    m = m1;
    double raw, code, unit = 1;  // of this key: weight, rounded weight; P is measured in units of `unit`
    float octaves = kind == Kind::sage ? x - static_cast<float>(m1) : x - top;
    raw = seen ? exp2(double(octaves)) : 0;
    double shift = 0, value_scale = 1;
    if (kind == Kind::fast) {
      code = chitu::core::e4m3_to_f32(chitu::core::f32_to_e4m3(static_cast<float>(256 * raw))) / 256;
      if (log_words >> (tid / 16) & 1 && seen) {
        float u = fmaxf(fmaf(8.f, octaves, 120.f - 0.46f), 0.f);
        code = raw = chitu::core::e4m3_to_f32(static_cast<uint8_t>(chitu::core::rne_small(u))) / 256;
      }
    } else if (kind == Kind::sage) {
      code = chitu::core::e4m3_to_f32(chitu::core::f32_to_e4m3(static_cast<float>(448 * raw))) / 448;
      level = 1;
    } else {
      bool flagged = p.shift_limit[tile] != 0;
      double mine = flagged ? raw * p.token_scale[tile * 128 + tid] : raw, most = flagged ? block_reduce(mine, shared, larger) : 1;
      double scaled = mine / most, rounded = seen ? rint(255 * scaled) / 255 : 0;
      double r = block_reduce(scaled, shared, add), c = block_reduce(rounded, shared, add), true_sum = flagged ? block_reduce(raw, shared, add) : r;
      bool corrected = flagged || fabs(r - c) > r / 64;
      unit = corrected ? true_sum : c;
      shift = corrected ? r - c : 0;
      value_scale = flagged ? most : p.token_scale[tile * 128];
      code = rounded;
      l = l * keep + level * unit;
      sum = sum * keep + level * true_sum;
    }
    if (kind != Kind::int8) {
      double codes = block_reduce(code, shared, add), raws = block_reduce(raw, shared, add);
      l = l * keep + level * (kind == Kind::fast ? codes : raws);
      sum = sum * keep + level * raws;
    }
    __syncthreads();
    weight[tid] = code;
    __syncthreads();
    for (int n = 0; n < 2; ++n) {
      int d = tid + 128 * n;
      if (d >= D) continue;
      const uint8_t* v = static_cast<const uint8_t*>(p.v8t) + (tile * D + d) * 128;
      double product = 0;
      for (int k = 0; k < 128; ++k) {
        uint8_t c = v[k / 16 * 16 + value_position(k % 16)];
        product += weight[k] * (kind == Kind::int8 ? double(static_cast<int8_t>(c)) : double(chitu::core::e4m3_to_f32(c)));
      }
      if (kind == Kind::int8) product += shift * p.tile_mean[tile * D + d];
      o[n] = o[n] * keep + level * value_scale * product;
    }
  }
  for (int n = 0; n < 2; ++n)
    if (tid + 128 * n < D) out[row * D + tid + 128 * n] = l > 0 ? o[n] / l * p.v_scale[head * D + tid + 128 * n] : 0;
  if (tid == 0) lse[row] = sum > 0 ? 0.6931471805599453 * (m + log2(sum)) : -INFINITY;
}

}  // namespace bench
