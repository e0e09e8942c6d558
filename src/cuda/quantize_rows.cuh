// Rows of q and k to int8 (docs/methods.md part 2, K and Q): mean, rotation, scales and codes from one read. Built without FMA contraction: every
// result is specified to the bit.
//
// A thread has 64 channels of a row, so that most of a rotation is arithmetic in its registers: thread (warp w, lane l) the chunks l % kLanes + kLanes * i, of
// eight channels each, of row l / kLanes * kWarps + w. So the rows of a warp hold the first levels of a tree over the tile. Blocks walk over tiles. Where rows
// allow 16-byte copies each warp fetches its rows of the next tile into its own part of shared memory while it computes.
#pragma once
#include <type_traits>

#include "cuda/device/ptx/shared.cuh"
#include "cuda/quantize.h"
#include "cuda/rows.cuh"
#include "cuda/sm80/ptx.cuh"

namespace chitu::cuda {

constexpr int kTurns = 3;  // places for what belongs to a tile, while that of the next one arrives and other warps may still read that of the one before

// kWhole: head_dim is kBucket. kStaged: through shared memory by cp.async, 16-bit inputs only.
template <class Element_, int kBucket_, bool kWhole_, bool kStaged_>
struct RowTraits {
  using Element = Element_;
  static constexpr bool kWhole = kWhole_, kStaged = kStaged_;
  static constexpr int kBucket = kBucket_, kValues = 64, kLanes = kBucket / kValues;  // lanes of a row
  static constexpr int kThreads = kTile * kLanes, kWarps = kThreads / 32, kWarpRows = 32 / kLanes;
  static constexpr int kColumns = kBucket / 32;        // channels of a lane in sums over the rows of its warp
  static constexpr int kChunks = kBucket / 8;          // of eight channels in a row
  static constexpr int kUnits = kBucket > 64 ? 8 : 4;  // of 16 codes: as many of a row as pass through shared memory at once
  static constexpr int kCodePitch = kUnits + (kLanes + 1) / 2;  // of rows of codes in shared memory, 16 bytes each
  static constexpr int kBlocksPerSm = 4 / kLanes;
  static constexpr int kPitch = kChunks + kLanes;  // of rows in shared memory, 16 bytes each: neither eight rows' nor eight neighbouring chunks meet in a bank
  static constexpr int kRowsShared = kStaged ? kTile * kPitch * 16 : 0, kDynamicShared = kRowsShared + kTurns * kBucket * 4;  // rows, then factors

  static __device__ __forceinline__ int head_dim(const QuantizeRowsParams& p) { return kWhole ? kBucket : p.head_dim; }
};

__device__ __forceinline__ void store_as(__half* to, float x) { *to = __float2half_rn(x); }
__device__ __forceinline__ void store_as(__nv_bfloat16* to, float x) { *to = __float2bfloat16_rn(x); }
__device__ __forceinline__ void store_as(float* to, float x) { *to = x; }

// Where 128 rows of q or k lie.
struct TileRows {
  const void* x;
  const float* factor;    // of their channels; null: none
  std::int64_t seq;       // stride of rows
  std::int64_t code_row;  // of the first, in codes; of Q in scales too
  int kv_head;            // [batch, num_heads_kv]
  int count;              // rows; none if not positive

