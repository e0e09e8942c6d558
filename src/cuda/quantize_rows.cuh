// Rows of q and k to int8 (docs/methods.md part 2, K and Q): mean, rotation, scales and codes from one read. Built without FMA contraction: every
// result is specified to the bit.
#pragma once
#include <type_traits>

#include "core/key_weights.h"
#include "core/rotation.h"
#include "cuda/quantize.h"
#include "cuda/rows.cuh"

namespace chitu::cuda {

// One level of the tree sum over rows: a lane gives half of its values to the lane kMask away and adds what it gets to the other half. x and y may be one.
template <int kMask, int kCount, bool kScale>
__device__ __forceinline__ void halve(const float* x, float* y) {
  const bool high = threadIdx.x & kMask;
#pragma unroll
  for (int i = 0; i < kCount / 2; ++i) {
    float keep = high ? x[kCount / 2 + i] : x[i], give = high ? x[i] : x[kCount / 2 + i];
    if (kScale) keep = __fmul_rn(keep, 0.0078125f), give = __fmul_rn(give, 0.0078125f);
    y[i] = __fadd_rn(keep, __shfl_xor_sync(~0u, give, kMask));
  }
}

__device__ __forceinline__ float rounded_to(float x, __half) { return __half2float(__float2half_rn(x)); }
__device__ __forceinline__ float rounded_to(float x, __nv_bfloat16) { return __bfloat162float(__float2bfloat16_rn(x)); }
__device__ __forceinline__ float rounded_to(float x, float) { return x; }
__device__ __forceinline__ void store_as(__half* to, float x) { *to = __float2half_rn(x); }
__device__ __forceinline__ void store_as(__nv_bfloat16* to, float x) { *to = __float2bfloat16_rn(x); }
__device__ __forceinline__ void store_as(float* to, float x) { *to = x; }

// Tree sum of x * 2^-7 over the 128 rows, strides 64 .. 16 across lanes, 8 .. 1 across warps: that of channel threadIdx.x, as far as there are channels.
template <class Element, int kValues>
__device__ __forceinline__ float tile_sum(const float (&x)[kValues], float* part) {
  constexpr int kBucket = kValues * 4;
  float y[kValues / 2];
  // The slots hold x * 2^-7, so that the sum cannot overflow. f16 cannot overflow or vanish in f32: there one factor at the end gives the same bits.
  constexpr bool kLate = std::is_same_v<Element, __half>;
  halve<16, kValues, !kLate>(x, y);
  halve<8, kValues / 2, false>(y, y);
  halve<4, kValues / 4, false>(y, y);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int first = (lane & 16 ? kValues / 2 : 0) + (lane & 8 ? kValues / 4 : 0) + (lane & 4 ? kValues / 8 : 0);
#pragma unroll
  for (int i = 0; i < kValues / 8; ++i) part[warp * kBucket + channel_of(first + i)] = y[i];
  __syncthreads();
  const int d = threadIdx.x;
  if (d >= kBucket) return 0.0f;
  float s[16];
#pragma unroll
  for (int w = 0; w < 16; ++w) s[w] = part[w * kBucket + d];
#pragma unroll
  for (int stride = 8; stride > 0; stride /= 2)
#pragma unroll
    for (int w = 0; w < 8; ++w)
      if (w < stride) s[w] = __fadd_rn(s[w], s[w + stride]);
  return kLate ? __fmul_rn(s[0], 0.0078125f) : s[0];
}

// mean[channel] of the tile, rounded to the dtype of the input. out: null, or where it is stored.
template <class Element, int kValues>
__device__ __forceinline__ void tile_mean(const float (&x)[kValues], int count, int head_dim, float* part, float* mean, Element* out) {
  const float sum = tile_sum<Element>(x, part);
  const int d = threadIdx.x;
  if (d < kValues * 4) {
    const float m = __fmul_rn(sum, __fdiv_rn(128.0f, static_cast<float>(count)));
    mean[d] = d < head_dim ? rounded_to(m, Element{}) : 0.0f;
    if (out != nullptr && d < code_dim(head_dim)) store_as(out + d, d < head_dim ? m : 0.0f);
  }
  __syncthreads();
}

// f32(1/sqrt(2^log2_block)) as core::rotation_norm has it, without its table.
__device__ __forceinline__ float block_norm(int log2_block) {
  return __uint_as_float((127 - log2_block / 2) << 23) * (log2_block & 1 ? 0.70710678118654752f : 1.0f);
}

// core::rotate_row with factor[d], sign and weight, in place of the sign. kWhole: head_dim is the whole bucket, one block. Else it is split into powers of two,
// largest first: the block of channel d < head_dim is the highest bit of d ^ head_dim. Channels behind head_dim are zero, and stay so whatever is done among
// them.
template <bool kWhole, int kValues>
__device__ __forceinline__ void rotate(float (&x)[kValues], const float* factor, int head_dim) {
  const int quad_lane = threadIdx.x % 4, tail = head_dim % 8;
  auto chunk_bits = [&](int i) { return channel_of(i / 8 * 8) ^ (head_dim - tail); };  // of d ^ head_dim from bit 3 on
  auto inside = [&](int i, int stride) {
    if (kWhole) return true;
    if (stride >= 8) return chunk_bits(i) >= 2 * stride;
    return chunk_bits(i) != 0 || (i % 8 ^ tail) >= 2 * stride;
  };
#pragma unroll
  for (int i = 0; i < kValues; i += 4) {
    const float4 f = *reinterpret_cast<const float4*>(factor + channel_of(i));
    x[i] = __fmul_rn(x[i], f.x), x[i + 1] = __fmul_rn(x[i + 1], f.y), x[i + 2] = __fmul_rn(x[i + 2], f.z), x[i + 3] = __fmul_rn(x[i + 3], f.w);
  }
  auto in_thread = [&](int step, int stride) {  // values `step` apart are channels `stride` apart
#pragma unroll
    for (int i = 0; i < kValues; ++i) {
      if (i & step || !inside(i, stride)) continue;
      const float a = x[i], b = x[i + step];
      x[i] = __fadd_rn(a, b);
      x[i + step] = __fsub_rn(a, b);
    }
  };
  in_thread(1, 1);
  in_thread(2, 2);
  in_thread(4, 4);
#pragma unroll
  for (int mask = 1; mask <= 2; mask *= 2)
#pragma unroll
    for (int i = 0; i < kValues; ++i) {
      const float other = __shfl_xor_sync(~0u, x[i], mask);
      const float y = __fmaf_rn(x[i], quad_lane & mask ? -1.0f : 1.0f, other);  // other - x or other + x: the product is exact
      if (inside(i, 8 * mask)) x[i] = y;
    }
#pragma unroll
  for (int step = 8; step < kValues; step *= 2) in_thread(step, 4 * step);
#pragma unroll
  for (int i = 0; i < kValues; ++i) {
    const int bits = kWhole ? kValues * 4 : chunk_bits(i) != 0 ? chunk_bits(i) : i % 8 ^ tail;
    if (kWhole || bits > 0) x[i] = __fmul_rn(x[i], block_norm(31 - __clz(bits)));
  }
}

// Codes of eight values. inv 0 (a group of zeros, or one with a NaN): all 0.
__device__ __forceinline__ uint2 int8_codes(const float* x, float inv) {
  uint32_t c[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) c[i] = int8_bits(__fmul_rn(x[i], inv));
  return inv == 0.0f ? make_uint2(0, 0) : make_uint2(low_bytes(c[0], c[1], c[2], c[3]), low_bytes(c[4], c[5], c[6], c[7]));
}

__device__ __forceinline__ int group_in_block(int row, int block, int groups) { return row / block * groups + (groups == 1 ? 0 : row % 8 / (8 / groups)); }

// absmax of the group of this thread's row. group_max: 128 zeroed words.
__device__ __forceinline__ uint32_t group_absmax(const QuantizeRowsParams& p, uint32_t row_max, int row, uint32_t* group_max) {
  if (p.block == 1) return row_max;
  const int group = group_in_block(row, p.block, p.groups);
  if (p.block == kTile) {  // the rows of a warp are 16 apart: one group
    const uint32_t warp_max = __reduce_max_sync(~0u, row_max);
    if (threadIdx.x % 32 == 0) atomicMax(group_max + group, warp_max);
  } else if (threadIdx.x % 4 == 0) {
    atomicMax(group_max + group, row_max);
  }
  __syncthreads();
  return group_max[group];
}

__device__ __forceinline__ void store_block_scales(const QuantizeRowsParams& p, std::int64_t tile, const uint32_t* group_max) {
  const int blocks = kTile / p.block, i = threadIdx.x;
  if (i >= blocks * 4) return;
  const int group = i / 4 * p.groups + (p.groups == 1 ? 0 : i % 4);
  p.scale[tile * blocks * 4 + i] = core::group_scale(__uint_as_float(group_max[group]), 127.0f).scale;
}

// factor[d] of a head on its way from memory to the threads of a warp: each lane loads some, early, and all of the warp read them in shared memory. Loaded
// straight by the thread that multiplies, they would be hoisted into registers that are not there.
template <int kBucket>
struct ChannelFactors {
  float4 own[(kBucket + 127) / 128];

