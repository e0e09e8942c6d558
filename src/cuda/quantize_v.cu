// V as the kernels read it: 16-bit values in their own layout, or 8-bit codes with the keys of a channel side by side. Built without FMA contraction.
#include "cuda/device/ptx/shared.cuh"
#include "cuda/quantize.h"
#include "cuda/rows.cuh"
#include "cuda/sm80/ptx.cuh"

namespace chitu::cuda {
namespace {

// Two e4m3 codes, `low` in the low byte. Finite values within the range: neither NaN nor saturation, where hardware and core/codec.h might differ.
__device__ __forceinline__ uint32_t e4m3_codes(float low, float high) {
#if __CUDA_ARCH__ >= 890
  return sm80::ptx::pack_e4m3(low, high);
#else
  return core::f32_to_e4m3(low) | core::f32_to_e4m3(high) << 8;
#endif
}

// Their values in f16.
__device__ __forceinline__ uint32_t e4m3_values(uint32_t codes) {
#if __CUDA_ARCH__ >= 890
  return sm80::ptx::unpack_e4m3(codes);
#else
  return sm80::ptx::pack_f16(core::e4m3_to_f32(codes & 0xff), core::e4m3_to_f32(codes >> 8 & 0xff));
#endif
}

// factor[d] of a chunk; 0 behind the last channel.
__device__ __forceinline__ void load_factors(const QuantizeVParams& p, const KeyTile& at, int chunk, float (&factor)[8]) {
  const float* from = p.factor + (at.b * p.heads + at.head) * p.head_dim + chunk * 8;
#pragma unroll
  for (int e = 0; e < 8; ++e) factor[e] = chunk * 8 + e < p.head_dim ? __ldg(from + e) : 0.0f;
}

constexpr int kRowsThreads = 256, kRowsAtOnce = 8;  // of v_rows_kernel

// f16 copies of V, and e4m3 codes or their values. One block per tile; a thread has eight channels of every (threads / chunks)-th row.
template <class Element, VCodes kCodes>
__global__ void __launch_bounds__(kRowsThreads) v_rows_kernel(const __grid_constant__ QuantizeVParams p) {
  const KeyTile at(p.sequence, p.heads, blockIdx.x);
  const int chunks = static_cast<int>(div_up(p.head_dim, 8)), step = kRowsThreads / chunks, chunk = threadIdx.x % chunks, row0 = threadIdx.x / chunks;
  if (at.count <= 0 || row0 >= step) return;
  const std::int64_t key = at.range.k_begin + at.first, keys = p.sequence.packed ? p.sequence.total_k : p.sequence.seqlen_k;
  const std::int64_t row_stride = std::int64_t{p.heads} * code_dim(p.head_dim);
  const std::int64_t to = (at.range.tensor_batch * keys + key) * row_stride + at.head * code_dim(p.head_dim) + chunk * 8;
  const Chunk<Element> rows(p.x, at.range.tensor_batch, key, at.head, at.count, p.head_dim, chunk);
  float factor[8];
  if constexpr (kCodes != VCodes::copy) load_factors(p, at, chunk, factor);
#pragma unroll 1
  for (int row = row0; row < at.count; row += kRowsAtOnce * step) {
    Vector8<Element> raw[kRowsAtOnce];
    rows.load(raw, row, step);
#pragma unroll
    for (int i = 0; i < kRowsAtOnce; ++i) {
      if (row + i * step >= at.count) break;
      const std::int64_t at_row = to + (row + i * step) * row_stride;
      float x[8];
      uint32_t y[4];
      if constexpr (kCodes == VCodes::copy) {
        y[0] = raw[i].raw.x, y[1] = raw[i].raw.y, y[2] = raw[i].raw.z, y[3] = raw[i].raw.w;
      } else {
        raw[i].unpack(x);
#pragma unroll
        for (int e = 0; e < 8; e += 2) {
          const float a = __fmul_rn(x[e], factor[e]), b = __fmul_rn(x[e + 1], factor[e + 1]);
          if constexpr (kCodes == VCodes::f16) {
            y[e / 2] = sm80::ptx::pack_f16(a, b);
          } else {  // a factor of 0 gives 0 even for NaN: the scale carries it
            const uint32_t codes = e4m3_codes(factor[e] == 0.0f ? 0.0f : a, factor[e + 1] == 0.0f ? 0.0f : b);
            y[e / 2] = kCodes == VCodes::e4m3 ? codes : e4m3_values(codes);
          }
        }
      }
      if constexpr (kCodes == VCodes::e4m3) {
        *reinterpret_cast<uint2*>(p.v8 + at_row) = make_uint2(y[0] | y[1] << 16, y[2] | y[3] << 16);
      } else {
        *reinterpret_cast<uint4*>(p.v16 + at_row) = make_uint4(y[0], y[1], y[2], y[3]);
      }
    }
  }
}

// Word of the codes of channel d in shared memory: 32 words a channel, 16 bytes of them for 16 keys. Moved so that neither four chunks of eight quads of keys
// nor eight keys of one channel meet in a bank.
__device__ __forceinline__ int word_of(int d, int quad) { return d * 32 + (quad / 4 ^ d / 8 % 4 * 2) * 4 + quad % 4; }

// What a block knows of the tokens of a tile (C3).
struct TokenScales {
  float parts[kMaxHeadDim / 32][kTile];  // largest |w| of a token in each 32 channels
  float slot[kTile];                     // scales as the codes lie
  uint32_t limit;
};

// Scale, inverse and flag of a tile, the same for all threads; those of the thread's four tokens in inv. w: their values, channels of this thread.
__device__ __forceinline__ bool token_scales(const QuantizeVParams& p, const KeyTile& at, const float (&w)[4][8], const int (&row)[4], int quad, int parts,
                                             TokenScales& shared, float (&inv)[4]) {
  const int lane = threadIdx.x % 32, part = threadIdx.x / 128;
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const uint32_t a = quad_max_bits(absmax_bits(w[k]));
    if (lane % 4 == 0) shared.parts[part][row[k]] = __uint_as_float(a);
  }
  __syncthreads();
  uint32_t largest = 0, smallest = 0x7fffffffu;
  float4 a = {0.0f, 0.0f, 0.0f, 0.0f};
  for (int i = 0; i < parts; ++i) {
    const float4 x = *reinterpret_cast<const float4*>(&shared.parts[i][lane * 4]);
    a = {absmax_nan(a.x, x.x), absmax_nan(a.y, x.y), absmax_nan(a.z, x.z), absmax_nan(a.w, x.w)};
  }
  const float of_token[4] = {a.x, a.y, a.z, a.w};
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    if (lane * 4 + k >= at.count) continue;
    largest = max(largest, __float_as_uint(of_token[k]));
    smallest = min(smallest, __float_as_uint(of_token[k]));
  }
  const float top = __uint_as_float(__reduce_max_sync(~0u, largest)), bottom = __uint_as_float(~__reduce_max_sync(~0u, ~smallest));
  const core::GroupScale tile = core::group_scale(top, 127.0f);
  const bool flagged = core::is_finite(top) && tile.scale != 0.0f && top > __fmul_rn(p.flag_ratio, bottom);
  float scale[4];
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    scale[k] = tile.scale, inv[k] = tile.inv;
    if (!flagged || row[k] >= at.count) continue;
    float own = fmaxf(__fmul_rn(top, 5.9604644775390625e-8f), core::kZeroGroup);  // a tiny token would make 1/t infinite
    for (int i = 0; i < parts; ++i) own = fmaxf(own, shared.parts[i][row[k]]);
    const core::GroupScale s = core::group_scale(own, 127.0f);
    scale[k] = s.scale, inv[k] = s.inv;
  }
  if (part == 0 && lane % 4 == 0) {
#pragma unroll
    for (int k = 0; k < 4; ++k) p.token_scale[at.tile * kTile + row[k]] = scale[k];
    *reinterpret_cast<float4*>(shared.slot + quad * 4) = float4{scale[0], scale[1], scale[2], scale[3]};
  }
  if (threadIdx.x == 0) shared.limit = 0x7f800000u;
  return flagged;
}

