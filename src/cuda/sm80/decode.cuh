// A decoding step of chitu_int8 on mma.sync (sm_80 and newer): few rows of Q, many keys, memory as the limit.
//
// The query heads that share K and V fill the rows of one fragment, so K and V are read once. Each warp walks tiles of its own, every kWarps-th, through
// a ring of its own in shared memory, without a block barrier; the warps' partial results are merged at the end, in their order. Which warp takes a tile
// depends on the tile alone: a row's bits depend neither on the rows beside it nor on the first tile that these see.
#pragma once
#include "cuda/sm80/attention.cuh"
#include "cuda/sm80/launch.h"

namespace chitu::cuda::sm80 {

// The stream of a warp: pieces of 8 KB, of each tile first those of K (some keys), then those of V (64 channels). Three per warp and four warps are 96 KB: two
// blocks on an SM of 228 KB, with 16 to 24 KB per warp on their way, 128 KB and more per SM (what HBM needs is 33 KB per microsecond of its latency); one
// block where there are 100 KB.
template <int kHeadDim_, int kHalves_>
struct DecodeTraits : Traits<Qk::s8, Pv::u8, kHeadDim_, kTile> {
  using Base = Traits<Qk::s8, Pv::u8, kHeadDim_, kTile>;
  static constexpr int kHalves = kHalves_;
  static constexpr bool kEagerBias = true;
  static constexpr int kWarps = 4, kSlots = 3, kPieceBytes = 8192, kRingBytes = kSlots * kPieceBytes;
  static constexpr int kPieces = kHeadDim_ / 64;  // of K, and as many of V
  static constexpr int kPieceKeys = kTile / kPieces, kPieceDims = 64;
  static_assert(kPieceKeys * Base::kRowK == kPieceBytes && kPieceDims * Base::kRowV == kPieceBytes);
  static constexpr int kRows = 8 * kHalves;                       // packed rows of a block
  static constexpr int kRowSums = 3;                              // of RowState
  static constexpr int kWarpShare = Base::kHeadDim / 8 / kWarps;  // blocks of 8 channels that a warp merges
  static_assert((Base::kHeadDim / 8 * 2 + kRowSums) * kHalves * 32 * 4 <= kRingBytes);
};

// Row i of head h of the group is packed row i * group + h.
template <class T>
__device__ __forceinline__ void decode_packed_work(const AttentionParams& p, Work& w) {
  const int group = p.heads_q / p.heads_kv;
  int rest = blockIdx.x;
  const int first = rest % p.q_tiles * T::kRows;
  rest /= p.q_tiles;
  w.split = rest % p.splits;
  rest /= p.splits;
  w.head_kv = rest % p.heads_kv;
  w.head = w.head_kv * group;
  w.batch = rest / p.heads_kv;
  locate<T>(p, first / group, (first + T::kRows - 1) / group + 1, w);
}

template <class T>
struct Decode {
  const AttentionParams& p;
  const Work& w;
  RowPlace place[2];
  QueryRows rows;
  RowState state;
  std::int64_t head_tiles;
  TileBias tile_bias;
  uint32_t ring, slot;  // shared memory: of the warp; of its next piece

  __device__ __forceinline__ Decode(const AttentionParams& p_, const Work& w_) : p(p_), w(w_) {}

  // Piece `index` of the stream, counted from tile n, into `to`. Without pieces left the group is empty.
  __device__ __forceinline__ void load(int index, int n, uint32_t to) const {
    const int of_tile = index % (2 * T::kPieces);
    n += index / (2 * T::kPieces) * T::kWarps;
    if (n < w.n_end) {
      if (of_tile < T::kPieces) {
        const int dim = code_dim(p.head_dim);
        load_rows<T::kPieceKeys, T::kRowK, 32>(to, p.k8 + ((head_tiles + n) * kTile + of_tile * T::kPieceKeys) * dim, dim, T::kPieceKeys, dim);
      } else {
        const int channel = (of_tile - T::kPieces) * T::kPieceDims;
        load_rows<T::kPieceDims, kTile, 32>(to, p.v8t + ((head_tiles + n) * p.head_dim_v + channel) * kTile, kTile, p.head_dim_v - channel, kTile);
      }
    }
    ptx::cp_async_commit();
  }

