// The producer warpgroup: warp 0 hands out work and loads operands, warps 1-3 make the tile bias.
#pragma once
#include "cuda/device/ptx/mma.cuh"
#include "cuda/device/ptx/sync.cuh"
#include "cuda/device/ptx/tma.cuh"
#include "traits.cuh"
#include "work.cuh"

namespace chitu::cuda::sm90 {

struct alignas(64) TensorMap {
  char bytes[128];  // a CUtensorMap, without its header
};

struct TensorMaps {
  TensorMap q, k, v, q16, k_scale;
};

constexpr int kBiasWarps = 3;
constexpr int kBarBias = 1;       // named barriers; 0 is __syncthreads
constexpr int kBarConsumers = 2;

// Reads the next piece; every role sees the same sequence. Returns false at the end.
__device__ __forceinline__ bool next_work(Barriers& bar, RingState<2>& ring, Work& w) {
  ptx::mbarrier_wait(&bar.work_full[ring.index], ring.phase);
  w = bar.work[ring.index];
  ptx::mbarrier_arrive(&bar.work_empty[ring.index]);
  ring.advance();
  return !w.none;
}

template <class T>
__device__ __forceinline__ void load_k(const TensorMaps& maps, char* smem, Barriers& bar, RingState<T::kStages>& ring, const Work& w, int head_linear_kv,
                                       int n) {
  ptx::mbarrier_wait(&bar.k_empty[ring.index], ring.phase ^ 1);
  uint64_t* full = &bar.k_full[ring.index];
  ptx::mbarrier_arrive_expect_tx(full, T::kKBytes + T::kKScaleBytes);
  char* stage = smem + T::kKOffset + ring.index * T::kKBytes;
#pragma unroll
  for (int c = 0; c < T::kQkChunks; ++c) {
    constexpr int kColumns = T::kQkChunk / T::kQkBytes;
    char* to = stage + c * T::kTileN * T::kQkChunk;
    if constexpr (T::kInt8Qk) {
      ptx::tma_load_3d(to, &maps.k, full, c * kColumns, w.at.tile * kScaleTile + n * T::kTileN, head_linear_kv);
    } else {
      ptx::tma_load_4d(to, &maps.k, full, c * kColumns, w.at.k_begin + n * T::kTileN, w.head_kv, w.at.batch);
    }
  }
  if constexpr (T::kKeyScales == KeyScales::token) {
    ptx::tma_load_3d(smem + T::kKScaleOffset + ring.index * T::kKScaleBytes, &maps.k_scale, full, w.at.tile * kScaleTile + n * T::kTileN, head_linear_kv, 0);
  }
  ring.advance();
}

template <class T>
__device__ __forceinline__ void load_v(const TensorMaps& maps, char* smem, Barriers& bar, RingState<T::kVStages>& ring, const Work& w, int head_linear_kv,
                                       int n) {
  ptx::mbarrier_wait(&bar.v_empty[ring.index], ring.phase ^ 1);
  uint64_t* full = &bar.v_full[ring.index];
  ptx::mbarrier_arrive_expect_tx(full, T::kVBytes);
  if constexpr (T::kPvBytes == 1) {
    ptx::tma_load_3d(smem + T::kVOffset + ring.index * T::kVStageBytes, &maps.v, full, 0, (w.at.tile + n) * T::kHeadDim, head_linear_kv);
  } else {
    char* stage = smem + T::kVOffset + ring.index * T::kVBytes;
#pragma unroll
    for (int c = 0; c < T::kChunks16; ++c) {
      ptx::tma_load_4d(stage + c * T::kTileN * T::kChunk16, &maps.v, full, c * T::kChunk16 / 2, w.at.k_begin + n * T::kTileN, w.head_kv, w.at.batch);
    }
  }
  ring.advance();
}

template <class T>
__device__ __forceinline__ void load_q(const TensorMaps& maps, char* smem, Barriers& bar, const AttentionParams& p, const Work& w) {
  ptx::mbarrier_arrive_expect_tx(&bar.q_full, T::kQBytes);
#pragma unroll
  for (int c = 0; c < T::kQkChunks; ++c) {
    constexpr int kColumns = T::kQkChunk / T::kQkBytes;
    char* to = smem + T::kQOffset + c * T::kTileM * T::kQkChunk;
    if constexpr (T::kInt8Qk) {
      ptx::tma_load_3d(to, &maps.q, &bar.q_full, c * kColumns, w.at.q_begin + w.row0, w.at.batch * p.num_heads_q + w.head);
    } else {
      ptx::tma_load_4d(to, &maps.q, &bar.q_full, c * kColumns, w.at.q_begin + w.row0, w.head, w.at.batch);
    }
  }
}

// One thread.
template <class T>
__device__ __forceinline__ void produce(const AttentionParams& p, const WorkShape& shape, const TensorMaps& maps, char* smem, Barriers& bar) {
  RingState<T::kStages> k_ring;
  RingState<T::kVStages> v_ring;
  RingState<2> work_ring;
  uint32_t q_phase = 0;
  PackedTickets packed;
  auto fetch = [&](int previous) { return p.work_counter ? atomicAdd(p.work_counter, 1) : previous + static_cast<int>(gridDim.x); };
  auto ticket_of = [&](int piece) { return p.packed ? packed.of(p, shape, piece) : piece; };
  auto post = [&](int ticket) {
    ptx::mbarrier_wait(&bar.work_empty[work_ring.index], work_ring.phase ^ 1);
    Work& slot = bar.work[work_ring.index];
    if (ticket < shape.num_tiles) {
      slot = decode_work<T::kTileM, T::kTileN>(p, shape, ticket);
    } else {
      slot.none = true;
    }
    ptx::mbarrier_arrive(&bar.work_full[work_ring.index]);
    work_ring.advance();
  };
  int piece = static_cast<int>(blockIdx.x) - static_cast<int>(gridDim.x), ticket = -1;
  do {
    const int now = ticket;
    piece = fetch(piece);
    ticket = ticket_of(piece);
    post(ticket);  // one piece ahead, so that the bias warps and the consumers can start on it
    if (now < 0) continue;
    const Work w = bar.work[work_ring.index];  // of `now`: the other slot has just been posted
    if (w.n_end <= w.n_begin) continue;
    int head_linear_kv = w.at.batch * p.num_heads_kv + w.head_kv;
    load_k<T>(maps, smem, bar, k_ring, w, head_linear_kv, w.n_end - 1);  // its stage is free long before q is
    ptx::mbarrier_wait(&bar.q_empty, q_phase ^ 1);
    q_phase ^= 1;
    load_q<T>(maps, smem, bar, p, w);
#pragma unroll 1  // unrolled it spills
    for (int n = w.n_end - 2; n >= w.n_begin; --n) {
      load_k<T>(maps, smem, bar, k_ring, w, head_linear_kv, n);
      load_v<T>(maps, smem, bar, v_ring, w, head_linear_kv, n + 1);
    }
    load_v<T>(maps, smem, bar, v_ring, w, head_linear_kv, w.n_begin);
    static_assert(T::kStages == 2);
    if (k_ring.index == 1) {  // every piece of work starts in an even stage
      ptx::mbarrier_wait(&bar.k_empty[1], k_ring.phase ^ 1);
      ptx::mbarrier_arrive(&bar.k_full[1]);
      k_ring.advance();
      ptx::mbarrier_wait(&bar.v_empty[T::kVStages - 1], v_ring.phase ^ 1);
      ptx::mbarrier_arrive(&bar.v_full[T::kVStages - 1]);
      v_ring.advance();
    }
  } while (ticket < shape.num_tiles);
}

// bias[i, T] for rows 16 * m .. + 15 and the kBiasTiles scale tiles from t0 on, the last of which is tiles - 1; q in shared memory, means from global memory.
template <class T>
__device__ __forceinline__ void bias_block(const typename T::Float16* means, int tiles, float scale, uint32_t q16, float* bias, int m, int t0, int lane) {
  float d[4] = {};
  const uint32_t* mean = reinterpret_cast<const uint32_t*>(means + static_cast<int64_t>(min(t0 + lane / 4, tiles - 1)) * T::kHeadDim) + lane % 4;
  int row = m * 16 + lane % 16;
  constexpr int kColumns = T::kChunk16 / 2;
#pragma unroll 4
  for (int kk = 0; kk < T::kHeadDim / 16; ++kk) {
    int column = kk * 16 + lane / 16 * 8;
    uint32_t offset = row * T::kChunk16 + column % kColumns * 2;
    offset ^= (offset >> 7 & (T::kChunk16 / 16 - 1)) << 4;
    uint32_t a[4];
    ptx::ldmatrix_x4(a, q16 + column / kColumns * (T::kTileM * T::kChunk16) + offset);
    uint32_t b0 = __ldg(mean + kk * 8), b1 = __ldg(mean + kk * 8 + 4);
    if constexpr (T::kBf16) {
      ptx::mma_m16n8k16_bf16(d, a, b0, b1);
    } else {
      ptx::mma_m16n8k16_f16(d, a, b0, b1);
    }
  }
  float* to = bias + lane % 4 * 2 * T::kBiasStride + m * 16 + lane / 4;
  to[0] = d[0] * scale;
  to[T::kBiasStride] = d[1] * scale;
  to[8] = d[2] * scale;
  to[T::kBiasStride + 8] = d[3] * scale;
}

// Warps 1..3 of the producer warpgroup.
template <class T>
__device__ __forceinline__ void make_bias(const AttentionParams& p, const TensorMaps& maps, char* smem, Barriers& bar, int warp, int lane) {
  using Float16 = typename T::Float16;
  RingState<2> work_ring, bias_ring;
  uint32_t q16_phase = 0;
  Work w;
  const bool computed = p.k_mean && !p.bias;
  const float scale = p.softmax_scale * 1.4426950408889634f;
  while (next_work(bar, work_ring, w)) {
    if (w.n_end <= w.n_begin) continue;
    if (computed) {
      ptx::bar_sync(kBarBias, kBiasWarps * 32);  // all are done with the previous q
      if (warp == 1 && lane == 0) {
        ptx::mbarrier_arrive_expect_tx(&bar.q16_full, T::kQ16Bytes);
        for (int c = 0; c < T::kChunks16; ++c) {
          ptx::tma_load_4d(smem + T::kQ16Offset + c * T::kTileM * T::kChunk16, &maps.q16, &bar.q16_full, c * T::kChunk16 / 2, w.at.q_begin + w.row0, w.head,
                           w.at.batch);
        }
      }
      ptx::mbarrier_wait(&bar.q16_full, q16_phase);
      q16_phase ^= 1;
    }
    const int tiles = p.tiles_k - w.at.tile;
    int64_t means_row = static_cast<int64_t>(w.at.batch * p.num_heads_kv + w.head_kv) * p.tiles_k + w.at.tile;
    const Float16* means = static_cast<const Float16*>(p.k_mean) + means_row * T::kHeadDim;
    int group_last = (w.n_end - 1) * T::kTileN / kScaleTile / kBiasTiles;
    int group_first = w.n_begin * T::kTileN / kScaleTile / kBiasTiles;
    for (int group = group_last; group >= group_first; --group) {
      ptx::mbarrier_wait_asleep(&bar.bias_empty[bias_ring.index], bias_ring.phase ^ 1);
      float* bias = reinterpret_cast<float*>(smem + T::kBiasOffset) + bias_ring.index * kBiasTiles * T::kBiasStride;
      if (computed) {
        for (int m = warp - 1; m < T::kTileM / 16; m += kBiasWarps) {
          bias_block<T>(means, tiles, scale, ptx::smem_u32(smem + T::kQ16Offset), bias, m, group * kBiasTiles, lane);
        }
      } else {
        int64_t row = static_cast<int64_t>(w.at.batch * p.num_heads_q + w.head) * p.tiles_k + w.at.tile + group * kBiasTiles;
        const int row0 = w.at.q_begin + w.row0;
        for (int i = (warp - 1) * 32 + lane; i < kBiasTiles * T::kTileM; i += kBiasWarps * 32) {
          int t = i / T::kTileM, r = i % T::kTileM;
          bool inside = p.bias && group * kBiasTiles + t < tiles && row0 + r < p.seqlen_q_padded;
          bias[t * T::kBiasStride + r] = inside ? __ldg(p.bias + (row + t) * p.seqlen_q_padded + row0 + r) : 0.f;
        }
      }
      if (warp == 1) {  // the scales of the tiles' keys, behind their bias
        const int t = group * kBiasTiles + lane / 4;
        bias[lane / 4 * T::kBiasStride + T::kTileM + lane % 4] = t < tiles ? __ldg(p.k_scale + (means_row + t) * 4 + lane % 4) : 0.f;
      }
      ptx::mbarrier_arrive(&bar.bias_full[bias_ring.index]);
      bias_ring.advance();
    }
  }
}

}  // namespace chitu::cuda::sm90
