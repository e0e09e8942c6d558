// Statistics over a sequence: mean (sage) and weights of K's channels, absmax and weights of V's channels. Tree and strided sums as docs/methods.md part 1
// fixes them; built without FMA contraction.
#include <algorithm>
#include <type_traits>

#include "core/key_weights.h"
#include "core/rotation.h"
#include "cuda/quantize.h"
#include "cuda/rows.cuh"

namespace chitu::cuda {
namespace {

constexpr int kLanes = 32;  // lanes of a strided sum

// One level of a tree sum, depth first so that few values live at a time: sum of slot(first), slot(first + kStep), .. below 16, eight channels each.
template <int kStep, class Slot>
__device__ __forceinline__ void tree_sum(const Slot& slot, int first, float (&sum)[8]) {
  if constexpr (kStep == 16) {
    slot(first, sum);
  } else {
    float other[8];
    tree_sum<2 * kStep>(slot, first, sum);
    tree_sum<2 * kStep>(slot, first + kStep, other);
#pragma unroll
    for (int e = 0; e < 8; ++e) sum[e] = __fadd_rn(sum[e], other[e]);
  }
}

__device__ __forceinline__ void store_channels(float* to, const float (&x)[8], int channels) {
#pragma unroll
  for (int e = 0; e < 8; ++e)
    if (e < channels) to[e] = x[e];
}

// 32 channels of a tile in a warp: lane l has the chunk l % 4 of rows l / 4 + 8i, so that strides 64 .. 8 of a tree lie in a thread.
template <class Element>
struct TileColumns {
  Vector8<Element> raw[16];
  int chunk, channels;

  __device__ __forceinline__ TileColumns(const View& v, const KeyTile& at, int head_dim) : chunk(threadIdx.x / 32 * 4 + threadIdx.x % 4) {
    const Chunk<Element> rows(v, at.range.tensor_batch, at.range.k_begin + at.first, at.head, at.count, head_dim, chunk);
    channels = rows.channels;
    rows.load(raw, threadIdx.x % 32 / 4, 8);
  }

  // Tree sum of of(x, e) * 2^-7 over the tile, the same in all lanes of a chunk.
  template <class Of>
  __device__ __forceinline__ void sum(const Of& of, float (&y)[8]) const {
    // The slots hold x * 2^-7, so that the sum cannot overflow. f16 cannot overflow or vanish in f32: there one factor at the end gives the same bits.
    constexpr bool kLate = std::is_same_v<Element, __half>;
    auto slot = [&](int i, float(&x)[8]) {
      raw[i].unpack(x);
#pragma unroll
      for (int e = 0; e < 8; ++e) x[e] = kLate ? of(x[e], e) : __fmul_rn(of(x[e], e), 0.0078125f);
    };
    tree_sum<1>(slot, 0, y);
#pragma unroll
    for (int mask = 16; mask >= 4; mask /= 2)
#pragma unroll
      for (int e = 0; e < 8; ++e) y[e] = __fadd_rn(y[e], __shfl_xor_sync(~0u, y[e], mask));
#pragma unroll
    for (int e = 0; e < 8; ++e) y[e] = kLate ? __fmul_rn(y[e], 0.0078125f) : y[e];
  }

