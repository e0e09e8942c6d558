// Attention with 16-bit PV on Hopper: QK in INT8 (`chitu`) or 16 bit (`exact`), f32 accumulation in place, running maximum with lazy rescale.
// One producer warpgroup, kWarpgroups consumers of 64 rows each; TMA and mbarrier rings for K and V; persistent.
#pragma once
#include "cuda/device/ptx/shared.cuh"
#include "epilogue.cuh"
#include "producer.cuh"

namespace chitu::cuda::sm90 {

template <class T>
struct Consumer {
  using Score = typename T::Score;
  const AttentionParams& p;
  char* smem;
  Barriers& bar;
  int warpgroup, warp, lane;  // warp: within the warpgroup
  uint64_t q_descriptor, k_descriptor, v_descriptor;
  RingState<2> bias_ring;
  int bias_group;
  uint32_t q_phase = 0;
  // Key tile u of a piece of work lives in stage u % 2, weights of it in packed[u % 2]: all indices are constants. A piece with an odd
  // number of tiles skips a stage at its end.
  uint32_t phase = 1;  // parity of the stages of tile u
  int row;             // first of the thread's two rows in the problem
  float c0[2];         // |softmax_scale| * log2e * q_scale
  const float* k_scale;
  float ks_next;       // scale of the tile that is fetched next
  RowScale scale;      // of the tile at hand
  float o[T::kHeadDim / 2];
  uint32_t packed[T::kOverlap ? 2 : 1][T::kScores / 2];
  RowState state;

  __device__ __forceinline__ Consumer(const AttentionParams& p_, char* smem_, Barriers& bar_, int warpgroup_, int warp_, int lane_)
      : p(p_), smem(smem_), bar(bar_), warpgroup(warpgroup_), warp(warp_), lane(lane_) {
    uint32_t base = ptx::smem_u32(smem);
    q_descriptor = ptx::wgmma_descriptor(base + T::kQOffset + warpgroup * 64 * T::kQkChunk, 16, 8 * T::kQkChunk, T::kQkSwizzle);
    k_descriptor = ptx::wgmma_descriptor(base + T::kKOffset, 16, 8 * T::kQkChunk, T::kQkSwizzle);
    v_descriptor = ptx::wgmma_descriptor(base + T::kVOffset, T::kTileN * T::kChunk16, 8 * T::kChunk16, T::kSwizzle16);
  }

  __device__ __forceinline__ void release(uint64_t* barrier) {
    if (lane == 0) ptx::mbarrier_arrive(barrier);
  }

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

  // O += P V.
  template <int kStage>
  __device__ __forceinline__ void issue_pv() {
    uint32_t(&pk)[T::kScores / 2] = packed[T::kOverlap * kStage];
    ptx::pin(o);
    ptx::pin(pk);
    ptx::wgmma_fence();
    uint64_t v = v_descriptor + kStage * (T::kVBytes >> 4);
#pragma unroll
    for (int i = 0; i < T::kTileN / 16; ++i) {
      uint64_t vi = v + (i * 16 * T::kChunk16 >> 4);
      if constexpr (T::kBf16) {
        ptx::wgmma_rs_bf16(o, pk + i * 4, vi, true);
      } else {
        ptx::wgmma_rs_f16(o, pk + i * 4, vi, true);
      }
    }
    ptx::wgmma_commit();
  }

