// 128 rows of a [batch, seqlen, heads, head_dim] tensor in the registers of a block of 512 threads.
//
// Thread (warp w, lane l) holds row 16 * (l / 4) + w, and of it the 8-channel chunks l % 4 + 4i: value[8i + e] is channel 32i + 8 * (l % 4) + e.
// So a quad reads 64 contiguous bytes, three halvings of a sum over the tile are lane exchanges, and a rotation needs two.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "core/codec.h"
#include "cuda/device/ptx/max.cuh"
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

// Eight aligned elements as they lie, and in f32.
template <class Element>
struct Vector8 {
  uint4 raw;
  __device__ __forceinline__ void load(const Element* from) { raw = __ldg(reinterpret_cast<const uint4*>(from)); }
  __device__ __forceinline__ void unpack(float* to) const {
    const uint32_t word[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 pair = unpack_pair(word[i], Element{});
      to[2 * i] = pair.x;
      to[2 * i + 1] = pair.y;
    }
  }
};
template <>
struct Vector8<float> {
  float4 raw[2];
  __device__ __forceinline__ void load(const float* from) {
    raw[0] = __ldg(reinterpret_cast<const float4*>(from));
    raw[1] = __ldg(reinterpret_cast<const float4*>(from) + 1);
  }
  __device__ __forceinline__ void unpack(float* to) const {
    to[0] = raw[0].x, to[1] = raw[0].y, to[2] = raw[0].z, to[3] = raw[0].w;
    to[4] = raw[1].x, to[5] = raw[1].y, to[6] = raw[1].z, to[7] = raw[1].w;
  }
};

// This thread's part of row `row`; zero when the row is not valid.
template <class Element, int kValues>
__device__ __forceinline__ void load_row(const View& v, std::int64_t batch, std::int64_t row, std::int64_t head, int head_dim, bool valid,
                                         float (&x)[kValues]) {
  const Element* from = static_cast<const Element*>(v.data) + batch * v.batch + row * v.seq + head * v.head + threadIdx.x % 4 * 8;
  if (v.aligned16 && head_dim % 8 == 0) {  // the same for all threads: first all loads, then the first use
    Vector8<Element> raw[kValues / 8] = {};
#pragma unroll
    for (int i = 0; i < kValues / 8; ++i)
      if (valid && channel_of(8 * i) < head_dim) raw[i].load(from + 32 * i);
#pragma unroll
    for (int i = 0; i < kValues / 8; ++i) raw[i].unpack(x + 8 * i);
  } else {
#pragma unroll
    for (int i = 0; i < kValues; ++i) {
      x[i] = 0.0f;
      if (valid && channel_of(i) < head_dim) x[i] = to_f32(from[i / 8 * 32 + i % 8]);
    }
  }
}

// Largest of a quad (one row), by bits: NaN above Inf.
__device__ __forceinline__ uint32_t quad_max_bits(uint32_t x) {
  x = max(x, __shfl_xor_sync(~0u, x, 1));
  return max(x, __shfl_xor_sync(~0u, x, 2));
}

// Larger of |a| and |b|, NaN when either is; one instruction.
__device__ __forceinline__ float absmax_nan(float a, float b) { return ptx::max_nan(fabsf(a), fabsf(b)); }

template <int kValues>
__device__ __forceinline__ uint32_t absmax_bits(const float (&x)[kValues]) {
  float a[2] = {fabsf(x[0]), fabsf(x[1])};
#pragma unroll
  for (int i = 2; i < kValues; ++i) a[i % 2] = absmax_nan(a[i % 2], x[i]);
  return __float_as_uint(absmax_nan(a[0], a[1]));
}

}  // namespace chitu::cuda
