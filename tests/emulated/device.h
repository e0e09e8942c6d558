#pragma once

// Included before everything else where a CUDA source is compiled as C++: the words of the language and the intrinsics that the sources use.

#include <cuda_runtime_api.h>

#include <bit>
#include <climits>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "emulated/block.h"
#include "emulated/warp.h"

#define __global__
#define __host__
#define __device__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) __attribute__((aligned(n)))
// Of the thread that runs a launch: the blocks run there one after another, and the scheduler poisons all of it before each.
#define __shared__ static thread_local

#define threadIdx ::chitu::emulated::thread_index
#define blockIdx ::chitu::emulated::block_index
#define blockDim ::chitu::emulated::block_size
#define gridDim ::chitu::emulated::grid_size

struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }

inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }
inline unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }
inline unsigned max(unsigned a, unsigned b) { return a > b ? a : b; }
inline std::int64_t min(std::int64_t a, std::int64_t b) { return a < b ? a : b; }
inline std::int64_t max(std::int64_t a, std::int64_t b) { return a > b ? a : b; }

inline std::uint32_t __float_as_uint(float x) { return std::bit_cast<std::uint32_t>(x); }
inline float __uint_as_float(std::uint32_t x) { return std::bit_cast<float>(x); }
inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
inline int __float2int_rn(float x) { return static_cast<int>(std::nearbyint(x)); }
inline float __int2float_rn(int x) { return static_cast<float>(x); }

// The host rounds to nearest, and this code is built without contraction.
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float a) { return std::sqrt(a); }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __log2f(float x) { return std::log2(x); }

inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline std::uint32_t __byte_perm(std::uint32_t x, std::uint32_t y, std::uint32_t selector) {
  const std::uint64_t bytes = x | static_cast<std::uint64_t>(y) << 32;
  std::uint32_t r = 0;
  for (int i = 0; i < 4; ++i) r |= static_cast<std::uint32_t>(bytes >> ((selector >> 4 * i & 7) * 8) & 0xff) << 8 * i;
  return r;
}
inline int __dp4a(int a, int b, int c) {
  for (int i = 0; i < 32; i += 8) c += static_cast<std::int8_t>(a >> i) * static_cast<std::int8_t>(b >> i);
  return c;
}
inline unsigned __dp4a(unsigned a, unsigned b, unsigned c) {
  for (int i = 0; i < 32; i += 8) c += (a >> i & 0xff) * (b >> i & 0xff);
  return c;
}
template <class T>
inline T __ldg(const T* from) {
  return *from;
}

inline void __syncthreads() { chitu::emulated::barrier_sync(0, 0); }
inline void __syncwarp(unsigned mask = ~0u) { chitu::emulated::sync_warp(mask); }
template <class T>
inline T __shfl_sync(unsigned mask, T value, int source) {
  return std::bit_cast<T>(chitu::emulated::shuffle(mask, std::bit_cast<std::uint32_t>(value), source % 32));
}
template <class T>
inline T __shfl_xor_sync(unsigned mask, T value, int change) {
  return std::bit_cast<T>(chitu::emulated::shuffle(mask, std::bit_cast<std::uint32_t>(value), chitu::emulated::lane() ^ change));
}
inline int __any_sync(unsigned mask, int predicate) { return chitu::emulated::ballot("__any_sync", mask, predicate != 0) != 0; }
inline unsigned __ballot_sync(unsigned mask, int predicate) { return chitu::emulated::ballot("__ballot_sync", mask, predicate != 0); }
inline unsigned __reduce_max_sync(unsigned mask, unsigned value) { return chitu::emulated::reduce_max(mask, value); }

// One thread runs at a time.
inline unsigned atomicMax(unsigned* at, unsigned value) {
  const unsigned old = *at;
  if (value > old) *at = value;
  return old;
}
inline unsigned atomicMin(unsigned* at, unsigned value) {
  const unsigned old = *at;
  if (value < old) *at = value;
  return old;
}
inline int atomicAdd(int* at, int value) {
  const int old = *at;
  *at = old + value;
  return old;
}
inline std::uint32_t __cvta_generic_to_shared(const void* p) { return chitu::emulated::shared_address(p); }