  // Scale and bias of key tile n; walks down through the bias ring.
  __device__ __forceinline__ void fetch_tile(int n) {
    if constexpr (T::kInt8Qk) {
      int t = n * T::kTileN / kScaleTile;
      if (t / kBiasTiles != bias_group) next_bias_group(t / kBiasTiles);
      const float* b = reinterpret_cast<const float*>(smem + T::kBiasOffset) + (bias_ring.index * kBiasTiles + t % kBiasTiles) * T::kBiasStride +
                       warpgroup * 64 + warp * 16 + lane / 4;
      scale.bias[0] = b[0];
      scale.bias[1] = b[8];
      if constexpr (!T::kOverlap) ks_next = __ldg(k_scale + t * 4);  // PV hides the latency
      scale.c[0] = c0[0] * ks_next;
      scale.c[1] = c0[1] * ks_next;
      if constexpr (T::kOverlap) ks_next = __ldg(k_scale + max(n - 1, 0) * T::kTileN / kScaleTile * 4);  // a tile ahead
    }
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
        int first = max(0, i + w.lo), last = min(w.seqlen_k - 1, i + w.hi);
        columns[r].first = first - n * T::kTileN - lane % 4 * 2;
        columns[r].count = max(0, last - first + 1);
      }
    }
  }

  __device__ __forceinline__ void weight_base(float (&base)[2]) {
#pragma unroll
    for (int r = 0; r < 2; ++r) base[r] = scale.bias[r] - state.m[r] + T::kOffset;
  }

  // The first tile: m is its maximum.
  template <bool kMasked, int kStage>
  __device__ __forceinline__ void first_softmax(const Work& w, int n, const Score (&s)[T::kScores]) {
    VisibleColumns columns[2];
    visible_columns<kMasked>(w, n, columns);
    float level[2], sum[4] = {}, base[2];
    row_levels<kMasked>(s, level, scale, columns);
    raise_reference(state, level, {true, true});
    weight_base(base);
    make_weights<kMasked, T::kBf16>(s, packed[T::kOverlap * kStage], sum, base, scale, columns);
    state.l[0] += sum[0] + sum[1];
    state.l[1] += sum[2] + sum[3];
  }

  // Any other tile, optimistically: weights against the old m, no maximum at all. The sums show whether m was good enough.
  template <bool kMasked, int kStage>
  __device__ __forceinline__ void softmax(const Work& w, int n, const Score (&s)[T::kScores]) {
    VisibleColumns columns[2];
    visible_columns<kMasked>(w, n, columns);
    float sum[4] = {}, base[2];
    weight_base(base);
    make_weights<kMasked, T::kBf16>(s, packed[T::kOverlap * kStage], sum, base, scale, columns);
    bool outgrown[2] = {sum[0] + sum[1] > kWeightLimit<T::kBf16>, sum[2] + sum[3] > kWeightLimit<T::kBf16>};
    state.rescale = __any_sync(~0u, outgrown[0] || outgrown[1]);
    if (state.rescale) settle<kMasked, kStage>(outgrown, sum, columns);
    state.l[0] += sum[0] + sum[1];
    state.l[1] += sum[2] + sum[3];
  }

  // Serial: no registers to keep S for a second try, so the maximum comes first.
  template <bool kMasked>
  __device__ __forceinline__ void careful_softmax(const Work& w, int n, const Score (&s)[T::kScores]) {
    VisibleColumns columns[2];
    visible_columns<kMasked>(w, n, columns);
    float level[2], sum[4] = {}, base[2];
    row_levels<kMasked>(s, level, scale, columns);
    const bool outgrown[2] = {level[0] > state.m[0] + kCarefulSlack, level[1] > state.m[1] + kCarefulSlack};
    state.rescale = __any_sync(~0u, outgrown[0] || outgrown[1]);
    if (state.rescale) raise_reference(state, level, outgrown);
    weight_base(base);
    make_weights<kMasked, T::kBf16>(s, packed[0], sum, base, scale, columns);
    state.l[0] += sum[0] + sum[1];
    state.l[1] += sum[2] + sum[3];
  }

  // Scores of 8 keys for this warp, from shared memory. The registers of S are gone by the time they are needed again, and a warp cannot
  // use wgmma alone.
  template <int kStage>
  __device__ __forceinline__ void recompute_scores(int block, Score (&s)[4]) {
    constexpr uint32_t kMask = T::kQkChunk / 16 - 1;
    uint32_t base = ptx::smem_u32(smem);
    int q_row = warpgroup * 64 + warp * 16 + lane % 16, k_row = block * 8 + lane % 8;
#pragma unroll
    for (int i = 0; i < 4; ++i) s[i] = 0;
#pragma unroll 1
    for (int i = 0; i < T::kHeadDim * T::kQkBytes / 32; ++i) {
      constexpr int kSteps = T::kQkChunk / 32;
      uint32_t q = q_row * T::kQkChunk + i % kSteps * 32 + lane / 16 * 16, k = k_row * T::kQkChunk + i % kSteps * 32 + lane / 8 % 2 * 16;
      q ^= (q >> 7 & kMask) << 4;
      k ^= (k >> 7 & kMask) << 4;
      uint32_t a[4], b0, b1;
      ptx::ldmatrix_x4(a, base + T::kQOffset + i / kSteps * (T::kTileM * T::kQkChunk) + q);
      ptx::ldmatrix_x2(b0, b1, base + T::kKOffset + kStage * T::kKBytes + i / kSteps * (T::kTileN * T::kQkChunk) + k);
      if constexpr (T::kInt8Qk) {
        ptx::mma_m16n8k32_s8(s, a, b0, b1);
      } else if constexpr (T::kBf16) {
        ptx::mma_m16n8k16_bf16(s, a, b0, b1);
      } else {
        ptx::mma_m16n8k16_f16(s, a, b0, b1);
      }
    }
  }

  // Rare: some row outgrew its m.
  template <bool kMasked, int kStage>
  __device__ __forceinline__ void settle(const bool (&outgrown)[2], float (&sum)[4], const VisibleColumns (&columns)[2]) {
    float level[2] = {kLowest<float>, kLowest<float>}, base[2];
    Score s[4];
#pragma unroll 1
    for (int block = 0; block < T::kTileN / 8; ++block) {
      recompute_scores<kStage>(block, s);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (!kMasked || visible(columns[i / 2], block * 8 + i % 2)) {
          level[i / 2] = fmaxf(level[i / 2], fmaf(to_f32(s[i]), scale.c[i / 2], scale.bias[i / 2]));
        }
      }
    }
    raise_reference(state, level, outgrown);
    weight_base(base);
