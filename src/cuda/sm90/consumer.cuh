// What every consumer warpgroup does, whatever the format of P and V: scores, tile scales and bias, the walk over the key tiles of a piece of work.
#pragma once
#include "cuda/device/softmax.cuh"
#include "producer.cuh"

namespace chitu::cuda::sm90 {

template <class T>
struct ConsumerBase {
  using Score = typename T::Score;
  static constexpr int kScaleBlocks = T::kKeyScales == KeyScales::block ? T::kTileN / 64 : 1;  // of a tile
  using Scale = std::conditional_t<T::kKeyScales == KeyScales::tile, RowScale,
                                   std::conditional_t<T::kKeyScales == KeyScales::block, BlockScale<kScaleBlocks>, TokenScale>>;
  const AttentionParams& p;
  char* smem;
  Barriers& bar;
  int warpgroup, warp, lane;                          // warp: within the warpgroup
  uint64_t q_descriptor, k_descriptor, v_descriptor;  // v: set by the consumer, whose layout it is
  RingState<2> bias_ring;
  int tile_row;  // offset in shared memory of this thread's first bias of the tile at hand
  uint32_t q_phase = 0;
  // Key tile u of a piece of work lives in stage u % 2: all indices are constants. A piece with an odd number of tiles skips a stage at its end.
  uint32_t phase = 1;  // parity of the stages of tile u
  int row;             // first of the thread's two rows in the sequence
  float c0[2];         // |softmax_scale| * log2e * q_scale
  const float* k_scale;
  float ks_next[kScaleBlocks];  // scales of the tile that is fetched next
  Scale scale;                  // of the tile at hand: see tile_scale()

  __device__ __forceinline__ ConsumerBase(const AttentionParams& p_, char* smem_, Barriers& bar_, int warpgroup_, int warp_, int lane_)
      : p(p_), smem(smem_), bar(bar_), warpgroup(warpgroup_), warp(warp_), lane(lane_) {
    uint32_t base = ptx::smem_u32(smem);
    q_descriptor = ptx::wgmma_descriptor(base + T::kQOffset + warpgroup * 64 * T::kQkChunk, 16, 8 * T::kQkChunk, T::kQkSwizzle);
    k_descriptor = ptx::wgmma_descriptor(base + T::kKOffset, 16, 8 * T::kQkChunk, T::kQkSwizzle);
  }

  // By all threads of the CTA, before the roles part.
  static __device__ __forceinline__ void init_shared(char*) {}

  // Every lane speaks for itself, and so for what it has read.
  __device__ __forceinline__ void release(uint64_t* barrier) { ptx::mbarrier_arrive(barrier); }

  // Values are read by products alone, which end for all lanes at once. The branch matters: without it the compiler mixes what is before with what is behind,
  // and spills ten times as much where registers are short.
  __device__ __forceinline__ void release_values(int stage) {
    if (lane == 0) ptx::mbarrier_arrive(&bar.v_empty[stage % T::kVStages]);
  }

  // The tiles of a piece of work, last to first: tile n goes to stage (n_end - 1 - n) % 2.
  template <class Self>
  __device__ __forceinline__ void walk(Self& self, const Work& w) {
    int n = w.n_end - 1;
    if (Self::kFirstUnmasked && n < w.n_full_end && n >= w.n_full_begin) {
      self.template first_tile<!Self::kFirstUnmasked>(w, n);
    } else {
      self.template first_tile<true>(w, n);
    }
    --n;
    while (n >= w.n_begin) {
#pragma unroll 1
      for (int pairs = n < w.n_full_end ? (n - w.n_full_begin + 1) / 2 : 0; pairs > 0; --pairs) {
        self.template step<false, 1>(w, n);
        self.template step<false, 0>(w, n - 1);
        n -= 2;
      }
      if (n < w.n_begin) break;
      self.template step<true, 1>(w, n);
      if (--n < w.n_begin) break;
      self.template step<true, 0>(w, n);
      --n;
    }
    release(&bar.q_empty);
  }