  __device__ __forceinline__ void absmax(float (&y)[8]) const {
#pragma unroll
    for (int e = 0; e < 8; ++e) y[e] = 0.0f;
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      float x[8];
      raw[i].unpack(x);
#pragma unroll
      for (int e = 0; e < 8; ++e) y[e] = absmax_nan(y[e], x[e]);
    }
#pragma unroll
    for (int mask = 16; mask >= 4; mask /= 2)
#pragma unroll
      for (int e = 0; e < 8; ++e) y[e] = absmax_nan(y[e], __shfl_xor_sync(~0u, y[e], mask));
  }
};

__device__ __forceinline__ float itself(float x, int) { return x; }

template <class Element>
__device__ __forceinline__ void tile_statistic(const StatisticsParams& p, uint32_t index) {
  const KeyTile at(p.sequence, p.heads, index);
  if (at.count <= 0 || threadIdx.x / 32 * 32 >= p.head_dim) return;
  const TileColumns<Element> columns(p.x, at, p.head_dim);
  float y[8];
  if (p.what == Statistic::mean) {
    columns.sum(itself, y);
  } else {
    columns.absmax(y);
  }
  if (threadIdx.x % 32 < 4) store_channels(p.tiles + at.tile * p.head_dim + columns.chunk * 8, y, columns.channels);
}

// One block per tile, K's first.
template <class Element>
__global__ void __launch_bounds__(kMaxHeadDim) tile_statistics_kernel(const __grid_constant__ StatisticsPairParams p) {
  if (blockIdx.x < p.k_blocks) {
    tile_statistic<Element>(p.k, blockIdx.x);
  } else {
    tile_statistic<Element>(p.v, static_cast<uint32_t>(blockIdx.x - p.k_blocks));
  }
}

// Lower median of the exponents that exist, bit for bit; the same in every warp.
__device__ __forceinline__ int lower_median(const int (&exponent)[kMaxHeadDim]) {
  constexpr int kOwn = kMaxHeadDim / 32, kLeast = -127;
  int own[kOwn], n = 0;
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    own[i] = 32 * i < blockDim.x ? exponent[threadIdx.x % 32 + 32 * i] : core::kNoExponent;
    n += __popc(__ballot_sync(~0u, own[i] != core::kNoExponent));
  }
  int median = kLeast;
#pragma unroll 1
  for (int bit = 128; bit > 0; bit /= 2) {
    int below = 0;
#pragma unroll
    for (int i = 0; i < kOwn; ++i) below += __popc(__ballot_sync(~0u, own[i] < median + bit));
    if (below <= (n - 1) / 2) median += bit;
  }
  return median;
}

// Weights of K's channels: one block per (sequence, KV head), over its first tile if that is full. A warp per 32 channels.
template <class Element>
__global__ void __launch_bounds__(kMaxHeadDim) key_factors_kernel(const __grid_constant__ KeyFactorsParams p) {
  __shared__ int exponent[kMaxHeadDim];
  const uint32_t tiles = static_cast<uint32_t>(div_up(p.sequence.seqlen_k, kTile));
  const int d = threadIdx.x;
  exponent[d] = core::kNoExponent;
  __syncwarp();
  if (p.weights && tiles > 0) {
    const KeyTile at(p.sequence, p.heads, blockIdx.x * tiles);
    if (at.count == kTile) {
      const TileColumns<Element> columns(p.x, at, p.head_dim);
      float mean[8], residual[8];
      columns.sum(itself, mean);
#pragma unroll
      for (int e = 0; e < 8; ++e) mean[e] = rounded_to(mean[e], Element{});
      columns.sum([&](float x, int e) { return fabsf(__fsub_rn(x, mean[e])); }, residual);
      if (d % 32 < 4) {
#pragma unroll
        for (int e = 0; e < 8; ++e)
          if (e < columns.channels) exponent[columns.chunk * 8 + e] = core::key_exponent(residual[e]);
      }
    }
  }
  __syncthreads();
  const int median = lower_median(exponent);
  if (d >= code_dim(p.head_dim)) return;
  const int log2_weight = core::key_weight_log2(exponent[d], median);
  const std::int64_t at = blockIdx.x * static_cast<std::int64_t>(code_dim(p.head_dim)) + d;
  const uint32_t sign = core::rotation_sign(d) ? 0x80000000u : 0u;
  p.q_factor[at] = __uint_as_float(sign | (127u + log2_weight) << 23);
  p.k_factor[at] = __uint_as_float(sign | (127u - log2_weight) << 23);
}

// The tiles of one sequence and head in StatisticsParams::tiles, and what lies per channel.
struct TilesOfHead {
  SequenceRange range;
  std::int64_t b, first_tile, channel0;
  int head, n;