  // The next piece, once it is there for all lanes.
  __device__ __forceinline__ uint32_t piece() const {
    ptx::cp_async_wait<T::kSlots - 1>();
    __syncwarp();
    return slot;
  }

  // Piece `index` of tile n has been read: its slot takes the piece kSlots further on.
  __device__ __forceinline__ void replace(int index, int n) {
    __syncwarp();
    load(index + T::kSlots, n, slot);
    slot = slot + T::kPieceBytes == ring + T::kRingBytes ? ring : slot + T::kPieceBytes;
  }

  __device__ __forceinline__ void bias_of_tile(int n, bool first, float (&bias)[2]) {
    const int index = n / T::kWarps;
    if (first || index % kBiasTiles == 0) tile_bias.compute<T>(p, w, place, index / kBiasTiles * kBiasTiles * T::kWarps + n % T::kWarps, T::kWarps);
    bias[0] = tile_bias.of(index, 0);
    bias[1] = T::kHalves == 2 ? tile_bias.of(index, 1) : 0.0f;
  }

  __device__ __forceinline__ void step(const uint32_t (&q)[T::kQInRegisters ? T::kSteps : 1][4], int n, bool first, float (&o)[T::kHeadDim / 8][4]) {
    uint32_t pk[T::kWords] = {};
    Fold fold;
    {
      float bias[2], x[T::kBlocks][4];
      const float scale = p.k_scale[(head_tiles + n) * 4 + threadIdx.x % 4], k_scale[2] = {scale, scale};
      const ValueTile v = ValueTile::load(p, head_tiles + n);  // read before the product, which hides the latency
      bias_of_tile(n, first, bias);
      int s[T::kBlocks][4];
#pragma unroll
      for (int i = 0; i < T::kPieces; ++i) {
        multiply_qk<T, T::kPieceKeys / 8>(p, rows, q, i * T::kPieceKeys / 8, piece(), s);
        replace(i, n);
      }
      scale_scores<T>(p, rows, k_scale, nullptr, s, x);
      if (!w.full(w.i0, n * kTile, kTile)) mask_band<T>(w, place, n, x);
      weights_u8<T>(v, bias, x, pk, state, fold);
    }
#pragma unroll
    for (int i = 0; i < T::kPieces; ++i) {
      const uint32_t v_rows = piece();
      fold_pv_int8<T>(v_rows, 2 * i, pk, fold, o);
      fold_pv_int8<T>(v_rows + 32 * T::kRowV, 2 * i + 1, pk, fold, o);
      replace(T::kPieces + i, n);
    }
    if (fold.shifted) add_shift<T>(p.tile_mean + (head_tiles + n) * p.head_dim_v, p.head_dim_v, fold, o);
  }

