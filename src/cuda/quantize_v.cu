// V as the kernels read it: 16-bit values in their own layout, or int8 with the keys of a channel side by side. Built without FMA contraction.
#include "cuda/quantize.h"
#include "cuda/rows.cuh"

namespace chitu::cuda {
namespace {

constexpr int kColumn = kTile + 4;  // bytes of a channel's codes in shared memory: spreads the banks

// Where a block of 512 threads stands: one tile of 128 keys of one head.
struct TilePlace {
  SequenceRange range;
  std::int64_t b, tile, channel0;  // tile: in v8t and the scales; channel0: in per-channel arrays
  int head, first, count;

  __device__ __forceinline__ TilePlace(const Sequence& s, int heads, int head_dim) {
    const std::int64_t tiles = div_up(s.seqlen_k, kTile);
    first = static_cast<int>(blockIdx.x % tiles) * kTile;
    head = static_cast<int>(blockIdx.x / tiles % heads);
    b = blockIdx.x / tiles / heads;
    range = s.range(b);
    count = static_cast<int>(range.k_len - first);
    count = count > kTile ? kTile : count;
    tile = (range.tensor_batch * heads + head) * s.tiles_k + s.first_tile(range, b) + first / kTile;
    channel0 = (b * heads + head) * head_dim;
  }
};

// Smallest power of two that brings a channel of absmax a below limit; 1 where it is already.
__device__ __forceinline__ float f16_channel_scale(float a, float limit) {
  if (!(a > limit) || !core::is_finite(a)) return 1.0f;
  const int n = max(0, ilogbf(a) - ilogbf(limit));
  return ldexpf(1.0f, ldexpf(a, -n) > limit ? n + 1 : n);
}

// f16 copies of V, and e4m3 codes or their values.
template <class Element, int kValues>
__global__ void __launch_bounds__(kRowThreads) v_rows_kernel(const __grid_constant__ QuantizeVParams p, const __grid_constant__ VCodes codes) {
  const TilePlace at(p.sequence, p.heads, p.head_dim);
  if (at.count <= 0) return;
  const int row = row_of_thread();
  const bool valid = row < at.count;
  float x[kValues];
  const std::int64_t key = at.range.k_begin + at.first + row;
  load_row<Element>(p.x, at.range.tensor_batch, key, at.head, p.head_dim, valid, x);
  const std::int64_t keys = p.sequence.packed ? p.sequence.total_k : p.sequence.seqlen_k;
  const std::int64_t to = ((at.range.tensor_batch * keys + key) * p.heads + at.head) * code_dim(p.head_dim);
#pragma unroll
  for (int i = 0; i < kValues; ++i) {
    const int d = channel_of(i);
    if (d >= p.head_dim) continue;
    const float a = p.channel != nullptr ? p.channel[at.channel0 + d] : 0.0f;
    float scale;
    if (codes == VCodes::f16) {
      scale = f16_channel_scale(a, p.range);
      if (valid) p.v16[to + d] = __half_as_ushort(__float2half_rn(x[i] * (1.0f / scale)));
    } else if (codes == VCodes::copy) {
      scale = 1.0f;
      if (valid) p.v16[to + d] = p.x.dtype == DType::bf16 ? core::f32_to_bf16(x[i]) : __half_as_ushort(__float2half_rn(x[i]));
    } else {
      const core::GroupScale s = core::group_scale(a, p.range);
      scale = s.scale;
      const uint8_t code = core::e4m3_code(x[i], s.inv);
      if (valid && codes == VCodes::e4m3) p.v8[to + d] = code;
      if (valid && codes == VCodes::e4m3_as_f16) p.v16[to + d] = __half_as_ushort(__float2half_rn(core::e4m3_to_f32(code)));
    }
    if (at.first == 0 && row == 0 && p.v_scale != nullptr) p.v_scale[at.channel0 + d] = scale;
  }
}

// int8 or e4m3 codes, transposed through shared memory: [channel][key in the order of value_position].
template <class Element, int kValues>
__global__ void __launch_bounds__(kRowThreads) v_int8_kernel(const __grid_constant__ QuantizeVParams p, const __grid_constant__ VCodes codes) {
  __shared__ __align__(4) uint8_t transposed[kValues * 4 * kColumn];
  __shared__ float token_max[kTile], slot_scale[kTile];  // slot_scale: of flagged tiles, as their codes lie
  __shared__ uint32_t limit;
  const TilePlace at(p.sequence, p.heads, p.head_dim);
  if (at.count <= 0) return;
  const int row = row_of_thread(), slot = row / 16 * 16 + value_position(row % 16);
  const bool valid = row < at.count, c3 = codes == VCodes::s8_c3;
  float x[kValues];
  load_row<Element>(p.x, at.range.tensor_batch, at.range.k_begin + at.first + row, at.head, p.head_dim, valid, x);
  float inv = 0.0f;
  bool flagged = false;
  const bool e4m3 = codes == VCodes::e4m3_tiles;  // a scale for each channel
  if (c3) {
#pragma unroll
    for (int i = 0; i < kValues; ++i) {
      const int d = channel_of(i);
      if (d < p.head_dim && valid) x[i] = __fmul_rn(x[i], __fdiv_rn(1.0f, p.channel[at.channel0 + d]));
    }
    const uint32_t mine = quad_max_bits(absmax_bits(x));
    if (threadIdx.x % 4 == 0) token_max[row] = __uint_as_float(mine);
    __syncthreads();
    uint32_t largest = 0, smallest = 0x7fffffffu;
    for (int j = 0; j < at.count; ++j) {
      const uint32_t a = __float_as_uint(token_max[j]);
      largest = max(largest, a);
      smallest = min(smallest, a);
    }
    const float top = __uint_as_float(largest);
    core::GroupScale s = core::group_scale(top, 127.0f);
    flagged = core::is_finite(top) && s.scale != 0.0f && top > __fmul_rn(p.flag_ratio, __uint_as_float(smallest));
    if (flagged && valid) {
      const float floor = fmaxf(__fmul_rn(top, 5.9604644775390625e-8f), core::kZeroGroup);  // a tiny token would make 1/t infinite
      s = core::group_scale(fmaxf(__uint_as_float(mine), floor), 127.0f);
    }
    inv = s.inv;
    if (threadIdx.x % 4 == 0) {
      p.token_scale[at.tile * kTile + row] = s.scale;
      slot_scale[slot] = s.scale;  // padding has codes 0
    }
    if (threadIdx.x == 0) limit = 0x7f800000u;
  } else if (e4m3) {
    if (at.first == 0 && threadIdx.x < p.head_dim)
      p.v_scale[at.channel0 + threadIdx.x] = core::group_scale(p.channel[at.channel0 + threadIdx.x], p.range).scale;
  } else {
    uint32_t largest = 0;
    for (int d = 0; d < p.head_dim; ++d) largest = max(largest, __float_as_uint(p.channel[at.channel0 + d]));
    const core::GroupScale s = core::group_scale(__uint_as_float(largest), p.range);
    inv = s.inv;
    if (at.first == 0 && threadIdx.x < p.head_dim) p.v_scale[at.channel0 + threadIdx.x] = s.scale;
  }
#pragma unroll
  for (int i = 0; i < kValues; ++i) {
    const int d = channel_of(i);
    uint8_t code = 0;
    if (valid && e4m3) {
      if (d < p.head_dim) code = core::e4m3_code(x[i], core::group_scale(p.channel[at.channel0 + d], p.range).inv);
    } else if (valid) {
      code = static_cast<uint8_t>(core::int8_code(x[i], inv));
    }
    transposed[d * kColumn + slot] = code;
  }
  __syncthreads();
  const uint32_t* words = reinterpret_cast<const uint32_t*>(transposed);
  uint32_t* to = reinterpret_cast<uint32_t*>(p.v8t + at.tile * p.head_dim * kTile);
  for (int i = threadIdx.x; i < p.head_dim * (kTile / 4); i += kRowThreads) to[i] = words[i / 32 * (kColumn / 4) + i % 32];
  if (c3 && threadIdx.x < p.head_dim) {
    int sum = 0;
    for (int j = 0; j < kTile / 4; ++j) sum = __dp4a(static_cast<int>(words[threadIdx.x * (kColumn / 4) + j]), 0x01010101, sum);
    const float mean = __fdiv_rn(static_cast<float>(sum), static_cast<float>(at.count));
    p.tile_mean[at.tile * p.head_dim + threadIdx.x] = mean;
    if (flagged && mean != 0.0f) {
      float largest = 0.0f;
#pragma unroll 4
      for (int j = 0; j < kTile; ++j) {
        const int code = static_cast<std::int8_t>(transposed[threadIdx.x * kColumn + j]);
        largest = fmaxf(largest, __fmul_rn(slot_scale[j], static_cast<float>(abs(code))));
      }
      atomicMin(&limit, __float_as_uint(__fdiv_rn(largest, fabsf(mean))));
    }
  }
  if (!c3) return;
  __syncthreads();
  if (threadIdx.x == 0) p.shift_limit[at.tile] = flagged ? __uint_as_float(limit) : 0.0f;
}

__global__ void unpack_kernel(const uint8_t* codes, uint16_t* v16, std::int64_t n) {
  for (std::int64_t i = blockIdx.x * 256ll + threadIdx.x; i < n; i += gridDim.x * 256ll) {
    v16[i] = __half_as_ushort(__float2half_rn(core::e4m3_to_f32(codes[i])));
  }
}

using Kernel = void (*)(QuantizeVParams, VCodes);
template <int kValues>
Kernel kernel_for(DType t, bool tiles) {
  if (tiles) return t == DType::f32 ? v_int8_kernel<float, kValues> : t == DType::bf16 ? v_int8_kernel<__nv_bfloat16, kValues> : v_int8_kernel<__half, kValues>;
  return t == DType::f32 ? v_rows_kernel<float, kValues> : t == DType::bf16 ? v_rows_kernel<__nv_bfloat16, kValues> : v_rows_kernel<__half, kValues>;
}

}  // namespace

void quantize_v(const QuantizeVParams& p, VCodes codes, cudaStream_t stream) {
  const std::int64_t blocks = static_cast<std::int64_t>(p.sequence.batch) * p.heads * div_up(p.sequence.seqlen_k, kTile);
  const bool int8 = codes == VCodes::s8_tensor || codes == VCodes::s8_c3 || codes == VCodes::e4m3_tiles;
  const Kernel kernel = p.head_dim <= 64    ? kernel_for<16>(p.x.dtype, int8)
                        : p.head_dim <= 128 ? kernel_for<32>(p.x.dtype, int8)
                                            : kernel_for<64>(p.x.dtype, int8);
  launch(kernel, blocks, kRowThreads, 0, stream, p, codes);
}

void unpack_v(const std::uint8_t* codes, std::uint16_t* v16, std::int64_t n, cudaStream_t stream) {
  launch(unpack_kernel, div_up(n, 2048), 256, 0, stream, codes, v16, n);
}

}  // namespace chitu::cuda