// int8 or e4m3 codes, transposed through shared memory: [channel][key in the order of value_position]. One block per tile, 128 threads per 32 channels; a
// thread has the four keys of one word of codes, and eight channels of them.
template <class Element, VCodes kCodes>
__global__ void __launch_bounds__(4 * kMaxHeadDim) v_tiles_kernel(const __grid_constant__ QuantizeVParams p) {
  constexpr bool kC3 = kCodes == VCodes::s8_c3;
  CHITU_DYNAMIC_SHARED(uint32_t, 16, words);
  const KeyTile at(p.sequence, p.heads, blockIdx.x);
  if (at.count <= 0) return;
  const int lane = threadIdx.x % 32, parts = static_cast<int>(div_up(p.head_dim, 32));
  const int chunk = threadIdx.x / 128 * 4 + lane % 4, quad = threadIdx.x / 32 % 4 * 8 + lane / 4;
  __shared__ __align__(16) TokenScales tokens;  // static: with it, the dynamic part would need an attribute that two host threads could set by turns
  const int first = quad / 4 * 16 + quad % 4 * 2, row[4] = {first, first + 1, first + 8, first + 9};
  const Chunk<Element> rows(p.x, at.range.tensor_batch, at.range.k_begin + at.first, at.head, at.count, p.head_dim, chunk);
  Vector8<Element> raw[4];
  rows.load(raw, row);
  float factor[8], x[4][8], inv[4];
  load_factors(p, at, chunk, factor);
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    raw[k].unpack(x[k]);
#pragma unroll
    for (int e = 0; e < 8; ++e) x[k][e] = __fmul_rn(x[k][e], factor[e]);
  }
  bool flagged = false;
  if constexpr (kC3) flagged = token_scales(p, at, x, row, quad, parts, tokens, inv);