  __device__ __forceinline__ TilesOfHead(const Sequence& s, int heads, int head_dim, uint32_t index) {
    head = static_cast<int>(index % heads);
    b = index / heads;
    range = s.range(b);
    n = static_cast<int>(div_up(range.k_len, kTile));
    first_tile = (range.tensor_batch * heads + head) * s.tiles_k + s.first_tile(range, b);
    channel0 = std::int64_t{index} * head_dim;
  }
};

// Strided sum over the tiles of a head, or their absmax: lane l (a warp here) adds tiles l, l + 32, ..; then the tree over lanes. That of channel threadIdx.x,
// as far as there are channels.
template <bool kSum>
__device__ __forceinline__ float over_tiles(const StatisticsParams& p, const TilesOfHead& at, float (*part)[kMaxHeadDim]) {
  const int lane = threadIdx.x / 32, column = threadIdx.x % 32, d = threadIdx.x;
  auto join = [](float a, float b) { return kSum ? __fadd_rn(a, b) : absmax_nan(a, b); };
  float a[kMaxHeadDim / 32] = {};
#pragma unroll 2
  for (int t = lane; t < at.n; t += kLanes) {
    const float* from = p.tiles + (at.first_tile + t) * p.head_dim + column;
#pragma unroll
    for (int i = 0; i < kMaxHeadDim / 32; ++i)
      if (column + 32 * i < p.head_dim) a[i] = join(a[i], from[32 * i]);
  }
#pragma unroll
  for (int i = 0; i < kMaxHeadDim / 32; ++i) part[lane][column + 32 * i] = a[i];
  __syncthreads();
  if (d >= p.head_dim) return 0.0f;
  float s[kLanes];
#pragma unroll
  for (int l = 0; l < kLanes; ++l) s[l] = part[l][d];
#pragma unroll
  for (int stride = kLanes / 2; stride > 0; stride /= 2)
#pragma unroll
    for (int l = 0; l < kLanes / 2; ++l)
      if (l < stride) s[l] = join(s[l], s[l + stride]);
  return s[0];
}

// Smallest power of two that brings a channel of absmax a below limit; 1 where it is already.
__device__ __forceinline__ float f16_channel_scale(float a, float limit) {
  if (!(a > limit) || !core::is_finite(a)) return 1.0f;
  const int n = max(0, ilogbf(a) - ilogbf(limit));
  return ldexpf(1.0f, ldexpf(a, -n) > limit ? n + 1 : n);
}

__device__ __forceinline__ void head_statistic(const StatisticsParams& p, uint32_t index, float (*part)[kMaxHeadDim], uint32_t* largest) {
  const TilesOfHead at(p.sequence, p.heads, p.head_dim, index);
  const int d = threadIdx.x;
  if (p.what == Statistic::mean) {
    const float sum = over_tiles<true>(p, at, part);
    if (d >= p.head_dim) return;
    p.result[at.channel0 + d] = at.n == 0 ? 0.0f : __fmul_rn(sum, static_cast<float>(128.0 / static_cast<double>(at.range.k_len)));
    return;
  }
  if (d == 0) *largest = 0;
  float a = over_tiles<false>(p, at, part);
  if (p.what == Statistic::s8_tensor) {
    if (d < p.head_dim) atomicMax(largest, __float_as_uint(a));
    __syncthreads();
    a = __uint_as_float(*largest);
  }
  core::GroupScale s = core::group_scale(a, p.range);
  if (p.what == Statistic::f16) {
    s.scale = f16_channel_scale(a, p.range);
    s.inv = 1.0f / s.scale;
  }
  if (d >= p.head_dim) return;
  p.result[at.channel0 + d] = s.inv;
  p.v_scale[at.channel0 + d] = s.scale;
}

// One block per (sequence, head), K's first.
__global__ void __launch_bounds__(1024) head_statistics_kernel(const __grid_constant__ StatisticsPairParams p) {
  __shared__ float part[kLanes][kMaxHeadDim];
  __shared__ uint32_t largest;
  if (blockIdx.x < p.k_heads) {
    head_statistic(p.k, blockIdx.x, part, &largest);
  } else {
    head_statistic(p.v, static_cast<uint32_t>(blockIdx.x - p.k_heads), part, &largest);
  }
}

