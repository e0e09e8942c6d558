// 128 rows of a [batch, seqlen, heads, head_dim] tensor in the registers of a block of 512 threads.
//
// Thread (warp w, lane l) holds row 16 * (l / 4) + w, and of it the 8-channel chunks l % 4 + 4i: value[8i + e] is channel 32i + 8 * (l % 4) + e.
// So a quad reads 64 contiguous bytes, three halvings of a sum over the tile are lane exchanges, and a rotation needs two.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "core/codec.h"
#include "cuda/params.h"

namespace chitu::cuda {

constexpr int kRowThreads = 512;

__device__ __forceinline__ int row_of_thread() { return threadIdx.x % 32 / 4 * 16 + threadIdx.x / 32; }
__device__ __forceinline__ int channel_of(int value) { return value / 8 * 32 + threadIdx.x % 4 * 8 + value % 8; }

__device__ __forceinline__ float to_f32(float x) { return x; }
__device__ __forceinline__ float to_f32(__half x) { return __half2float(x); }
__device__ __forceinline__ float to_f32(__nv_bfloat16 x) { return __bfloat162float(x); }

__device__ __forceinline__ float2 unpack_pair(uint32_t bits, __half) { return __half22float2(*reinterpret_cast<const __half2*>(&bits)); }
__device__ __forceinline__ float2 unpack_pair(uint32_t bits, __nv_bfloat16) {
  return make_float2(__uint_as_float(bits << 16), __uint_as_float(bits & 0xffff0000u));
}

// Eight aligned elements.
template <class Element>
__device__ __forceinline__ void load_vector(const Element* from, float* to) {
  const uint4 raw = __ldg(reinterpret_cast<const uint4*>(from));
  const uint32_t word[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 pair = unpack_pair(word[i], Element{});
    to[2 * i] = pair.x;
    to[2 * i + 1] = pair.y;
  }
}
__device__ __forceinline__ void load_vector(const float* from, float* to) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const float4 f = __ldg(reinterpret_cast<const float4*>(from) + i);
    to[4 * i] = f.x, to[4 * i + 1] = f.y, to[4 * i + 2] = f.z, to[4 * i + 3] = f.w;
  }
}

// Eight elements; those from `valid` on are zero and not read.
template <class Element>
__device__ __forceinline__ void load_chunk(const Element* from, int valid, bool aligned, float* to) {
  if (valid >= 8 && aligned) {
    load_vector(from, to);
  } else {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      to[i] = 0.0f;
      if (i < valid) to[i] = to_f32(from[i]);
    }
  }
}

// This thread's part of row `row`; zero when the row is not valid.
template <class Element, int kValues>
__device__ __forceinline__ void load_row(const View& v, std::int64_t batch, std::int64_t row, std::int64_t head, int head_dim, bool valid,
                                         float (&x)[kValues]) {
  const Element* from = static_cast<const Element*>(v.data) + batch * v.batch + row * v.seq + head * v.head + threadIdx.x % 4 * 8;
#pragma unroll
  for (int i = 0; i < kValues / 8; ++i) {
    load_chunk(from + 32 * i, valid ? head_dim - channel_of(8 * i) : 0, v.aligned16, x + 8 * i);
  }
}

// Largest of a quad (one row), by bits: NaN above Inf.
__device__ __forceinline__ uint32_t quad_max_bits(uint32_t x) {
  x = max(x, __shfl_xor_sync(~0u, x, 1));
  return max(x, __shfl_xor_sync(~0u, x, 2));
}

template <int kValues>
__device__ __forceinline__ uint32_t absmax_bits(const float (&x)[kValues]) {
  uint32_t a = 0;
#pragma unroll
  for (int i = 0; i < kValues; ++i) a = max(a, __float_as_uint(x[i]) & 0x7fffffffu);
  return a;
}

}  // namespace chitu::cuda
