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
  int bias_group;
  uint32_t q_phase = 0;
  // Key tile u of a piece of work lives in stage u % 2: all indices are constants. A piece with an odd number of tiles skips a stage at its end.
  uint32_t phase = 1;    // parity of the stages of tile u
  uint32_t k_phase = 1;  // the same of keys in four stages: tile u is in u % 4, of which phase is the upper bit
  int row;               // first of the thread's two rows in the sequence
  float c0[2];           // |softmax_scale| * log2e * q_scale
  const float* k_scale;
  float ks_next[kScaleBlocks];  // scales of the tile that is fetched next
  Scale scale;                  // of the tile at hand: see tile_scale()

  __device__ __forceinline__ ConsumerBase(const AttentionParams& p_, char* smem_, Barriers& bar_, int warpgroup_, int warp_, int lane_)
      : p(p_), smem(smem_), bar(bar_), warpgroup(warpgroup_), warp(warp_), lane(lane_) {
    uint32_t base = ptx::smem_u32(smem);
    q_descriptor = ptx::wgmma_descriptor(base + T::kQOffset + warpgroup * 64 * T::kQkChunk, 16, 8 * T::kQkChunk, T::kQkSwizzle);
    k_descriptor = ptx::wgmma_descriptor(base + T::kKOffset, 16, 8 * T::kQkChunk, T::kQkSwizzle);
  }

  // The next tile, if it is an even one.
  template <int kStage>
  __device__ __forceinline__ void next_tile() {
    if constexpr (kStage == 0) {
      phase ^= 1;
      if constexpr (T::kStages == 4) k_phase ^= phase ^ 1;
    }
  }

  // Where the keys of the tile at hand are, and their barriers' parity; kAhead: of the tile after it.
  template <int kStage, bool kAhead = false>
  __device__ __forceinline__ int k_stage() const {
    constexpr int kIndex = kStage ^ (kAhead ? 1 : 0);
    return T::kStages == 4 ? kIndex + 2 * (kAhead ? phase ^ kStage : phase) : kIndex;
  }
  template <int kStage, bool kAhead = false>
  __device__ __forceinline__ uint32_t k_parity() const {
    if constexpr (T::kStages == 4) return kAhead ? k_phase ^ (phase & kStage) : k_phase;
    return kAhead ? phase ^ kStage : phase;
  }

  // By all threads of the CTA, before the roles part.
  static __device__ __forceinline__ void init_shared(char*) {}

  __device__ __forceinline__ void release(uint64_t* barrier) {
    if (lane == 0) ptx::mbarrier_arrive(barrier);
  }

  // Lane 0 speaks for the warp: where scales come with the keys, other lanes may still be reading them.
  __device__ __forceinline__ void release_keys(int stage) {
    if constexpr (T::kKeyScales == KeyScales::token) __syncwarp();
    release(&bar.k_empty[stage]);
  }

  // The tiles of a piece of work, last to first: tile n goes to stage (n_end - 1 - n) % 2.
  template <class Self>
  __device__ __forceinline__ void walk(Self& self, const Work& w) {
    int n = w.n_end - 1;
    self.first_tile(w, n);
    --n;
    while (n >= w.n_begin) {
#pragma unroll 1
      while (n < w.n_full_end && n > w.n_full_begin) {
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
    ptx::mbarrier_wait(&bar.k_full[k_stage<1>()], k_parity<1>());
    ptx::mbarrier_wait(&bar.v_full[1], phase);
    __syncwarp();  // no product between: lane 0 alone could let two phases pass before another lane has looked
    release(&bar.k_empty[k_stage<1>()]);
    release(&bar.v_empty[1]);
  }

  // Scores of the tile at hand, or of the one after it; kPart: of its keys.
  template <int kStage, int kPart = 0, bool kAhead = false>
  __device__ __forceinline__ void issue_qk(Score (&s)[T::kScores]) {
    ptx::pin(s);
    ptx::wgmma_fence();
    uint64_t k = k_descriptor + k_stage<kStage, kAhead>() * (T::kKBytes >> 4) + (kPart * T::kPartN * T::kQkChunk >> 4);
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

  // Scale and bias of key tile n; walks down through the bias ring. others: more rows of this warpgroup.
  template <class... Others>
  __device__ __forceinline__ void fetch_tile(int n, Others&... others) {
    if constexpr (T::kInt8Qk) {
      if constexpr (T::kTileBias) {
        int t = n * T::kTileN / kScaleTile;
        if (t / kBiasTiles != bias_group) next_bias_group(t / kBiasTiles);
        const float* b = reinterpret_cast<const float*>(smem + T::kBiasOffset) + (bias_ring.index * kBiasTiles + t % kBiasTiles) * T::kBiasStride +
                         warpgroup * 64 + warp * 16 + lane / 4;
        take_bias(b);
        (others.take_bias(b + (others.warpgroup - warpgroup) * 64), ...);
      }
      if constexpr (T::kKeyScales != KeyScales::token) {
        if constexpr (!T::kScaleAhead) load_scales(n);  // PV hides the latency
        take_scales(ks_next);
        (others.take_scales(ks_next), ...);
        if constexpr (T::kScaleAhead) load_scales(max(n - 1, 0));  // a tile ahead
      }
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

  __device__ __forceinline__ void take_bias(const float* b) {
    scale.bias[0] = b[0];
    scale.bias[1] = b[8];
  }

  __device__ __forceinline__ void take_scales(const float (&ks)[kScaleBlocks]) {
#pragma unroll
    for (int b = 0; b < kScaleBlocks; ++b) scale.set(b, c0[0] * ks[b], c0[1] * ks[b]);
  }

  __device__ __forceinline__ void next_bias_group(int group) {
    if (bias_group >= 0) leave_bias_group();
    ptx::mbarrier_wait(&bar.bias_full[bias_ring.index], bias_ring.phase);
    bias_group = group;
  }

  __device__ __forceinline__ void leave_bias_group() {
    __syncwarp();
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

  template <class... Others>
  __device__ __forceinline__ void begin(const Work& w, Others&... others) {
    if constexpr (T::kInt8Qk) {
      take_rows(w);
      (others.take_rows(w), ...);
      if constexpr (T::kKeyScales == KeyScales::token) {
        scale.c[0] = c0[0];
        scale.c[1] = c0[1];
        scale.token = reinterpret_cast<const float*>(smem + T::kKScaleOffset) + lane % 4 * 2;
      } else {
        const int blocks = T::kKeyScales == KeyScales::block && p.k_block == 64 ? 2 : 1;  // of a tile
        k_scale = p.k_scale + ((static_cast<int64_t>(w.at.batch) * p.num_heads_kv + w.head_kv) * p.tiles_k + w.at.tile) * blocks * 4 + lane % 4;
        load_scales(w.n_end - 1);
      }
      bias_group = -1;
      if constexpr (!T::kTileBias) scale.bias[0] = scale.bias[1] = 0.f;
    } else {
      scale.c[0] = scale.c[1] = p.softmax_scale * 1.4426950408889634f;
      scale.bias[0] = scale.bias[1] = 0.f;
    }
    fetch_tile(w.n_end - 1, others...);
    ptx::mbarrier_wait(&bar.q_full, q_phase);
    q_phase ^= 1;
  }
};

}  // namespace chitu::cuda::sm90