// C3 of docs/methods.md part 1: samples are every 8th token, all of a sequence as short as this.
__device__ __forceinline__ bool few_samples(std::int64_t keys) { return keys <= kTile; }

// floor(log2 a) of a positive finite a, else 0: squares of x * 2^-e can neither overflow nor vanish.
__device__ __forceinline__ int exponent_of(float a) { return core::is_finite(a) && a > 0.0f ? ilogbf(a) : 0; }

constexpr int kSampleTiles = 8;  // of a warp

// Tree sums of the squares of the samples of eight tiles, 32 channels a warp: lane l has tile l / 4, chunk l % 4. bounds: largest |x| and smallest but zero,
// less 1, as bits, over what this lane read.
template <class Element>
__device__ __forceinline__ void sample_squares(const StatisticsParams& p, const TilesOfHead& at, int first_tile, int warp, uint2& bounds) {
  const int lane = threadIdx.x % 32, chunk = warp * 4 + lane % 4, t = first_tile + lane / 4;
  if (t >= at.n) return;
  const bool few = few_samples(at.range.k_len);
  const int count = static_cast<int>(min(at.range.k_len - t * std::int64_t{kTile}, std::int64_t{kTile}));
  const Chunk<Element> rows(p.x, at.range.tensor_batch, at.range.k_begin + t * std::int64_t{kTile}, at.head, count, p.head_dim, chunk);
  // The last three levels of a tree over all rows. Trees over rows r + 8i come in the order of r with its bits reversed: each meets its partner at once.
  float level[3][8], y[8];
#pragma unroll 1
  for (int n = 0; n < (few ? 8 : 1); ++n) {
    const int r = (n & 1) << 2 | (n & 2) | n >> 2;
    Vector8<Element> raw[16];
    rows.load(raw, r, 8);
    auto square = [&](int i, float(&x)[8]) {
      raw[i].unpack(x);
#pragma unroll
      for (int c = 0; c < 8; ++c) {
        const uint32_t a = __float_as_uint(x[c]) & 0x7fffffffu;
        bounds.x = max(bounds.x, a);
        bounds.y = min(bounds.y, a - 1);  // zero: the largest
        x[c] = __fmul_rn(x[c], x[c]);
      }
    };
    tree_sum<1>(square, 0, y);
#pragma unroll
    for (int l = 0; l < 3; ++l) {
      const bool last = (n & ((2 << l) - 1)) == (2 << l) - 1, partner = (n & ((2 << l) - 1)) == (1 << l) - 1;
#pragma unroll
      for (int c = 0; c < 8; ++c) {
        if (partner) level[l][c] = y[c];
        if (last) y[c] = __fadd_rn(level[l][c], y[c]);
      }
    }
  }
  store_channels(p.tiles + (at.first_tile + t) * p.head_dim + chunk * 8, y, rows.channels);
}

__device__ __forceinline__ uint2* bounds_of(const StatisticsParams& p, std::int64_t tile) {
  return reinterpret_cast<uint2*>(p.bounds) + tile * (kMaxHeadDim / 32);
}

// One block per eight tiles of a head, a warp per 32 channels. Squares of x as it is, see channel_weights_kernel.
template <class Element>
__global__ void __launch_bounds__(kMaxHeadDim) sample_squares_kernel(const __grid_constant__ StatisticsParams p) {
  const uint32_t groups = static_cast<uint32_t>(div_up(div_up(p.sequence.seqlen_k, kTile), kSampleTiles));
  const TilesOfHead at(p.sequence, p.heads, p.head_dim, blockIdx.x / groups);
  const int first_tile = static_cast<int>(blockIdx.x % groups) * kSampleTiles, warp = threadIdx.x / 32;
  if (first_tile >= at.n) return;
  uint2 bounds = make_uint2(0, ~0u);
  sample_squares<Element>(p, at, first_tile, warp, bounds);
  bounds.x = __reduce_max_sync(~0u, bounds.x);
  bounds.y = ~__reduce_max_sync(~0u, ~bounds.y);
  // Of a warp: in the place of its first tile.
  if (threadIdx.x % 32 == 0) bounds_of(p, at.first_tile + first_tile)[warp] = bounds;
}