  // After a piece of work with an odd number of tiles.
  __device__ __forceinline__ void skip_stage() {
    ptx::mbarrier_wait(&bar.k_full[1], phase);
    ptx::mbarrier_wait(&bar.v_full[1 % T::kVStages], T::kVStages == 2 ? phase : 1);
    __syncwarp();  // no product between: lane 0 alone could let two phases pass before another lane has looked
    release(&bar.k_empty[1]);
    release_values(1);
  }

  // Whether there is a tile before tile n: where pairs of tiles need no mask, certainly for the first of them.
  template <bool kMasked, int kStage>
  static __device__ __forceinline__ bool has_next(const Work& w, int n) {
    return (!kMasked && kStage == 1) || n > w.n_begin;
  }

  // Waits for two barriers at once: they are nearly always complete, and one branch that all lanes take together costs less than two loops.
  __device__ __forceinline__ void wait_both(uint64_t* a, uint32_t parity_a, uint64_t* b, uint32_t parity_b, bool wants_b) {
    bool ready = ptx::mbarrier_try(a, parity_a);
    if (wants_b) ready = ptx::mbarrier_try(b, parity_b) && ready;
    if (!__any_sync(~0u, !ready)) return;
    ptx::mbarrier_wait(a, parity_a);
    if (wants_b) ptx::mbarrier_wait(b, parity_b);
  }

  // Scores of the tile at hand.
  template <int kStage>
  __device__ __forceinline__ void issue_qk(Score (&s)[T::kScores]) {
    ptx::pin(s);
    ptx::wgmma_fence();
    uint64_t k = k_descriptor + kStage * (T::kKBytes >> 4);
#pragma unroll
    for (int i = 0; i < T::kHeadDim * T::kQkBytes / 32; ++i) {
      constexpr int kSteps = T::kQkChunk / 32;  // 32 bytes of channels per instruction
      uint64_t qi = q_descriptor + (i / kSteps * (T::kTileM * T::kQkChunk) + i % kSteps * 32 >> 4);
      uint64_t ki = k + (i / kSteps * (T::kTileN * T::kQkChunk) + i % kSteps * 32 >> 4);
      if constexpr (T::kInt8Qk) {
        ptx::wgmma_ss_s8(s, qi, ki, i > 0);
      } else if constexpr (T::kBf16) {
        ptx::wgmma_ss_bf16(s, qi, ki, i > 0);
      } else {
        ptx::wgmma_ss_f16(s, qi, ki, i > 0);
      }
    }
    ptx::wgmma_commit();
  }

  // Scale and bias of key tile n, the one after the tile at hand: down through the bias ring.
  __device__ __forceinline__ void fetch_tile(int n) {
    if constexpr (T::kTileBias) {
      constexpr int kTilesPerRow = kScaleTile / T::kTileN;
      if (kTilesPerRow == 1 || n % kTilesPerRow == kTilesPerRow - 1) {
        if (static_cast<unsigned>(n) / kTilesPerRow % kBiasTiles == kBiasTiles - 1) {
          leave_bias_group();
          enter_bias_group(kBiasTiles - 1);
        } else {
          tile_row -= T::kBiasStride * 4;
        }
      }
      take_tile();
    } else if constexpr (T::kInt8Qk && T::kKeyScales != KeyScales::token) {
      take_scales(ks_next);
      load_scales(max(n - 1, 0));  // a tile ahead
    }
  }

  __device__ __forceinline__ void load_scales(int n) {
#pragma unroll
    for (int b = 0; b < kScaleBlocks; ++b) {
      const int block = T::kKeyScales == KeyScales::tile ? n * T::kTileN / kScaleTile : n * T::kTileN + b * 64 >> (p.k_block == 128 ? 7 : 6);
      ks_next[b] = __ldg(k_scale + block * 4);
    }
  }