#pragma unroll
  for (int e = 0; e < 8; ++e) {
    uint32_t word;
    if constexpr (kCodes == VCodes::e4m3_tiles) {
      word = e4m3_codes(x[0][e], x[1][e]) | e4m3_codes(x[2][e], x[3][e]) << 16;
    } else {
      uint32_t c[4];
#pragma unroll
      for (int k = 0; k < 4; ++k) c[k] = int8_bits(kC3 ? __fmul_rn(x[k][e], inv[k]) : x[k][e]);
      word = low_bytes(c[0], c[1], c[2], c[3]);
    }
    words[word_of(chunk * 8 + e, quad)] = (kC3 ? inv[0] : factor[e]) == 0.0f ? 0 : word;  // a NaN: the scale carries it
  }
  __syncthreads();
  uint4* to = reinterpret_cast<uint4*>(p.v8t + at.tile * p.head_dim * kTile);
#pragma unroll
  for (int i = threadIdx.x; i < parts * 256; i += parts * 128) {  // 16 keys of a channel
    const int d = i / 8, group = i % 8;
    const uint4 codes = *reinterpret_cast<const uint4*>(words + word_of(d, group * 4));
    if (d < p.head_dim) to[i] = codes;
    if constexpr (kC3) {
      const uint32_t word[4] = {codes.x, codes.y, codes.z, codes.w};
      int sum = 0;
#pragma unroll
      for (int k = 0; k < 4; ++k) sum = __dp4a(static_cast<int>(word[k]), 0x01010101, sum);
#pragma unroll
      for (int mask = 1; mask <= 4; mask *= 2) sum += __shfl_xor_sync(~0u, sum, mask);
      const float mean = __fdiv_rn(static_cast<float>(sum), static_cast<float>(at.count));
      if (group == 0 && d < p.head_dim) p.tile_mean[at.tile * p.head_dim + d] = mean;
      if (!flagged) continue;
      float largest = 0.0f;
#pragma unroll
      for (int k = 0; k < 16; ++k) {
        const int code = static_cast<std::int8_t>(word[k / 4] >> k % 4 * 8);
        largest = fmaxf(largest, __fmul_rn(tokens.slot[group * 16 + k], static_cast<float>(abs(code))));
      }
#pragma unroll
      for (int mask = 1; mask <= 4; mask *= 2) largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, mask));
      if (group == 0 && d < p.head_dim && mean != 0.0f) atomicMin(&tokens.limit, __float_as_uint(__fdiv_rn(largest, fabsf(mean))));
    }
  }
  if constexpr (kC3) {
    __syncthreads();
    if (threadIdx.x == 0) p.shift_limit[at.tile] = flagged ? __uint_as_float(tokens.limit) : 0.0f;
  }
}