// Tree sum of the squares of x * 2^-e over the samples of one tile and channel. Slots come in the order of their bits reversed, so that partial sums meet as
// the ones of a binary counter carry.
template <class Element>
__device__ __forceinline__ float sum_of_squares(const StatisticsParams& p, const TilesOfHead& at, int t, int d, int e) {
  const int bits = few_samples(at.range.k_len) ? 7 : 4;
  const std::int64_t first = t * std::int64_t{kTile};
  const Element* x = static_cast<const Element*>(p.x.data) + at.range.tensor_batch * p.x.batch + (at.range.k_begin + first) * p.x.seq + at.head * p.x.head + d;
  float level[8];
#pragma unroll 1
  for (int n = 0; n < 1 << bits; ++n) {
    int row = 0;
    for (int i = 0; i < bits; ++i) row |= (n >> i & 1) << (6 - i);
    float u = first + row < at.range.k_len ? ldexpf(to_f32(x[row * p.x.seq]), -e) : 0.0f;
    u = __fmul_rn(u, u);
    int l = 0;
    for (; n >> l & 1; ++l) u = __fadd_rn(level[l], u);
    level[l] = u;
  }
  return level[bits];
}

// c[d] from the root mean squares of one head (shared memory). Called by all threads.
__device__ __forceinline__ float channel_weight(const float* rms, float* median, int head_dim, int d, float largest) {
  float top = 0.0f;
  if (d < head_dim) {
    int rank = 0;
    for (int j = 0; j < head_dim; ++j) {
      top = fmaxf(top, rms[j]);
      rank += rms[j] < rms[d] || (rms[j] == rms[d] && j < d);
    }
    if (rank == (head_dim - 1) / 2) *median = rms[d];
  }
  __syncthreads();
  if (!core::is_finite(largest)) return __uint_as_float(0x7fc00000u);
  if (largest == 0.0f || top < core::kZeroGroup) return 1.0f;
  const float floor = *median > 0.0f ? __fdiv_rn(*median, 8.0f) : __fdiv_rn(top, 128.0f);
  return d < head_dim ? fmaxf(rms[d], floor) : 0.0f;
}

// One block per (sequence, head). The specification sums squares of x * 2^-e, e of the largest sample, which is not known before all are read. A power of two
// changes no rounding as long as nothing overflows or becomes subnormal, so sums of x * x times 2^-2e are the same bits unless samples are
// huge or tiny; then this block reads them again.
template <class Element>
__global__ void __launch_bounds__(1024) channel_weights_kernel(const __grid_constant__ StatisticsParams p) {
  __shared__ float part[kLanes][kMaxHeadDim];
  __shared__ float rms[kMaxHeadDim], median;
  __shared__ uint32_t top, bottom;
  const TilesOfHead at(p.sequence, p.heads, p.head_dim, blockIdx.x);
  const int d = threadIdx.x, warps = static_cast<int>(div_up(p.head_dim, 32)), groups = static_cast<int>(div_up(at.n, kSampleTiles));
  if (d == 0) top = 0, bottom = ~0u;
  __syncthreads();
  uint2 bounds = make_uint2(0, ~0u);
  for (int i = d; i < groups * warps; i += 1024) {
    const uint2 b = bounds_of(p, at.first_tile + i / warps * kSampleTiles)[i % warps];
    bounds.x = max(bounds.x, b.x), bounds.y = min(bounds.y, b.y);
  }
  atomicMax(&top, __reduce_max_sync(~0u, bounds.x));
  atomicMin(&bottom, ~__reduce_max_sync(~0u, ~bounds.y));
  __syncthreads();
  const float largest = __uint_as_float(top);
  const int e = exponent_of(largest);
  const float smallest = bottom == ~0u ? 1.0f : __uint_as_float(bottom + 1);
  const bool exact = bottom == ~0u || (largest < ldexpf(1.0f, 48) && smallest >= ldexpf(1.0f, max(e, 0) - 63));
  if (!exact && core::is_finite(largest)) {
    for (int t = d / 32; t < at.n; t += 32)
      for (int c = d % 32; c < p.head_dim; c += 32) p.tiles[(at.first_tile + t) * p.head_dim + c] = sum_of_squares<Element>(p, at, t, c, e);
    __syncthreads();
  }
  const float sum = over_tiles<true>(p, at, part);
  const float samples = static_cast<float>(few_samples(at.range.k_len) ? at.range.k_len : div_up(at.range.k_len, 8));
  if (d < p.head_dim) rms[d] = at.n == 0 ? 0.0f : ldexpf(__fsqrt_rn(__fdiv_rn(exact ? ldexpf(sum, -2 * e) : sum, samples)), e);
  __syncthreads();
  const float c = channel_weight(rms, &median, p.head_dim, d, largest);
  if (d >= p.head_dim) return;
  p.v_scale[at.channel0 + d] = c;
  p.result[at.channel0 + d] = __fdiv_rn(1.0f, c);
}

