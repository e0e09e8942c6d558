// Statistics over a sequence: mean of K (sage), absmax and weights of V's channels. Tree and strided sums as docs/methods.md part 1 fixes them;
// built without FMA contraction.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "cuda/quantize.h"
#include "cuda/rows.cuh"

namespace chitu::cuda {
namespace {

// What the kernels below do with a tile of 128 tokens.
enum class TileStatistic { sum, absmax, squares };

template <class Element>
struct Column {
  const Element* x;
  std::int64_t stride;
  int count;
  __device__ __forceinline__ float operator()(int j) const { return j < count ? to_f32(x[j * stride]) : 0.0f; }
};

// The tree sum of docs/methods.md over the slots first, first + step, .. below kSlots.
template <int kSlots, int kStep, class Slot>
__device__ __forceinline__ float tree_sum(const Slot& slot, int first) {
  if constexpr (kStep == kSlots) {
    return slot(first);
  } else {
    const float a = tree_sum<kSlots, 2 * kStep>(slot, first);
    return __fadd_rn(a, tree_sum<kSlots, 2 * kStep>(slot, first + kStep));
  }
}

// floor(log2 a) of a positive finite a, else 0: squares of x * 2^-e can neither overflow nor vanish.
__device__ __forceinline__ int exponent_of(float a) { return core::is_finite(a) && a > 0.0f ? ilogbf(a) : 0; }

// Of a sequence this short every token is a sample.
__device__ __forceinline__ bool few_samples(std::int64_t keys) { return keys <= kTile; }

struct TileStatisticParams {
  StatisticsParams s;
  const float* absmax;  // squares: [batch, heads, head_dim]
  TileStatistic what;
  int step;
};

__device__ __forceinline__ float largest_of(const float* x, int n) {
  uint32_t a = 0;
  for (int i = 0; i < n; ++i) a = max(a, __float_as_uint(x[i]));
  return __uint_as_float(a);
}

// One block per tile, one thread per channel.
template <class Element>
__global__ void tile_statistics_kernel(const __grid_constant__ TileStatisticParams params) {
  const StatisticsParams& p = params.s;
  const std::int64_t tiles = div_up(p.sequence.seqlen_k, kTile);
  const int first = static_cast<int>(blockIdx.x % tiles) * kTile, head = static_cast<int>(blockIdx.x / tiles % p.heads);
  const std::int64_t b = blockIdx.x / tiles / p.heads;
  const SequenceRange r = p.sequence.range(b);
  const int d = threadIdx.x, count = static_cast<int>(r.k_len - first);
  if (count <= 0 || d >= p.head_dim) return;
  const View& v = p.x;
  const Column<Element> column{static_cast<const Element*>(v.data) + r.tensor_batch * v.batch + (r.k_begin + first) * v.seq + head * v.head + d, v.seq,
                               min(count, kTile)};
  const std::int64_t tile = (r.tensor_batch * p.heads + head) * p.sequence.tiles_k + p.sequence.first_tile(r, b) + first / kTile;
  float* out = p.tiles + tile * p.head_dim + d;
  if (params.what == TileStatistic::sum) {
    *out = tree_sum<128, 1>([&](int j) { return __fmul_rn(column(j), 0.0078125f); }, 0);
  } else if (params.what == TileStatistic::absmax) {
    const int step = few_samples(r.k_len) ? 1 : params.step;
    uint32_t a = 0;
    for (int j = 0; j < kTile; j += step) a = max(a, __float_as_uint(column(j)) & 0x7fffffffu);
    *out = __uint_as_float(a);
  } else {
    const int e = exponent_of(largest_of(params.absmax + (b * p.heads + head) * p.head_dim, p.head_dim));
    auto square = [&](int j) {
      const float u = ldexpf(column(j), -e);
      return __fmul_rn(u, u);
    };
    *out = few_samples(r.k_len) ? tree_sum<128, 1>(square, 0) : tree_sum<16, 1>([&](int i) { return square(8 * i); }, 0);
  }
}

struct ReduceParams {
  StatisticsParams s;
  TileStatistic what;
  const float* absmax;
};

// Strided sum over the tiles of a sequence: lane l (of 32, across warps here) adds tiles l, l + 32, ..; then the tree over lanes. The value of channel
// 32 * block + threadIdx.x % 32 comes back in the threads of warp 0.
__device__ __forceinline__ float over_tiles(const float* tiles, int n, int head_dim, int d, bool absmax, float (*part)[33]) {
  const int lane = threadIdx.x / 32, column = threadIdx.x % 32;
  float a = 0.0f;
  for (int t = lane; t < n && d < head_dim; t += 32) {
    const float x = tiles[static_cast<std::int64_t>(t) * head_dim + d];
    a = absmax ? core::absmax_nan(a, x) : __fadd_rn(a, x);
  }
  part[lane][column] = a;
  for (int stride = 16; stride > 0; stride /= 2) {
    __syncthreads();
    if (lane < stride) {
      const float x = part[lane][column], y = part[lane + stride][column];
      part[lane][column] = absmax ? core::absmax_nan(x, y) : __fadd_rn(x, y);
    }
  }
  __syncthreads();
  const float result = part[0][column];
  __syncthreads();
  return result;
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

// One block of 1024 threads per (sequence, head).
__global__ void __launch_bounds__(1024) reduce_tiles_kernel(const __grid_constant__ ReduceParams params) {
  __shared__ float part[32][33];
  __shared__ float rms[256], median;
  const StatisticsParams& p = params.s;
  const int head = static_cast<int>(blockIdx.x % p.heads);
  const std::int64_t b = blockIdx.x / p.heads;
  const SequenceRange r = p.sequence.range(b);
  const int n = static_cast<int>(div_up(r.k_len, kTile));
  const float* tiles = p.tiles + ((r.tensor_batch * p.heads + head) * p.sequence.tiles_k + p.sequence.first_tile(r, b)) * p.head_dim;
  const std::int64_t out = (b * p.heads + head) * p.head_dim;
  const bool squares = params.what == TileStatistic::squares;
  const float largest = squares ? largest_of(params.absmax + out, p.head_dim) : 0.0f;
  for (int first = 0; first < p.head_dim; first += 32) {
    const int d = first + threadIdx.x % 32;
    const float x = over_tiles(tiles, n, p.head_dim, d, params.what == TileStatistic::absmax, part);
    if (threadIdx.x >= 32 || d >= p.head_dim) continue;
    if (params.what == TileStatistic::absmax) {
      p.result[out + d] = x;
    } else if (params.what == TileStatistic::sum) {
      p.result[out + d] = r.k_len == 0 ? 0.0f : __fmul_rn(x, static_cast<float>(128.0 / static_cast<double>(r.k_len)));
    } else {
      const float samples = static_cast<float>(few_samples(r.k_len) ? r.k_len : div_up(r.k_len, 8));
      rms[d] = r.k_len == 0 ? 0.0f : ldexpf(__fsqrt_rn(__fdiv_rn(x, samples)), exponent_of(largest));
    }
  }
  if (!squares) return;
  __syncthreads();
  const float c = channel_weight(rms, &median, p.head_dim, threadIdx.x, largest);
  if (threadIdx.x < p.head_dim) p.result[out + threadIdx.x] = c;
}

void tile_statistics(const StatisticsParams& s, const float* absmax, TileStatistic what, int step, cudaStream_t stream) {
  const std::int64_t blocks = static_cast<std::int64_t>(s.sequence.batch) * s.heads * div_up(s.sequence.seqlen_k, kTile);
  const int threads = static_cast<int>(div_up(s.head_dim, 32) * 32);
  const auto kernel = s.x.dtype == DType::f32    ? tile_statistics_kernel<float>
                      : s.x.dtype == DType::bf16 ? tile_statistics_kernel<__nv_bfloat16>
                                                 : tile_statistics_kernel<__half>;
  launch(kernel, blocks, threads, 0, stream, TileStatisticParams{s, absmax, what, step});
  launch(reduce_tiles_kernel, static_cast<std::int64_t>(s.sequence.batch) * s.heads, 1024, 0, stream, ReduceParams{s, what, absmax});
}

}  // namespace

void sequence_mean(const StatisticsParams& p, cudaStream_t stream) { tile_statistics(p, nullptr, TileStatistic::sum, 1, stream); }
void channel_absmax(const StatisticsParams& p, int step, cudaStream_t stream) { tile_statistics(p, nullptr, TileStatistic::absmax, step, stream); }
void channel_weights(const StatisticsParams& p, const float* absmax, cudaStream_t stream) { tile_statistics(p, absmax, TileStatistic::squares, 8, stream); }

}  // namespace chitu::cuda