// e4m3 codes of a pre-quantized cache to the layout of v8t. Threads as in v_tiles_kernel.
__global__ void __launch_bounds__(4 * kMaxHeadDim) code_tiles_kernel(const __grid_constant__ CodeTilesParams p) {
  CHITU_DYNAMIC_SHARED(uint32_t, 16, words);
  const KeyTile at(p.sequence, p.heads, blockIdx.x);
  if (at.count <= 0) return;
  const int lane = threadIdx.x % 32, parts = static_cast<int>(div_up(p.head_dim, 32)), dim = code_dim(p.head_dim);
  const int chunk = threadIdx.x / 128 * 4 + lane % 4, quad = threadIdx.x / 32 % 4 * 8 + lane / 4, first = quad / 4 * 16 + quad % 4 * 2;
  const std::int64_t row_stride = std::int64_t{p.heads} * dim;
  const uint8_t* from = p.v8 + (at.range.tensor_batch * p.sequence.seqlen_k + at.range.k_begin + at.first) * row_stride + at.head * dim + chunk * 8;
  uint32_t codes[4][2] = {};
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const int row = first + k % 2 + k / 2 * 8;
    if (row >= at.count || chunk * 8 >= dim) continue;
    const uint2 eight = __ldg(reinterpret_cast<const uint2*>(from + row * row_stride));
    codes[k][0] = eight.x, codes[k][1] = eight.y;
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll
    for (int e = 0; e < 4; e += 2) {  // bytes e and e + 1 of four keys
      const uint32_t pick = e == 0 ? 0x5140 : 0x7362;
      const uint32_t low = __byte_perm(codes[0][half], codes[1][half], pick), high = __byte_perm(codes[2][half], codes[3][half], pick);
      words[word_of(chunk * 8 + half * 4 + e, quad)] = __byte_perm(low, high, 0x5410);
      words[word_of(chunk * 8 + half * 4 + e + 1, quad)] = __byte_perm(low, high, 0x7632);
    }
  }
  __syncthreads();
  uint4* to = reinterpret_cast<uint4*>(p.v8t + at.tile * p.head_dim * kTile);
  for (int i = threadIdx.x; i < p.head_dim * 8; i += parts * 128) to[i] = *reinterpret_cast<const uint4*>(words + word_of(i / 8, i % 8 * 4));
}

__global__ void unpack_kernel(const uint8_t* codes, uint16_t* v16, std::int64_t n) {
  for (std::int64_t i = blockIdx.x * 256ll + threadIdx.x; i < n; i += gridDim.x * 256ll) {
    v16[i] = __half_as_ushort(__float2half_rn(core::e4m3_to_f32(codes[i])));
  }
}

using Kernel = void (*)(QuantizeVParams);
template <VCodes kCodes>
Kernel rows_kernel_of(DType t) {
  return t == DType::f32 ? v_rows_kernel<float, kCodes> : t == DType::bf16 ? v_rows_kernel<__nv_bfloat16, kCodes> : v_rows_kernel<__half, kCodes>;
}
template <VCodes kCodes>
Kernel tiles_kernel_of(DType t) {
  return t == DType::f32 ? v_tiles_kernel<float, kCodes> : t == DType::bf16 ? v_tiles_kernel<__nv_bfloat16, kCodes> : v_tiles_kernel<__half, kCodes>;
}

Kernel kernel_of(VCodes codes, DType t) {
  switch (codes) {
    case VCodes::copy:  // 16 bits are 16 bits
      return v_rows_kernel<__half, VCodes::copy>;
    case VCodes::f16:
      return rows_kernel_of<VCodes::f16>(t);
    case VCodes::e4m3_as_f16:
      return rows_kernel_of<VCodes::e4m3_as_f16>(t);
    case VCodes::e4m3:
      return rows_kernel_of<VCodes::e4m3>(t);
    case VCodes::e4m3_tiles:
      return tiles_kernel_of<VCodes::e4m3_tiles>(t);
    case VCodes::s8_tensor:
      return tiles_kernel_of<VCodes::s8_tensor>(t);
    case VCodes::s8_c3:
      return tiles_kernel_of<VCodes::s8_c3>(t);
  }
  return nullptr;
}

}  // namespace

void quantize_v(const QuantizeVParams& p, VCodes codes, cudaStream_t stream) {
  const std::int64_t blocks = static_cast<std::int64_t>(p.sequence.batch) * p.heads * div_up(p.sequence.seqlen_k, kTile);
  const bool tiles = codes == VCodes::s8_tensor || codes == VCodes::s8_c3 || codes == VCodes::e4m3_tiles;
  const int parts = static_cast<int>(div_up(p.head_dim, 32));
  if (tiles) {
    launch(kernel_of(codes, p.x.dtype), blocks, parts * 128, std::int64_t{parts} * 32 * kTile, stream, p);
  } else {
    launch(kernel_of(codes, p.x.dtype), blocks, kRowsThreads, 0, stream, p);
  }
}

void tile_codes(const CodeTilesParams& p, cudaStream_t stream) {
  const int parts = static_cast<int>(div_up(p.head_dim, 32));
  launch(code_tiles_kernel, static_cast<std::int64_t>(p.sequence.batch) * p.heads * div_up(p.sequence.seqlen_k, kTile), parts * 128,
         std::int64_t{parts} * 32 * kTile, stream, p);
}

void unpack_v(const std::uint8_t* codes, std::uint16_t* v16, std::int64_t n, cudaStream_t stream) {
  launch(unpack_kernel, div_up(n, 2048), 256, 0, stream, codes, v16, n);
}

}  // namespace chitu::cuda