#pragma unroll
    for (int i = 0; i < 4; ++i) sum[i] = 0.f;
#pragma unroll
    for (int block = 0; block < T::kTileN / 8; ++block) {
      recompute_scores<kStage>(block, s);
      VisibleColumns shifted[2] = {{columns[0].first - block * 8, columns[0].count}, {columns[1].first - block * 8, columns[1].count}};
      uint32_t(&to)[2] = reinterpret_cast<uint32_t(&)[2]>(packed[T::kOverlap * kStage][block * 2]);
      make_weights<kMasked, T::kBf16>(s, to, sum, base, scale, shifted);
    }
  }

  __device__ __forceinline__ void rescale() {
    if (state.rescale) {
#pragma unroll
      for (int i = 0; i < T::kHeadDim / 2; ++i) o[i] *= state.alpha[i / 2 % 2];
    }
  }

  // S, weights, then O += P V of one tile; the other warpgroups fill the gaps.
  template <bool kMasked, int kStage>
  __device__ __forceinline__ void serial_step(const Work& w, int n) {
    Score s[T::kScores];
    if constexpr (kStage == 0) phase ^= 1;
    ptx::mbarrier_wait(&bar.k_full[kStage], phase);
    issue_qk<kStage>(s);
    ptx::wgmma_wait<0>();
    ptx::pin(s);
    careful_softmax<kMasked>(w, n, s);
    finish_serial_step<kStage>(w, n);
  }

  template <int kStage>
  __device__ __forceinline__ void finish_serial_step(const Work& w, int n) {
    release(&bar.k_empty[kStage]);
    rescale();
    ptx::mbarrier_wait(&bar.v_full[kStage], phase);
    if (n == w.n_end - 1) clear_value_tail(w, n);
    issue_pv<kStage>();
    if (n > w.n_begin) fetch_tile(n - 1);
    ptx::wgmma_wait<0>();
    ptx::pin(o);
    ptx::pin(packed[0]);
    release(&bar.v_empty[kStage]);
  }

  // S of tile n and O += P V of the tile before, issued together so that the tensor cores never run dry; then the weights of tile n.
  template <bool kMasked, int kStage>
  __device__ __forceinline__ void step(const Work& w, int n) {
    if constexpr (!T::kOverlap) {
      serial_step<kMasked, kStage>(w, n);
    } else {
      overlapped_step<kMasked, kStage>(w, n);
    }
  }

  template <bool kMasked, int kStage>
  __device__ __forceinline__ void overlapped_step(const Work& w, int n) {
    Score s[T::kScores];
    if constexpr (kStage == 0) phase ^= 1;
    issue_qk<kStage>(s);
    issue_pv<kStage ^ 1>();
    ptx::wgmma_wait<1>();
    ptx::pin(s);
    softmax<kMasked, kStage>(w, n, s);
    release(&bar.k_empty[kStage]);
    ptx::pin(packed[kStage]);
    ptx::pin(state.l);
    prepare_next<kStage>(w, n);
    // All of the above belongs into the shadow of PV. The compiler would sink the exponentials below this wait, were it not for the loops
    // of the barrier waits between.
    ptx::wgmma_wait<0>();
    ptx::pin(o);
    ptx::pin(packed[kStage ^ 1]);
    release(&bar.v_empty[kStage ^ 1]);
    rescale();
  }

  // What the step after tile n waits for: scale and bias, keys of the next tile, values of this one.
  template <int kStage>
  __device__ __forceinline__ void prepare_next(const Work& w, int n) {
    if (n > w.n_begin) {
      fetch_tile(n - 1);
      ptx::mbarrier_wait(&bar.k_full[kStage ^ 1], phase ^ kStage);
    }
    ptx::mbarrier_wait(&bar.v_full[kStage], phase);
  }

  // Values behind the end of a sequence may be NaN, and 0 * NaN is NaN: clear those rows of stage 0.
  __device__ __forceinline__ void clear_value_tail(const Work& w, int n) {
    int valid = w.seqlen_k - n * T::kTileN;
    if (valid >= T::kTileN || w.seqlen_k >= p.seqlen_k) return;  // the copy engine already wrote zeros beyond seqlen_k
    int words = (T::kTileN - valid) * (T::kChunk16 / 16);
    for (int chunk = 0; chunk < T::kChunks16; ++chunk) {
      uint4* to = reinterpret_cast<uint4*>(smem + T::kVOffset + (chunk * T::kTileN + valid) * T::kChunk16);
      for (int i = (warpgroup * 4 + warp) * 32 + lane; i < words; i += T::kWarpgroups * 128) to[i] = make_uint4(0, 0, 0, 0);
    }
    ptx::fence_proxy_async();
    ptx::bar_sync(kBarConsumers, T::kWarpgroups * 128);
  }

  __device__ __forceinline__ void begin(const Work& w) {
    if constexpr (T::kInt8Qk) {
      int64_t head = static_cast<int64_t>(w.batch) * p.num_heads_q + w.head;
      const float factor = fabsf(p.softmax_scale) * 1.4426950408889634f;
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        int i = min(row + r * 8, p.seqlen_q - 1);
        c0[r] = factor * __ldg(p.q_scale + head * p.seqlen_q_padded + i);
      }
      k_scale = p.k_scale + (static_cast<int64_t>(w.batch) * p.num_heads_kv + w.head_kv) * p.tiles_k * 4 + lane % 4;
      ks_next = __ldg(k_scale + (w.n_end - 1) * T::kTileN / kScaleTile * 4);
      bias_group = -1;
    } else {
      scale.c[0] = scale.c[1] = p.softmax_scale * 1.4426950408889634f;
      scale.bias[0] = scale.bias[1] = 0.f;
    }
    fetch_tile(w.n_end - 1);
    ptx::mbarrier_wait(&bar.q_full, q_phase);
    q_phase ^= 1;
  }

  __device__ __forceinline__ void first_tile(const Work& w, int n) {
    Score s[T::kScores];
    phase ^= 1;
    ptx::mbarrier_wait(&bar.k_full[0], phase);
    issue_qk<0>(s);
    ptx::wgmma_wait<0>();
    ptx::pin(s);
    first_softmax<true, 0>(w, n, s);
    if constexpr (T::kOverlap) {
      release(&bar.k_empty[0]);
      prepare_next<0>(w, n);
      clear_value_tail(w, n);
    } else {
      finish_serial_step<0>(w, n);
    }
  }

  template <int kStage>
  __device__ __forceinline__ void last_pv() {
    issue_pv<kStage>();
    ptx::wgmma_wait<0>();
    ptx::pin(o);
    release(&bar.v_empty[kStage]);
  }

  __device__ __forceinline__ void run(const Work& w) {
    state.reset();
#pragma unroll
    for (float& x : o) x = 0.f;
    row = w.row0 + warpgroup * 64 + warp * 16 + lane / 4;
    if (w.n_end <= w.n_begin) return;
    begin(w);
    int n = w.n_end - 1;
    // Tile n goes to stage (n_end - 1 - n) % 2.
    first_tile(w, n);
    --n;
    while (n >= w.n_begin) {
#pragma unroll 1
      while (n < w.n_full_end && n > w.n_full_begin) {
        step<false, 1>(w, n);
        step<false, 0>(w, n - 1);
        n -= 2;
      }
      if (n < w.n_begin) break;
      step<true, 1>(w, n);
      if (--n < w.n_begin) break;
      step<true, 0>(w, n);
      --n;
    }
    release(&bar.q_empty);
    const bool odd = (w.n_end - w.n_begin) % 2;
    if constexpr (T::kOverlap) {
      if (odd) {
        last_pv<0>();
      } else {
        last_pv<1>();
      }
    }
    if (odd) {
      ptx::mbarrier_wait(&bar.k_full[1], phase);
      ptx::mbarrier_wait(&bar.v_full[1], phase);
      __syncwarp();  // no product between: lane 0 alone could let two phases pass before another lane has looked
      release(&bar.k_empty[1]);
      release(&bar.v_empty[1]);
    }
    if constexpr (T::kInt8Qk) leave_bias_group();
  }
};