template <class... Params>
using Kernel = void (*)(Params...);
template <class... Params>
Kernel<Params...> of_type(DType t, Kernel<Params...> f32, Kernel<Params...> bf16, Kernel<Params...> f16) {
  return t == DType::f32 ? f32 : t == DType::bf16 ? bf16 : f16;
}

int threads_of(int head_dim) { return static_cast<int>(div_up(head_dim, 32)) * 32; }
std::int64_t heads_of(const StatisticsParams& p) { return std::int64_t{p.sequence.batch} * p.heads; }
std::int64_t tiles_of(const StatisticsParams& p) { return div_up(p.sequence.seqlen_k, kTile); }

void channel_weights(const StatisticsParams& p, cudaStream_t stream) {
  const std::int64_t groups = div_up(tiles_of(p), kSampleTiles);
  launch(of_type(p.x.dtype, sample_squares_kernel<float>, sample_squares_kernel<__nv_bfloat16>, sample_squares_kernel<__half>), heads_of(p) * groups,
         threads_of(p.head_dim), 0, stream, p);
  launch(of_type(p.x.dtype, channel_weights_kernel<float>, channel_weights_kernel<__nv_bfloat16>, channel_weights_kernel<__half>), heads_of(p), 1024, 0, stream,
         p);
}

}  // namespace

void key_factors(const KeyFactorsParams& p, cudaStream_t stream) {
  launch(of_type(p.x.dtype, key_factors_kernel<float>, key_factors_kernel<__nv_bfloat16>, key_factors_kernel<__half>), std::int64_t{p.sequence.batch} * p.heads,
         threads_of(p.head_dim), 0, stream, p);
}

void statistics(const StatisticsParams* k, const StatisticsParams* v, cudaStream_t stream) {
  if (v != nullptr && v->what == Statistic::weights) {
    channel_weights(*v, stream);
    v = nullptr;
  }
  if (k == nullptr && v == nullptr) return;
  StatisticsPairParams p{};
  std::int64_t blocks = 0, heads = 0;
  int threads = 0;
  for (const StatisticsParams* x : {k, v}) {
    if (x == nullptr) continue;
    (x == k ? p.k : p.v) = *x;
    const std::int64_t own = heads_of(*x) * tiles_of(*x);
    if (x == k) p.k_blocks = own, p.k_heads = heads_of(*x);
    blocks += own;
    heads += heads_of(*x);
    threads = std::max(threads, threads_of(x->head_dim));
  }
  const DType t = (k != nullptr ? k : v)->x.dtype;
  launch(of_type(t, tile_statistics_kernel<float>, tile_statistics_kernel<__nv_bfloat16>, tile_statistics_kernel<__half>), blocks, threads, 0, stream, p);
  launch(head_statistics_kernel, heads, 1024, 0, stream, p);
}

}  // namespace chitu::cuda