  // The scales of a tile in stage kStage.
  template <int kStage>
  __device__ __forceinline__ decltype(auto) tile_scale() const {
    if constexpr (T::kKeyScales == KeyScales::token) {
      return scale.from(kStage * T::kTileN);
    } else {
      return (scale);
    }
  }

  __device__ __forceinline__ int row_in_tile() const { return warpgroup * 64 + warp * 16 + lane / 4; }

  // A row of shared memory: the bias of every row of Q, then the tile's four scales.
  __device__ __forceinline__ void take_tile() {
    const float* b = reinterpret_cast<const float*>(smem + tile_row);
    scale.bias[0] = b[0];
    scale.bias[1] = b[8];
    take_scales({b[T::kTileM + lane % 4 - row_in_tile()]});
  }

  __device__ __forceinline__ void take_scales(const float (&ks)[kScaleBlocks]) {
#pragma unroll
    for (int b = 0; b < kScaleBlocks; ++b) scale.set(b, c0[0] * ks[b], c0[1] * ks[b]);
  }

  __device__ __forceinline__ void enter_bias_group(int tile) {
    ptx::mbarrier_wait(&bar.bias_full[bias_ring.index], bias_ring.phase);
    tile_row = T::kBiasOffset + ((bias_ring.index * kBiasTiles + tile) * T::kBiasStride + row_in_tile()) * 4;
  }

  __device__ __forceinline__ void leave_bias_group() {
    release(&bar.bias_empty[bias_ring.index]);
    bias_ring.advance();
  }

  template <bool kMasked>
  __device__ __forceinline__ void visible_columns(const Work& w, int n, VisibleColumns (&columns)[2]) {
    if constexpr (kMasked) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        int i = row + r * 8;
        int first = max(0, i + w.lo), last = min(w.at.k_len - 1, i + w.hi);
        columns[r].first = first - n * T::kTileN - lane % 4 * 2;
        columns[r].count = max(0, last - first + 1);
      }
    }
  }

  __device__ __forceinline__ void take_rows(const Work& w) {
    const float* q_scale = p.q_scale + (static_cast<int64_t>(w.at.batch) * p.num_heads_q + w.head) * p.seqlen_q_padded + w.at.q_begin;
    const float factor = fabsf(p.softmax_scale) * 1.4426950408889634f;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      int i = min(row + r * 8, w.at.q_len - 1);
      c0[r] = factor * __ldg(q_scale + i);
    }
  }

  // Rows of a piece, before its turn.
  __device__ __forceinline__ void prepare(const Work& w) {
    row = w.row0 + row_in_tile();
    if constexpr (T::kInt8Qk) take_rows(w);
  }

  __device__ __forceinline__ void begin(const Work& w) {
    if constexpr (T::kTileBias) {
      enter_bias_group((w.n_end - 1) * T::kTileN / kScaleTile % kBiasTiles);
      take_tile();
    } else if constexpr (T::kInt8Qk) {
      if constexpr (T::kKeyScales == KeyScales::token) {
        scale.c[0] = c0[0];
        scale.c[1] = c0[1];
        scale.token = reinterpret_cast<const float*>(smem + T::kKScaleOffset) + lane % 4 * 2;
      } else {
        const int blocks = T::kKeyScales == KeyScales::block && p.k_block == 64 ? 2 : 1;  // of a tile
        k_scale = p.k_scale + ((static_cast<int64_t>(w.at.batch) * p.num_heads_kv + w.head_kv) * p.tiles_k + w.at.tile) * blocks * 4 + lane % 4;
        load_scales(w.n_end - 1);
      }
      scale.bias[0] = scale.bias[1] = 0.f;
      fetch_tile(w.n_end - 1);
    } else {
      scale.c[0] = scale.c[1] = p.softmax_scale * 1.4426950408889634f;
      scale.bias[0] = scale.bias[1] = 0.f;
    }
    ptx::mbarrier_wait(&bar.q_full, q_phase);
    q_phase ^= 1;
  }
};

}  // namespace chitu::cuda::sm90