template <class T>
__device__ __forceinline__ void consume(const AttentionParams& p, const WorkShape& shape, char* smem, Barriers& bar, int warpgroup, int warp, int lane) {
  Consumer<T> consumer(p, smem, bar, warpgroup, warp, lane);
  RingState<2> work_ring;
  int ticket;
  while (next_ticket(bar, work_ring, lane, shape.num_tiles, ticket)) {
    Work w = decode_work<T::kTileM, T::kTileN>(p, shape, ticket);
    consumer.run(w);
    epilogue<T::kHeadDim>(p, w, consumer.o, consumer.state, T::kOffset, consumer.row, lane);
  }
}

template <class T>
__device__ __forceinline__ void init_barriers(Barriers& bar) {
  constexpr int kConsumerWarps = T::kWarpgroups * 4;
  constexpr int kReaders = kConsumerWarps + (T::kInt8Qk ? kBiasWarps : 0);
  ptx::mbarrier_init(&bar.q_full, 1);
  ptx::mbarrier_init(&bar.q_empty, kConsumerWarps);
  ptx::mbarrier_init(&bar.q16_full, 1);
  for (int i = 0; i < T::kStages; ++i) {
    ptx::mbarrier_init(&bar.k_full[i], 1);
    ptx::mbarrier_init(&bar.k_empty[i], kConsumerWarps);
    ptx::mbarrier_init(&bar.v_full[i], 1);
    ptx::mbarrier_init(&bar.v_empty[i], kConsumerWarps);
  }
  for (int i = 0; i < 2; ++i) {
    ptx::mbarrier_init(&bar.bias_full[i], kBiasWarps);
    ptx::mbarrier_init(&bar.bias_empty[i], kConsumerWarps);
    ptx::mbarrier_init(&bar.work_full[i], 1);
    ptx::mbarrier_init(&bar.work_empty[i], kReaders);
  }
  ptx::fence_barrier_init();
}

