// What the kernels of the pre-pass share: where a tile of keys lies, eight channels of a row at a time, largest values and codes.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "core/codec.h"
#include "cuda/device/ptx/max.cuh"
#include "cuda/params.h"

namespace chitu::cuda {

constexpr int kMaxHeadDim = 256;

__device__ __forceinline__ float to_f32(float x) { return x; }
__device__ __forceinline__ float to_f32(__half x) { return __half2float(x); }
__device__ __forceinline__ float to_f32(__nv_bfloat16 x) { return __bfloat162float(x); }

__device__ __forceinline__ float rounded_to(float x, __half) { return __half2float(__float2half_rn(x)); }
__device__ __forceinline__ float rounded_to(float x, __nv_bfloat16) { return __bfloat162float(__float2bfloat16_rn(x)); }
__device__ __forceinline__ float rounded_to(float x, float) { return x; }

__device__ __forceinline__ float2 unpack_pair(uint32_t bits, __half) { return __half22float2(*reinterpret_cast<const __half2*>(&bits)); }
__device__ __forceinline__ float2 unpack_pair(uint32_t bits, __nv_bfloat16) {
  return make_float2(__uint_as_float(bits << 16), __uint_as_float(bits & 0xffff0000u));
}

// Eight elements as they lie, and in f32. load: aligned; load_some: the first n, the others zero.
template <class Element>
struct Vector8 {
  uint4 raw;
  __device__ __forceinline__ void load(const Element* from) { raw = __ldg(reinterpret_cast<const uint4*>(from)); }
  __device__ __forceinline__ void load_some(const Element* from, int n) {
    uint32_t half[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) half[i] = i < n ? __ldg(reinterpret_cast<const uint16_t*>(from) + i) : 0u;
    raw = make_uint4(half[0] | half[1] << 16, half[2] | half[3] << 16, half[4] | half[5] << 16, half[6] | half[7] << 16);
  }
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
  __device__ __forceinline__ void load_some(const float* from, int n) {
    float x[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) x[i] = i < n ? __ldg(from + i) : 0.0f;
    raw[0] = float4{x[0], x[1], x[2], x[3]};
    raw[1] = float4{x[4], x[5], x[6], x[7]};
  }
  __device__ __forceinline__ void unpack(float* to) const {
    to[0] = raw[0].x, to[1] = raw[0].y, to[2] = raw[0].z, to[3] = raw[0].w;
    to[4] = raw[1].x, to[5] = raw[1].y, to[6] = raw[1].z, to[7] = raw[1].w;
  }
};

// One tile of 128 keys of one head.
struct KeyTile {
  SequenceRange range;
  std::int64_t b, tile;  // tile: in arrays of tiles
  int head, first;       // first: key of the sequence
  int count;             // keys, at most 128; none if not positive

  // index: tile + tiles * (head + heads * b), with as many tiles for each sequence as the longest may have.
  __device__ __forceinline__ KeyTile(const Sequence& s, int heads, uint32_t index) {
    const uint32_t tiles = static_cast<uint32_t>(div_up(s.seqlen_k, kTile)), row = index / tiles;
    first = static_cast<int>(index % tiles) * kTile;
    head = static_cast<int>(row % heads);
    b = row / heads;
    range = s.range(b);
    count = static_cast<int>(min(range.k_len - first, std::int64_t{kTile}));
    tile = (range.tensor_batch * heads + head) * s.tiles_k + s.first_tile(range, b) + first / kTile;
  }
};

// Eight channels of consecutive rows of one head of a view, as far as there are rows and channels.
template <class Element>
struct Chunk {
  const Element* from;
  std::int64_t stride;
  int rows, channels;
  bool aligned;

  __device__ __forceinline__ Chunk(const View& v, std::int64_t batch, std::int64_t row, int head, int rows, int head_dim, int chunk)
      : from(static_cast<const Element*>(v.data) + batch * v.batch + row * v.seq + head * v.head + chunk * 8),
        stride(v.seq),
        rows(rows),
        channels(head_dim - chunk * 8),
        aligned(v.aligned16 && head_dim % 8 == 0) {}
  template <int kCount>
  __device__ __forceinline__ void load(Vector8<Element> (&x)[kCount], const int (&row)[kCount]) const {
    if (aligned) {  // the same for all threads: first all loads, then the first use
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        x[i] = {};
        if (row[i] < rows && channels > 0) x[i].load(from + row[i] * stride);
      }
    } else {
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        x[i] = {};
        if (row[i] < rows) x[i].load_some(from + row[i] * stride, channels);
      }
    }
  }
  // Rows first, first + step, ..
  template <int kCount>
  __device__ __forceinline__ void load(Vector8<Element> (&x)[kCount], int first, int step) const {
    int row[kCount];
#pragma unroll
    for (int i = 0; i < kCount; ++i) row[i] = first + i * step;
    load(x, row);
  }
};
// Largest of a quad, by bits: NaN above Inf.
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

// The int8 code of |y| < 127.5 (no clamp) in the low byte.
__device__ __forceinline__ uint32_t int8_bits(float y) { return __float_as_uint(__fadd_rn(y, 12582912.0f)); }
__device__ __forceinline__ uint32_t low_bytes(uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
  return __byte_perm(__byte_perm(a, b, 0x0040), __byte_perm(c, d, 0x0040), 0x5410);
}

}  // namespace chitu::cuda