  template <class Element>
  __device__ __forceinline__ void set(const QuantizeRowsParams& p, const RowDivisors& by, uint32_t index) {
    const uint32_t row = by.tiles.quotient(index), b = by.heads.quotient(row), head = row - b * by.heads.value;
    const std::int64_t first = (index - row * by.tiles.value) * std::int64_t{kTile};
    const SequenceRange r = p.sequence.range(b);
    const std::int64_t first_row = (p.is_q ? r.q_begin : r.k_begin) + first, head_index = r.tensor_batch * p.heads + head;
    count = static_cast<int>(min((p.is_q ? r.q_len : r.k_len) - first, std::int64_t{kTile}));
    x = static_cast<const Element*>(p.x.data) + r.tensor_batch * p.x.batch + first_row * p.x.seq + head * p.x.head;
    seq = p.x.seq;
    code_row = p.is_q ? head_index * p.sequence.q_rows + first_row : (head_index * p.sequence.tiles_k + p.sequence.first_tile(r, b)) * kTile + first;
    kv_head = static_cast<int>(by.group.quotient(row));
    factor = p.factor == nullptr ? nullptr : p.factor + std::int64_t{kv_head} * code_dim(p.head_dim);
  }
};

constexpr int kListed = 32;  // tiles that a block looks up at once: one thread each, not all of them for every tile

template <class T>
struct RowShared {
  union {
    float values[T::kBucket];  // sums over the rows; then values per channel
    uint4 codes[T::kWarpRows * T::kCodePitch];
  } of_warp[T::kWarps];
  float mean[T::kBucket];
  uint32_t group_max[kTurns][kTile];
  TileRows tiles[kListed];
};

// The rows of a warp in shared memory.
template <class T>
__device__ __forceinline__ int chunk_at(int i, int chunk) {
  return (threadIdx.x / 32 * T::kWarpRows + i) * T::kPitch + chunk;
}

// Starts copies of this warp's rows.
template <class T>
__device__ __forceinline__ void fetch_rows(const TileRows& at, int head_dim, const uint4* slot) {
  constexpr int kAtOnce = 32 / T::kChunks;  // rows of one instruction
  const int chunk = threadIdx.x % T::kChunks, i0 = threadIdx.x % 32 / T::kChunks, first = i0 * T::kWarps + threadIdx.x / 32;
  const bool inside = T::kWhole || chunk * 8 < head_dim;
  const typename T::Element* from = static_cast<const typename T::Element*>(at.x) + first * at.seq + (inside ? chunk * 8 : 0);
  const std::int64_t step = kAtOnce * T::kWarps * at.seq;
  const uint32_t to = sm80::ptx::shared_address(slot + chunk_at<T>(i0, chunk));
  constexpr int kCopies = T::kWarpRows / kAtOnce, kCopyBytes = kAtOnce * T::kPitch * 16;
  if (at.count == kTile) {  // no rows to choose
#pragma unroll
    for (int n = 0; n < kCopies; ++n, from += step) sm80::ptx::cp_async_16(to + n * kCopyBytes, from, inside ? 16 : 0);
    return;
  }
#pragma unroll 1
  for (int n = 0; n < kCopies; ++n, from += step) {
    const bool there = first + n * kAtOnce * T::kWarps < at.count;
    sm80::ptx::cp_async_16(to + n * kCopyBytes, there ? from : at.x, there && inside ? 16 : 0);
  }
}

// Starts copies of the factors of a tile's channels, and of zeros behind them.
template <class T>
__device__ __forceinline__ void fetch_factors(const float* factor, int dim, float* to) {
  const int d = 4 * static_cast<int>(threadIdx.x);
  if (factor == nullptr || d >= T::kBucket) return;
  const bool inside = T::kWhole || d < dim;
  sm80::ptx::cp_async_16(sm80::ptx::shared_address(to + d), inside ? factor + d : factor, inside ? 16 : 0);
}

// One level after another of a tree sum over the rows of a warp, depth first so that few values live at a time.
template <class T, int kStep, class Slot>
__device__ __forceinline__ void warp_tree(const Slot& slot, int first, float (&sum)[T::kColumns]) {
  if constexpr (kStep == T::kWarpRows) {
    slot(first, sum);
  } else {
    float other[T::kColumns];
    warp_tree<T, 2 * kStep>(slot, first, sum);
    warp_tree<T, 2 * kStep>(slot, first + kStep, other);
#pragma unroll
    for (int c = 0; c < T::kColumns; ++c) sum[c] = __fadd_rn(sum[c], other[c]);
  }
}

// Mean of the tile from the sums of the warps, rounded to the dtype of the input, in shared.mean and where K keeps it.
template <class T>
__device__ __forceinline__ void tile_mean(const QuantizeRowsParams& p, const TileRows& at, const float* factor, RowShared<T>& shared) {
  using Element = typename T::Element;
  const int head_dim = T::head_dim(p);
  // The slots of the tree hold x * 2^-7, so that the sum cannot overflow. f16 cannot overflow or vanish in f32: there one factor at the end gives the same
  // bits.
  constexpr bool kLate = std::is_same_v<Element, __half>;
  __syncthreads();
  const int d = threadIdx.x;
  if (d < T::kBucket) {
    float s[T::kWarps];
#pragma unroll
    for (int w = 0; w < T::kWarps; ++w) s[w] = shared.of_warp[w].values[d];
#pragma unroll
    for (int stride = T::kWarps / 2; stride > 0; stride /= 2)
#pragma unroll
      for (int w = 0; w < stride; ++w) s[w] = __fadd_rn(s[w], s[w + stride]);
    float m = kLate ? __fmul_rn(s[0], 0.0078125f) : s[0];
    if (at.count != kTile) m = __fmul_rn(m, __fdiv_rn(128.0f, static_cast<float>(at.count)));
    const float rounded = d < head_dim ? rounded_to(m, Element{}) : 0.0f;
    shared.mean[d] = kLate && p.factor != nullptr ? __fmul_rn(rounded, factor[d]) : rounded;
    if (d < code_dim(head_dim)) store_as(static_cast<Element*>(p.mean) + at.code_row / kTile * code_dim(head_dim) + d, d < head_dim ? m : 0.0f);
  }
  __syncthreads();
}

// f32(1/sqrt(2^log2_block)) as core::rotation_norm has it, without its table.
__device__ __forceinline__ float block_norm(int log2_block) {
  return __uint_as_float((127 - log2_block / 2) << 23) * (log2_block & 1 ? 0.70710678118654752f : 1.0f);
}

// First channel of value i's chunk.
template <class T>
__device__ __forceinline__ int chunk_channel(int i) {
  return (i / 8 * T::kLanes + threadIdx.x % T::kLanes) * 8;
}

// core::rotate_row of signed values. head_dim is split into powers of two, largest first: 2n channels that begin at a multiple of 2n share a block of at least
// as many if head_dim reaches their end. Channels behind head_dim are zero, and stay so whatever is done among them.
template <class T>
__device__ __forceinline__ void rotate(float (&x)[T::kValues], int head_dim) {
#pragma unroll
  for (int stride = 1; stride < T::kBucket; stride *= 2) {
    const int step = stride < 8 ? stride : stride / T::kLanes;  // between the two values of a thread
    if (stride >= 8 && stride < 8 * T::kLanes) {
#pragma unroll
      for (int i = 0; i < T::kValues; ++i) {
        const float other = __shfl_xor_sync(~0u, x[i], stride / 8);
        const float y = __fmaf_rn(x[i], threadIdx.x & stride / 8 ? -1.0f : 1.0f, other);  // other - x or other + x: the product is exact
        if (T::kWhole || (chunk_channel<T>(i) & -(2 * stride)) + 2 * stride <= head_dim) x[i] = y;
      }
      continue;
    }
#pragma unroll
    for (int i = 0; i < T::kValues; ++i) {
      if (i & step) continue;
      const int first = (chunk_channel<T>(i) + i % 8) & -(2 * stride);
      if (!T::kWhole && first + 2 * stride > head_dim) continue;
      const float a = x[i], b = x[i + step];
      x[i] = __fadd_rn(a, b);
      x[i + step] = __fsub_rn(a, b);
    }
  }
#pragma unroll
  for (int i = 0; i < T::kValues; ++i) {
    const int chunk = chunk_channel<T>(i), end = head_dim & -8;
    const int bits = T::kWhole ? T::kBucket : chunk != end ? chunk ^ end : i % 8 ^ head_dim % 8;
    if (T::kWhole || bits > 0) x[i] = __fmul_rn(x[i], block_norm(31 - __clz(bits)));
  }
}

// absmax of the group of this thread's row. group_max: 128 zeroed words.
__device__ __forceinline__ uint32_t group_absmax(const QuantizeRowsParams& p, uint32_t row_max, int row, uint32_t* group_max) {
  if (p.log2_block == 0) return row_max;
  const int group = (row >> p.log2_block << p.log2_groups) + (row % 8 >> (3 - p.log2_groups));
  if (1 << p.log2_block == kTile) {  // the rows of every other lane are a multiple of 8 apart: one group
#pragma unroll
    for (int mask = 16; mask >= 2; mask /= 2) row_max = max(row_max, __shfl_xor_sync(~0u, row_max, mask));
    if (threadIdx.x % 32 < 2) atomicMax(group_max + group, row_max);
  } else {
    atomicMax(group_max + group, row_max);
  }
  __syncthreads();
  return group_max[group];
}

__device__ __forceinline__ void store_block_scales(const QuantizeRowsParams& p, std::int64_t tile, const uint32_t* group_max) {
  const int blocks = kTile >> p.log2_block, i = threadIdx.x;
  if (i >= blocks * 4) return;
  const int group = (i / 4 << p.log2_groups) + (i % 4 >> (2 - p.log2_groups));  // one group or four
  p.scale[tile * blocks * 4 + i] = core::group_scale(__uint_as_float(group_max[group]), 127.0f).scale;
}

// dim values per channel, zeros behind them, for this warp in its part of shared memory. Loaded straight by the thread that uses them, they would be hoisted
// into registers that are not there.
template <class T>
__device__ __forceinline__ const float* share_channels(const float* from, int dim, float* part) {
  float own[T::kColumns];
#pragma unroll
  for (int i = 0; i < T::kColumns; ++i) {
    const int d = threadIdx.x % 32 + 32 * i;
    own[i] = d < dim ? __ldg(from + d) : 0.0f;
  }
  __syncwarp();
#pragma unroll
  for (int i = 0; i < T::kColumns; ++i) part[threadIdx.x % 32 + 32 * i] = own[i];
  __syncwarp();
  return part;
}

// Four values per channel at a time: use(i, values of x[i] .. x[i + 3]).
template <class T, class Use>
__device__ __forceinline__ void by_channel(const float* values, const Use& use) {
#pragma unroll
  for (int i = 0; i < T::kValues; i += 4) {
    const float4 v = *reinterpret_cast<const float4*>(values + chunk_channel<T>(i) + i % 8);
    use(i, v.x), use(i + 1, v.y), use(i + 2, v.z), use(i + 3, v.w);
  }
}

// Codes of this warp's rows, through shared memory, so that whole lines are written.
template <class T>
__device__ __forceinline__ void store_codes(const float (&x)[T::kValues], float inv, std::int8_t* to, int dim, int rows, uint4* staging) {
  constexpr int kUnits = T::kUnits, kPasses = T::kBucket / (kUnits * 16), kOwn = kUnits * 2 / T::kLanes;  // chunks of this thread in a pass
  const int lane = threadIdx.x % 32, w = threadIdx.x / 32, i0 = lane / kUnits, u = lane % kUnits, row0 = i0 * T::kWarps + w;
  uint4* own = staging + lane / T::kLanes * T::kCodePitch;
  const uint4* whole = staging + i0 * T::kCodePitch + u;
#pragma unroll
  for (int pass = 0; pass < kPasses; ++pass) {
    __syncwarp();  // all have read what lay there
#pragma unroll
    for (int n = 0; n < kOwn; ++n) {
      const int i = (pass * kOwn + n) * 8;
      uint32_t c[8];
#pragma unroll
      for (int k = 0; k < 8; ++k) c[k] = int8_bits(__fmul_rn(x[i + k], inv));
      (reinterpret_cast<uint2*>(own) + lane % T::kLanes)[n * T::kLanes] = make_uint2(low_bytes(c[0], c[1], c[2], c[3]), low_bytes(c[4], c[5], c[6], c[7]));
    }
    __syncwarp();
    constexpr int kRows = 32 / kUnits, kStep = kRows * T::kWarps;  // rows of one instruction: of the warp, of the tile
    const int channel = (pass * kUnits + u) * 16;
    if (!T::kWhole && channel >= dim) continue;
    std::int8_t* at = to + row0 * dim + channel;
    if (rows == kTile) {  // no rows to choose
#pragma unroll
      for (int n = 0; n < T::kWarpRows / kRows; ++n) *reinterpret_cast<uint4*>(at + n * kStep * dim) = whole[n * kRows * T::kCodePitch];
      continue;
    }
#pragma unroll 1
    for (int n = 0; n < T::kWarpRows / kRows && row0 + n * kStep < rows; ++n)
      *reinterpret_cast<uint4*>(at + n * kStep * dim) = whole[n * kRows * T::kCodePitch];
  }
}

// This thread's row, from shared memory or straight from the caller's.
template <class T>
__device__ __forceinline__ void read_row(const TileRows& at, int row, int head_dim, bool aligned, const uint4* slot,
                                         Vector8<typename T::Element> (&raw)[T::kValues / 8]) {
  const typename T::Element* from = static_cast<const typename T::Element*>(at.x) + row * at.seq;
#pragma unroll
  for (int j = 0; j < T::kValues / 8; ++j) {
    const int channel = chunk_channel<T>(8 * j);
    if constexpr (T::kStaged) {
      raw[j].raw = slot[chunk_at<T>(threadIdx.x % 32 / T::kLanes, channel / 8)];
    } else {
      raw[j] = {};
      if (row >= at.count || channel >= head_dim) continue;
      if (aligned) {
        raw[j].load(from + channel);
      } else {
        raw[j].load_some(from + channel, head_dim - channel);
      }
    }
  }
}

// Tree sum over this warp's rows. A lane has some of the channels.
template <class T>
__device__ __forceinline__ void sum_rows(const TileRows& at, int head_dim, const uint4* slot, float* of_warp) {
  using Element = typename T::Element;
  const int lane = threadIdx.x % 32, w = threadIdx.x / 32;
  struct __align__(T::kColumns * 2) Packed {
    uint32_t word[T::kColumns / 2];
  };
  auto row = [&](int i, float(&x)[T::kColumns]) {
    if constexpr (T::kStaged) {
      const int d = lane * T::kColumns;
      const Packed packed = *reinterpret_cast<const Packed*>(reinterpret_cast<const uint32_t*>(slot + chunk_at<T>(i, d / 8)) + d % 8 / 2);
#pragma unroll
      for (int c = 0; c < T::kColumns; c += 2) {
        const float2 pair = unpack_pair(packed.word[c / 2], Element{});
        x[c] = pair.x, x[c + 1] = pair.y;
      }
    } else {
#pragma unroll
      for (int c = 0; c < T::kColumns; ++c) {
        const int r = i * T::kWarps + w, d = lane + 32 * c;
        x[c] = r < at.count && d < head_dim ? to_f32(static_cast<const Element*>(at.x)[r * at.seq + d]) : 0.0f;
      }
    }
    if constexpr (!std::is_same_v<Element, __half>) {
#pragma unroll
      for (int c = 0; c < T::kColumns; ++c) x[c] = __fmul_rn(x[c], 0.0078125f);
    }
  };
  float sum[T::kColumns];
  warp_tree<T, 1>(row, 0, sum);
#pragma unroll
  for (int c = 0; c < T::kColumns; ++c) of_warp[T::kStaged ? lane * T::kColumns + c : lane + 32 * c] = sum[c];
}

// Codes and scales of the rows that a block has read. factor: of the channels, in shared memory, if p has factors.
template <class T, bool kIsK>
__device__ __forceinline__ void quantize_rows(const QuantizeRowsParams& p, const TileRows& at, const Vector8<typename T::Element> (&raw)[T::kValues / 8],
                                              RowShared<T>& shared, uint32_t* group_max, const float* factor) {
  constexpr bool kFused = std::is_same_v<typename T::Element, __half>;
  const int lane = threadIdx.x % 32, w = threadIdx.x / 32, row = lane / T::kLanes * T::kWarps + w, dim = code_dim(T::head_dim(p));
  const bool valid = row < at.count;
  if (p.log2_block != 0 && threadIdx.x < kTile) group_max[threadIdx.x] = 0;  // a barrier follows before its first use
  const bool weighted = p.factor != nullptr;
  const bool has_mean = kIsK && p.tile_mean;
  if (has_mean) {
    tile_mean<T>(p, at, factor, shared);
  } else if (p.log2_block != 0 || weighted) {
    __syncthreads();
  }
  float x[T::kValues];
#pragma unroll
  for (int j = 0; j < T::kValues / 8; ++j) raw[j].unpack(x + 8 * j);
  if (p.sequence_mean != nullptr) {
    const float* center = share_channels<T>(p.sequence_mean + std::int64_t{at.kv_head} * p.head_dim, p.head_dim, shared.of_warp[w].values);
    if constexpr (!kIsK) {
      float dot = 0.0f;
      by_channel<T>(center, [&](int i, float c) { dot = __fmaf_rn(x[i], c, dot); });
#pragma unroll
      for (int mask = 1; mask < T::kLanes; mask *= 2) dot += __shfl_xor_sync(~0u, dot, mask);
      if (valid && lane % T::kLanes == 0) p.mean_dot[at.code_row + row] = dot * p.softmax_scale;
    } else {
      by_channel<T>(center, [&](int i, float c) { x[i] = __fsub_rn(x[i], c); });
    }
  }
  if (!kIsK && p.negate) {
#pragma unroll
    for (int i = 0; i < T::kValues; ++i) x[i] = -x[i];
  }
  const bool fused = kFused && weighted;  // (x - mean) * factor in one instruction: no f16 gets where a power of two changes the rounding
  if (has_mean && !fused) by_channel<T>(shared.mean, [&](int i, float m) { x[i] = __fsub_rn(x[i], m); });
  if (weighted) {
    if (fused && has_mean) {
#pragma unroll
      for (int i = 0; i < T::kValues; i += 4) {
        const int d = chunk_channel<T>(i) + i % 8;
        const float4 f = *reinterpret_cast<const float4*>(factor + d), m = *reinterpret_cast<const float4*>(shared.mean + d);
        x[i] = __fmaf_rn(x[i], f.x, -m.x), x[i + 1] = __fmaf_rn(x[i + 1], f.y, -m.y);
        x[i + 2] = __fmaf_rn(x[i + 2], f.z, -m.z), x[i + 3] = __fmaf_rn(x[i + 3], f.w, -m.w);
      }
    } else {
      by_channel<T>(factor, [&](int i, float f) { x[i] = __fmul_rn(x[i], f); });
    }
    rotate<T>(x, T::head_dim(p));
  }
  uint32_t row_max = absmax_bits(x);
#pragma unroll
  for (int mask = 1; mask < T::kLanes; mask *= 2) row_max = max(row_max, __shfl_xor_sync(~0u, row_max, mask));
  const uint32_t largest = group_absmax(p, valid ? row_max : 0, row, group_max);  // rows that are not there have become -mean
  const core::GroupScale s = core::group_scale(__uint_as_float(largest), 127.0f);
  if (!kIsK || p.log2_block == 0) {
    if (lane % T::kLanes == 0 && (valid || kIsK)) p.scale[at.code_row + row] = s.scale;
  } else {
    store_block_scales(p, at.code_row / kTile, group_max);
  }
  const bool zero = s.inv == 0.0f || !valid;  // a group of zeros, or one with a NaN, which the scale tells of
  if (__any_sync(~0u, zero)) {                // rarely: a branch that selects need not be paid for
#pragma unroll
    for (int i = 0; i < T::kValues; ++i) x[i] = zero ? 0.0f : x[i];
  }
  store_codes<T>(x, s.inv, p.codes + at.code_row * dim, dim, kIsK ? kTile : at.count, shared.of_warp[w].codes);
}

// The first k_blocks tiles are those of K, the others blocks of Q.
template <class T>
__global__ void __launch_bounds__(T::kThreads, T::kStaged ? T::kBlocksPerSm : 1) quantize_rows_kernel(const __grid_constant__ QuantizePairParams p) {
  CHITU_DYNAMIC_SHARED(uint4, 16, slot);
  __shared__ RowShared<T> shared;
  float* factors = reinterpret_cast<float*>(slot + T::kRowsShared / 16);
  const uint32_t k_blocks = static_cast<uint32_t>(p.k_blocks), blocks = static_cast<uint32_t>(p.blocks);
  const int head_dim = T::head_dim(k_blocks > 0 ? p.k : p.q), row = threadIdx.x % 32 / T::kLanes * T::kWarps + threadIdx.x / 32;
  auto list = [&](uint32_t first) {  // the tiles from `first` on
    __syncthreads();
    if (threadIdx.x < kListed) {
      const uint32_t index = first + threadIdx.x * gridDim.x;
      TileRows at{};
      if (index < k_blocks) {
        at.set<typename T::Element>(p.k, p.by_k, index);
      } else if (index < blocks) {
        at.set<typename T::Element>(p.q, p.by_q, index - k_blocks);
      }
      shared.tiles[threadIdx.x] = at;
    }
    __syncthreads();
  };
  auto fetch = [&](int n, int turn) {
    const TileRows at = shared.tiles[n % kListed];
    if (at.count > 0) {
      if constexpr (T::kStaged) fetch_rows<T>(at, head_dim, slot);
      fetch_factors<T>(at.factor, code_dim(head_dim), factors + turn * T::kBucket);
    }
    sm80::ptx::cp_async_commit();
    return at;
  };
  list(blockIdx.x);
  int turn = 0, n = 0;
  TileRows at = fetch(n, turn);
#pragma unroll 1
  for (uint32_t index = blockIdx.x; index < blocks; index += gridDim.x) {
    const bool is_k = index < k_blocks;
    sm80::ptx::cp_async_wait<0>();
    __syncwarp();  // also: the warp has done with its shared memory
    Vector8<typename T::Element> raw[T::kValues / 8];
    if (at.count > 0) {
      if (is_k && p.k.tile_mean) sum_rows<T>(at, head_dim, slot, shared.of_warp[threadIdx.x / 32].values);
      read_row<T>(at, row, head_dim, p.aligned, slot, raw);
    }
    __syncwarp();
    if (++n % kListed == 0) list(index + gridDim.x);
    const int after = at.count <= 0 ? turn : turn + 1 < kTurns ? turn + 1 : 0;
    const TileRows next = fetch(n, after);
    if (at.count > 0) {
      if (is_k) {
        quantize_rows<T, true>(p.k, at, raw, shared, shared.group_max[turn], factors + turn * T::kBucket);
      } else {
        quantize_rows<T, false>(p.q, at, raw, shared, shared.group_max[turn], factors + turn * T::kBucket);
      }
    }
    at = next, turn = after;
  }
}

template <class T>
RowsKernel rows_kernel_of() {
  static_assert(sizeof(RowShared<T>) + T::kDynamicShared <= 99 * 1024, "what a block may have on sm_86");
  return {quantize_rows_kernel<T>, T::kThreads, T::kDynamicShared, T::kBlocksPerSm};
}

// 16-byte copies want 16-bit inputs; what has no kernel of its own takes one that asks for less.
template <int kHeadDim>
RowsKernel rows_kernel(DType t, bool whole, bool staged) {
  if (t == DType::f32) return whole ? rows_kernel_of<RowTraits<float, kHeadDim, true, false>>() : rows_kernel_of<RowTraits<float, kHeadDim, false, false>>();
  if (t == DType::bf16) {
    if (!staged) return rows_kernel_of<RowTraits<__nv_bfloat16, kHeadDim, false, false>>();
    return whole ? rows_kernel_of<RowTraits<__nv_bfloat16, kHeadDim, true, true>>() : rows_kernel_of<RowTraits<__nv_bfloat16, kHeadDim, false, true>>();
  }
  if (!staged) return rows_kernel_of<RowTraits<__half, kHeadDim, false, false>>();
  return whole ? rows_kernel_of<RowTraits<__half, kHeadDim, true, true>>() : rows_kernel_of<RowTraits<__half, kHeadDim, false, true>>();
}

}  // namespace chitu::cuda