template <class T>
__global__ void __launch_bounds__(T::kThreads, 1)
    attention_kernel(const __grid_constant__ AttentionParams p, const __grid_constant__ WorkShape shape, const __grid_constant__ TensorMaps maps) {
  CHITU_DYNAMIC_SHARED(char, 16, smem_raw);
  char* smem = smem_raw + ((1024 - (ptx::smem_u32(smem_raw) & 1023)) & 1023);
  Barriers& bar = *reinterpret_cast<Barriers*>(smem + T::kBarrierOffset);
  int warp = __shfl_sync(~0u, threadIdx.x / 32, 0);
  int lane = threadIdx.x % 32;
  if (threadIdx.x == 0) init_barriers<T>(bar);
  __syncthreads();
  if (warp < 4) {
    ptx::setmaxnreg_dec<T::kProducerRegisters>();
    if (warp == 0) {
      if (lane == 0) produce<T>(p, shape, maps, smem, bar);
    } else if (T::kInt8Qk) {
      make_bias<T>(p, shape, maps, smem, bar, warp, lane);
    }
  } else {
    ptx::setmaxnreg_inc<T::kConsumerRegisters>();
    consume<T>(p, shape, smem, bar, warp / 4 - 1, warp % 4, lane);
  }
}

}  // namespace chitu::cuda::sm90