  __device__ __forceinline__ ChannelFactors(const float* factor, std::int64_t head, int dim) {
#pragma unroll
    for (int i = 0; i < kBucket; i += 128) {
      const int d = i + threadIdx.x % 32 * 4;
      own[i / 128] = float4{0.0f, 0.0f, 0.0f, 0.0f};
      if (factor != nullptr && d < dim) own[i / 128] = __ldg(reinterpret_cast<const float4*>(factor + head * dim + d));
    }
  }
  // part: [16][kBucket], free from here on.
  __device__ __forceinline__ const float* share(float* part) const {
    float* of_warp = part + threadIdx.x / 32 * kBucket;
#pragma unroll
    for (int i = 0; i < kBucket; i += 128) {
      const int d = i + threadIdx.x % 32 * 4;
      if (d < kBucket) *reinterpret_cast<float4*>(of_warp + d) = own[i / 128];
    }
    __syncwarp();
    return of_warp;
  }
};

template <class Element, int kValues, bool kWhole>
__device__ __forceinline__ void quantize_block(const QuantizeRowsParams& p, std::int64_t block_index) {
  constexpr int kBucket = kValues * 4;
  __shared__ __align__(16) float part[16 * kBucket];
  __shared__ float mean[kBucket];
  __shared__ uint32_t group_max[kTile];
  const std::int64_t blocks = div_up(p.is_q ? p.sequence.seqlen_q : p.sequence.seqlen_k, kTile);
  const int first = static_cast<int>(block_index % blocks) * kTile, head = static_cast<int>(block_index / blocks % p.heads);
  const std::int64_t b = block_index / blocks / p.heads;
  const SequenceRange r = p.sequence.range(b);
  const int count = static_cast<int>((p.is_q ? r.q_len : r.k_len) - first);
  if (count <= 0) return;
  const int row = row_of_thread(), quad_lane = threadIdx.x % 4;
  const bool valid = row < count;
  if (threadIdx.x < kTile) group_max[threadIdx.x] = 0;  // a barrier follows before its first use
  const std::int64_t first_row = (p.is_q ? r.q_begin : r.k_begin) + first;
  const std::int64_t head_index = r.tensor_batch * p.heads + head;
  const std::int64_t tile = head_index * p.sequence.tiles_k + p.sequence.first_tile(r, b) + first / kTile;  // k
  const std::int64_t kv_head = b * (p.heads / p.heads_per_kv) + head / p.heads_per_kv;
  ChannelFactors<kBucket> factors(p.factor, kv_head, code_dim(p.head_dim));
  float x[kValues];
  load_row<Element>(p.x, r.tensor_batch, first_row + row, head, p.head_dim, valid, x);
  if (p.tile_mean) {
    tile_mean(x, min(count, kTile), p.head_dim, part, mean, static_cast<Element*>(p.mean) + tile * code_dim(p.head_dim));
#pragma unroll
    for (int i = 0; i < kValues; ++i) x[i] = valid ? __fsub_rn(x[i], mean[channel_of(i)]) : 0.0f;
  } else if (p.block != 1) {
    __syncthreads();
  }
  if (p.sequence_mean != nullptr) {
    const float* m = p.sequence_mean + kv_head * p.head_dim;
    float dot = 0.0f;
#pragma unroll
    for (int i = 0; i < kValues; ++i) {
      const float c = channel_of(i) < p.head_dim ? m[channel_of(i)] : 0.0f;
      if (p.is_q) {
        dot += x[i] * c;
      } else {
        x[i] = valid ? __fsub_rn(x[i], c) : 0.0f;
      }
    }
    if (p.is_q) {
      dot += __shfl_xor_sync(~0u, dot, 1);
      dot += __shfl_xor_sync(~0u, dot, 2);
      if (valid && quad_lane == 0) p.mean_dot[head_index * p.sequence.q_rows + first_row + row] = dot * p.softmax_scale;
    }
  }
  if (p.negate) {
#pragma unroll
    for (int i = 0; i < kValues; ++i) x[i] = -x[i];
  }
  if (p.factor != nullptr) rotate<kWhole>(x, factors.share(part), p.head_dim);
  const uint32_t largest = group_absmax(p, quad_max_bits(absmax_bits(x)), row, group_max);
  const core::GroupScale s = core::group_scale(__uint_as_float(largest), 127.0f);
  const std::int64_t code_row = p.is_q ? head_index * p.sequence.q_rows + first_row + row : tile * kTile + row;
  if (p.is_q || p.block == 1) {
    if (quad_lane == 0 && (valid || !p.is_q)) p.scale[code_row] = s.scale;
  } else {
    store_block_scales(p, tile, group_max);
  }
  if (p.is_q && !valid) return;
  std::int8_t* to = p.codes + code_row * code_dim(p.head_dim) + quad_lane * 8;
#pragma unroll
  for (int i = 0; i < kValues / 8; ++i) {
    if (channel_of(8 * i) < code_dim(p.head_dim)) *reinterpret_cast<uint2*>(to + 32 * i) = int8_codes(x + 8 * i, s.inv);
  }
}

// The first k_blocks blocks are tiles of K, the others blocks of Q. kWhole: head_dim is the whole bucket.
template <class Element, int kValues, bool kWhole>
__global__ void __launch_bounds__(kRowThreads, kWhole&& kValues <= 32 && sizeof(Element) == 2 ? 2 : 1)
    quantize_rows_kernel(const __grid_constant__ QuantizePairParams p) {
  if (blockIdx.x < p.k_blocks) {
    quantize_block<Element, kValues, kWhole>(p.k, blockIdx.x);
  } else {
    quantize_block<Element, kValues, kWhole>(p.q, blockIdx.x - p.k_blocks);
  }
}

// Weights of K's channels: one block per (sequence, KV head), over its first tile if that is full.
template <class Element, int kValues>
__global__ void __launch_bounds__(kRowThreads) key_factors_kernel(const __grid_constant__ KeyFactorsParams p) {
  constexpr int kBucket = kValues * 4;
  __shared__ float part[16 * kBucket];
  __shared__ float mean[kBucket];
  __shared__ int exponent[kBucket], median;
  const int head = static_cast<int>(blockIdx.x % p.heads), d = threadIdx.x;
  const std::int64_t b = blockIdx.x / p.heads;
  const SequenceRange r = p.sequence.range(b);
  if (p.weights && r.k_len >= kTile) {  // the same for all threads
    float x[kValues];
    load_row<Element>(p.x, r.tensor_batch, r.k_begin + row_of_thread(), head, p.head_dim, true, x);
    tile_mean<Element>(x, kTile, p.head_dim, part, mean, static_cast<Element*>(nullptr));
#pragma unroll
    for (int i = 0; i < kValues; ++i) x[i] = fabsf(__fsub_rn(x[i], mean[channel_of(i)]));
    const float residual = tile_sum<Element>(x, part);
    if (d < kBucket) exponent[d] = d < p.head_dim ? core::key_exponent(residual) : core::kNoExponent;
  } else if (d < kBucket) {
    exponent[d] = core::kNoExponent;
  }
  __syncthreads();
  if (d < p.head_dim && exponent[d] != core::kNoExponent) {
    int rank = 0, n = 0;
    for (int j = 0; j < p.head_dim; ++j) {
      n += exponent[j] != core::kNoExponent;
      rank += exponent[j] < exponent[d] || (exponent[j] == exponent[d] && j < d);
    }
    if (rank == (n - 1) / 2) median = exponent[d];
  }
  __syncthreads();
  if (d >= code_dim(p.head_dim)) return;
  const int log2_weight = exponent[d] == core::kNoExponent ? 0 : core::key_weight_log2(exponent[d], median);
  const std::int64_t at = blockIdx.x * static_cast<std::int64_t>(code_dim(p.head_dim)) + d;
  const uint32_t sign = core::rotation_sign(d) ? 0x80000000u : 0u;
  p.q_factor[at] = __uint_as_float(sign | (127u + log2_weight) << 23);
  p.k_factor[at] = __uint_as_float(sign | (127u - log2_weight) << 23);
}

template <int kHeadDim>
KeyFactorsKernel key_factors_kernel_of(DType t) {
  if (t == DType::f32) return key_factors_kernel<float, kHeadDim / 4>;
  return t == DType::bf16 ? key_factors_kernel<__nv_bfloat16, kHeadDim / 4> : key_factors_kernel<__half, kHeadDim / 4>;
}

template <int kHeadDim, bool kWhole>
RowsKernel rows_kernel(DType t) {
  if (t == DType::f32) return quantize_rows_kernel<float, kHeadDim / 4, kWhole>;
  return t == DType::bf16 ? quantize_rows_kernel<__nv_bfloat16, kHeadDim / 4, kWhole> : quantize_rows_kernel<__half, kHeadDim / 4, kWhole>;
}

}  // namespace chitu::cuda