  // Each warp's state and O to its ring; then each warp merges a share of the channels, in the order of the warps.
  __device__ __forceinline__ void merge(uint8_t* shared, const float (&o)[T::kHeadDim / 8][4]) const {
    constexpr int kElements = 2 * T::kHalves, kState = T::kHeadDim / 8 * kElements;
    const int warp = threadIdx.x / 32;
    auto of_warp = [&](int s, int i) -> float& { return reinterpret_cast<float*>(shared + s * T::kRingBytes)[i * 32 + threadIdx.x % 32]; };
#pragma unroll
    for (int n = 0; n < T::kHeadDim / 8; ++n)
#pragma unroll
      for (int e = 0; e < kElements; ++e) of_warp(warp, n * kElements + e) = o[n][e];
#pragma unroll
    for (int r = 0; r < T::kHalves; ++r) {
      of_warp(warp, kState + r * T::kRowSums) = state.m[r];
      of_warp(warp, kState + r * T::kRowSums + 1) = state.l[r];
      of_warp(warp, kState + r * T::kRowSums + 2) = state.lse_sum[r];
    }
    __syncthreads();
    RowState merged;
    merged.reset();
    float weight[T::kWarps][2];
#pragma unroll
    for (int r = 0; r < T::kHalves; ++r) {
#pragma unroll
      for (int s = 0; s < T::kWarps; ++s) merged.m[r] = ptx::max_nan(merged.m[r], of_warp(s, kState + r * T::kRowSums));
#pragma unroll
      for (int s = 0; s < T::kWarps; ++s) {
        weight[s][r] = ptx::exp2_approx(of_warp(s, kState + r * T::kRowSums) - finite_or_zero_max(merged.m[r]));
        merged.l[r] = fmaf(weight[s][r], of_warp(s, kState + r * T::kRowSums + 1), merged.l[r]);
        merged.lse_sum[r] = fmaf(weight[s][r], of_warp(s, kState + r * T::kRowSums + 2), merged.lse_sum[r]);
      }
    }
    const int first_block = warp * T::kWarpShare;
    float share[T::kWarpShare][4] = {};
#pragma unroll
    for (int s = 0; s < T::kWarps; ++s)
#pragma unroll
      for (int n = 0; n < T::kWarpShare; ++n)
#pragma unroll
        for (int e = 0; e < kElements; ++e) share[n][e] = fmaf(weight[s][e / 2], of_warp(s, (first_block + n) * kElements + e), share[n][e]);
    epilogue<T>(p, w, place, merged, first_block, share);
  }

  __device__ __forceinline__ void run(uint8_t* shared) {
    const int warp = threadIdx.x / 32, group = p.heads_q / p.heads_kv;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int packed = blockIdx.x % p.q_tiles * T::kRows + threadIdx.x % 32 / 4 + 8 * r;
      place[r] = {packed / group, w.head + packed % group};
    }
    head_tiles = (w.tensor_batch * p.heads_kv + w.head_kv) * p.sequence.tiles_k + w.tile0;
    ring = slot = ptx::shared_address(shared) + warp * T::kRingBytes;
    float o[T::kHeadDim / 8][4];
#pragma unroll
    for (int n = 0; n < T::kHeadDim / 8; ++n) o[n][0] = o[n][1] = o[n][2] = o[n][3] = 0.0f;
    state.reset();
    const int begin = w.n_begin + (warp + T::kWarps - w.n_begin % T::kWarps) % T::kWarps;
    if (begin < w.n_end) {
#pragma unroll
      for (int i = 0; i < T::kSlots; ++i) load(i, begin, slot + i * T::kPieceBytes);
      rows.template init<T>(p, w, place);
      uint32_t q[T::kQInRegisters ? T::kSteps : 1][4];
      if constexpr (T::kQInRegisters) {
#pragma unroll
        for (int step = 0; step < T::kSteps; ++step) rows.template fragment<T>(p, step, q[step]);
      }
#pragma unroll 1
      for (int n = begin; n < w.n_end; n += T::kWarps) step(q, n, n == begin, o);
    }
    merge(shared, o);
  }
};

template <class T>
__global__ void __launch_bounds__(T::kWarps * 32, 2) decode_kernel(const __grid_constant__ AttentionParams p) {
  CHITU_DYNAMIC_SHARED(uint8_t, 128, shared);
  __shared__ Work work;
  if (threadIdx.x == 0) decode_packed_work<T>(p, work);
  __syncthreads();
  Decode<T> decode(p, work);
  decode.run(shared);
}

template <int kHeadDim>
AttentionKernel decode_int8_i8(int halves) {
  using One = DecodeTraits<kHeadDim, 1>;
  using Two = DecodeTraits<kHeadDim, 2>;
  return {halves == 1 ? decode_kernel<One> : decode_kernel<Two>, One::kWarps * 32, 1, One::kWarps * One::kRingBytes};
}

}  // namespace chitu::cuda::sm80
