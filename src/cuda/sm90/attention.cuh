// Attention with 16-bit PV on Hopper: QK in INT8 (`chitu`, `sage1`, `int_flash_half`) or 16 bit (`exact`), f32 accumulation in place, running maximum with
// lazy rescale.
// One producer warpgroup, kWarpgroups consumers of 64 rows each; TMA and mbarrier rings for K and V; persistent.
#pragma once
#include "epilogue.cuh"
#include "roles.cuh"

namespace chitu::cuda::sm90 {

template <class T>
struct Consumer : ConsumerBase<T> {
  using Base = ConsumerBase<T>;
  using Base::p, Base::smem, Base::bar, Base::warpgroup, Base::warp, Base::lane, Base::v_descriptor, Base::phase;
  using Base::release, Base::release_values, Base::fetch_tile, Base::leave_bias_group, Base::begin;
  using typename Base::Score;
  float o[T::kHeadDim / 2];
  static constexpr bool kFirstUnmasked = false;  // the first tile of a piece: one code for all
  static constexpr int kPending = T::kOverlap ? 2 : 1;
  static constexpr int kGroup = 4;            // blocks of eight keys whose scores are made again at once
  uint32_t packed[kPending][T::kScores / 2];  // weights of tile u: packed[u % kPending]
  RowState state;
  Score s[T::kScores];  // of the tile at hand

  __device__ __forceinline__ Consumer(const AttentionParams& p_, char* smem_, Barriers& bar_, int warpgroup_, int warp_, int lane_)
      : Base(p_, smem_, bar_, warpgroup_, warp_, lane_) {
    v_descriptor = ptx::wgmma_descriptor(ptx::smem_u32(smem) + T::kVOffset, T::kTileN * T::kChunk16, 8 * T::kChunk16, T::kSwizzle16);
  }

  // O += P V.
  template <int kStage>
  __device__ __forceinline__ void issue_pv() {
    uint32_t(&pk)[T::kScores / 2] = packed[kStage % kPending];
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

  __device__ __forceinline__ void weight_base(float (&base)[2]) {
#pragma unroll
    for (int r = 0; r < 2; ++r) base[r] = this->scale.bias[r] - state.m[r] + T::kOffset;
  }

  // A row that has seen no key is not huge, though its base is infinite.
  __device__ __forceinline__ bool any_huge(const float (&base)[2]) {
    const float unseen = -__builtin_huge_valf();
    return is_huge(fmaxf(state.m[0] == unseen ? 0.f : fabsf(base[0]), state.m[1] == unseen ? 0.f : fabsf(base[1])));
  }

  // Rows that see their first key in this tile take their m from the scores while these are there: under a causal mask most pieces of work have such rows.
  template <bool kMasked, int kStage>
  __device__ __forceinline__ void start_rows(const VisibleColumns (&columns)[2]) {
    if constexpr (kMasked) {
      const float unseen = -__builtin_huge_valf();
      if (!__any_sync(~0u, state.m[0] == unseen || state.m[1] == unseen)) return;
      float level[2];
      row_levels<kMasked>(s, level, this->template tile_scale<kStage>(), columns);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float top = quad_max(level[r]);
        if (state.m[r] == unseen && top > unseen) state.m[r] = top;
      }
    }
  }

  // The first tile: m is its maximum.
  template <bool kMasked, int kStage>
  __device__ __forceinline__ void first_softmax(const Work& w, int n) {
    VisibleColumns columns[2];
    this->template visible_columns<kMasked>(w, n, columns);
    const auto& scale = this->template tile_scale<kStage>();
    float level[2], sum[4] = {}, base[2];
    row_levels<kMasked>(s, level, scale, columns);
    raise_reference(state, level, {true, true});
    weight_base(base);
    make_weights<kMasked, T::kBf16>(s, packed[kStage % kPending], sum, base, scale, columns);
    settle_huge<kMasked, kStage>(base, sum, columns);
    state.l[0] += sum[0] + sum[1];
    state.l[1] += sum[2] + sum[3];
  }

  // Any other tile, optimistically: weights against the old m, no maximum at all. The sums show whether m was good enough.
  template <bool kMasked, int kStage>
  __device__ __forceinline__ void softmax(const Work& w, int n) {
    VisibleColumns columns[2];
    this->template visible_columns<kMasked>(w, n, columns);
    const auto& scale = this->template tile_scale<kStage>();
    float sum[4] = {}, base[2];
    start_rows<kMasked, kStage>(columns);
    weight_base(base);
    const bool huge = kMasked ? any_huge(base) : is_huge(fmaxf(fabsf(base[0]), fabsf(base[1])));
    make_weights<kMasked, T::kBf16>(s, packed[kStage % kPending], sum, base, scale, columns);
    // one comparison for both rows, without NaN: which of them it is shows in the branch
    state.rescale = __any_sync(~0u, fmaxf(sum[0] + sum[1], sum[2] + sum[3]) > kWeightLimit<T::kBf16> || huge);
    if (state.rescale) {
      settle<kMasked, kStage>(sum, columns);
      if constexpr (!T::kOverlap) rescale();  // O is complete: its product was waited for
    }
    state.l[0] += sum[0] + sum[1];
    state.l[1] += sum[2] + sum[3];
  }

  // Scores of 32 keys for this warp, from shared memory. The registers of S are gone by the time they are needed again, and a warp cannot use wgmma alone.
  template <int kStage>
  __device__ __forceinline__ void recompute_scores(int group, Score (&s)[kGroup][4]) {
    constexpr uint32_t kMask = T::kQkChunk / 16 - 1;
    uint32_t base = ptx::smem_u32(smem);
    int q_row = warpgroup * 64 + warp * 16 + lane % 16, k_row = group * kGroup * 8 + lane / 16 * 8 + lane % 8;
#pragma unroll
    for (int i = 0; i < kGroup * 4; ++i) s[i / 4][i % 4] = 0;
#pragma unroll 1
    for (int i = 0; i < T::kHeadDim * T::kQkBytes / 32; ++i) {
      constexpr int kSteps = T::kQkChunk / 32;
      uint32_t q = q_row * T::kQkChunk + i % kSteps * 32 + lane / 16 * 16, k = k_row * T::kQkChunk + i % kSteps * 32 + lane / 8 % 2 * 16;
      q ^= (q >> 7 & kMask) << 4;
      k ^= (k >> 7 & kMask) << 4;
      uint32_t a[4], b[2][4];
      ptx::ldmatrix_x4(a, base + T::kQOffset + i / kSteps * (T::kTileM * T::kQkChunk) + q);
#pragma unroll
      for (int j = 0; j < kGroup / 2; ++j)  // 16 keys: a multiple of 8 rows, which the swizzle does not see
        ptx::ldmatrix_x4(b[j], base + T::kKOffset + kStage * T::kKBytes + i / kSteps * (T::kTileN * T::kQkChunk) + k + j * 16 * T::kQkChunk);
#pragma unroll
      for (int j = 0; j < kGroup; ++j) {
        const uint32_t b0 = b[j / 2][j % 2 * 2], b1 = b[j / 2][j % 2 * 2 + 1];
        if constexpr (T::kInt8Qk) {
          ptx::mma_m16n8k32_s8(s[j], a, b0, b1);
        } else if constexpr (T::kBf16) {
          ptx::mma_m16n8k16_bf16(s[j], a, b0, b1);
        } else {
          ptx::mma_m16n8k16_f16(s[j], a, b0, b1);
        }
      }
    }
  }

  // Rare: some row is huge.
  template <bool kMasked, int kStage>
  __device__ __forceinline__ void settle_huge(const float (&base)[2], float (&sum)[4], const VisibleColumns (&columns)[2]) {
    if (!__any_sync(~0u, kMasked ? any_huge(base) : is_huge(base[0]) || is_huge(base[1]))) return;
    float top[2], level[2];
    find_tops<kMasked, kStage>(top, level, columns);
    rebuild<kMasked, kStage>(top, level, sum, columns);
  }

  // Rare: some row outgrew its m, or is huge.
  template <bool kMasked, int kStage>
  __device__ __forceinline__ void settle(float (&sum)[4], const VisibleColumns (&columns)[2]) {
    float top[2], level[2], base[2];
    weight_base(base);
    const bool outgrown[2] = {sum[0] + sum[1] > kWeightLimit<T::kBf16> || is_huge(base[0]), sum[2] + sum[3] > kWeightLimit<T::kBf16> || is_huge(base[1])};
    find_tops<kMasked, kStage>(top, level, columns);
    raise_reference(state, level, outgrown);
    rebuild<kMasked, kStage>(top, level, sum, columns);
  }

  // The tile's largest logit of each row, without and with its bias.
  template <bool kMasked, int kStage>
  __device__ __forceinline__ void find_tops(float (&top)[2], float (&level)[2], const VisibleColumns (&columns)[2]) {
    Score s[kGroup][4];
    const auto& scale = this->template tile_scale<kStage>();
    top[0] = top[1] = kLowest<float>;
#pragma unroll 1
    for (int group = 0; group < T::kTileN / 8 / kGroup; ++group) {
      recompute_scores<kStage>(group, s);
#pragma unroll
      for (int i = 0; i < kGroup * 4; ++i) {
        const int r = i / 2 % 2, column = (group * kGroup + i / 4) * 8;
        float c[2];
        scale.factors(r, column, c);
        if (!kMasked || visible(columns[r], column + i % 2)) top[r] = fmaxf(top[r], rounded_logit(s[i / 4][i % 4], c[i % 2]));
      }
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      top[r] = quad_max(top[r]);
      level[r] = __fadd_rn(top[r], scale.bias[r]);
    }
  }

  // The weights once more, against the m that is now.
  template <bool kMasked, int kStage>
  __device__ __forceinline__ void rebuild(const float (&top)[2], const float (&level)[2], float (&sum)[4], const VisibleColumns (&columns)[2]) {
    float base[2];
    Score s[kGroup][4];
    const auto& scale = this->template tile_scale<kStage>();
    weight_base(base);
    // of a huge row not by way of the bias, whose rounding would put it octaves away from the tile's largest key
#pragma unroll
    for (int r = 0; r < 2; ++r)
      if (is_huge(base[r]) && top[r] != kLowest<float>) base[r] = __fadd_rn(level[r] - state.m[r] - top[r], T::kOffset);
#pragma unroll
    for (int i = 0; i < 4; ++i) sum[i] = 0.f;
#pragma unroll
    for (int group = 0; group < T::kTileN / 8 / kGroup; ++group) {
      recompute_scores<kStage>(group, s);
      make_weights<kMasked, T::kBf16, true>(reinterpret_cast<const Score(&)[kGroup * 4]>(s),
                                            reinterpret_cast<uint32_t(&)[kGroup * 2]>(packed[kStage % kPending][group * kGroup * 2]), sum, base, scale, columns,
                                            group * kGroup);
    }
  }

  __device__ __forceinline__ void rescale() {
    if (state.rescale) {
#pragma unroll
      for (int i = 0; i < T::kHeadDim / 2; ++i) o[i] *= state.alpha[i / 2 % 2];
    }
  }

  // S of tile n and O += P V of the tile before, issued together so that the tensor cores never run dry, and what else tile n needs fetched beside them; then
  // the weights of tile n.
  template <bool kMasked, int kStage>
  __device__ __forceinline__ void step(const Work& w, int n) {
    if constexpr (kStage == 0) phase ^= 1;
    this->template issue_qk<kStage>(s);
    issue_pv<kStage ^ 1>();
    fetch_tile(n);
    if constexpr (T::kOverlap) {
      ptx::wgmma_wait<1>();
    } else {
      end_pv<kStage ^ 1>();
    }
    ptx::pin(s);
    softmax<kMasked, kStage>(w, n);
    release(&bar.k_empty[kStage]);
    ptx::pin(packed[kStage % kPending]);
    ptx::pin(state.l);
    await_next<kMasked, kStage>(w, n);
    if constexpr (T::kOverlap) {
      // All of the above belongs into the shadow of PV. The compiler would sink the exponentials below this wait, were it not for the loops of the barrier
      // waits between.
      end_pv<kStage ^ 1>();
      rescale();
    }
  }

  template <int kStage>
  __device__ __forceinline__ void end_pv() {
    ptx::wgmma_wait<0>();
    ptx::pin(o);
    ptx::pin(packed[kStage % kPending]);
    release_values(kStage);
  }

  // Values of tile n, keys of the next one.
  template <bool kMasked, int kStage>
  __device__ __forceinline__ void await_next(const Work& w, int n) {
    const bool more = this->template has_next<kMasked, kStage>(w, n);
    if constexpr (T::kOverlap) {
      if (more) ptx::mbarrier_wait(&bar.k_full[kStage ^ 1], phase ^ kStage);
      ptx::mbarrier_wait(&bar.v_full[kStage], phase);
    } else {
      this->wait_both(&bar.v_full[kStage], phase, &bar.k_full[kStage ^ 1], phase ^ kStage, more);
    }
  }

  // Values behind the end of a sequence may be NaN, and 0 * NaN is NaN: clear those rows of stage 0.
  __device__ __forceinline__ void clear_value_tail(const Work& w, int n) {
    int valid = w.at.k_len - n * T::kTileN;
    if (valid >= T::kTileN || w.zeros_behind) return;
    int words = (T::kTileN - valid) * (T::kChunk16 / 16);
    for (int chunk = 0; chunk < T::kChunks16; ++chunk) {
      uint4* to = reinterpret_cast<uint4*>(smem + T::kVOffset + (chunk * T::kTileN + valid) * T::kChunk16);
      for (int i = (warpgroup * 4 + warp) * 32 + lane; i < words; i += T::kWarpgroups * 128) to[i] = make_uint4(0, 0, 0, 0);
    }
    ptx::fence_proxy_async();
    ptx::bar_sync(kBarConsumers, T::kWarpgroups * 128);
  }

  template <bool kMasked>
  __device__ __forceinline__ void first_tile(const Work& w, int n) {
    phase ^= 1;
    ptx::mbarrier_wait(&bar.k_full[0], phase);
    this->template issue_qk<0>(s);
    ptx::wgmma_wait<0>();
    ptx::pin(s);
    first_softmax<kMasked, 0>(w, n);
    release(&bar.k_empty[0]);
    await_next<kMasked, 0>(w, n);
    clear_value_tail(w, n);
  }

  template <int kStage>
  __device__ __forceinline__ void last_pv() {
    issue_pv<kStage>();
    end_pv<kStage>();
  }

  __device__ __forceinline__ void run(const Work& w) {
    state.reset();
#pragma unroll
    for (float& x : o) x = 0.f;
    if (w.n_end <= w.n_begin) return;
    begin(w);
    this->walk(*this, w);
    const bool odd = (w.n_end - w.n_begin) % 2;
    if (odd) {
      last_pv<0>();
    } else {
      last_pv<1>();
    }
    if (odd) this->skip_stage();
    if constexpr (T::kTileBias) leave_bias_group();
  }

  __device__ __forceinline__ void finish(const Work& w, int row) { epilogue<T::kHeadDim, T::kInt8Qk && !T::kTileBias>(p, w, o, state, T::kOffset, row, lane); }
};

template <class T>
__global__ void __launch_bounds__(T::kThreads, 1)
    attention_kernel(const __grid_constant__ AttentionParams p, const __grid_constant__ WorkShape shape, const __grid_constant__ TensorMaps maps) {
  run_roles<T, Consumer<T>>(p, shape, maps);
}

}  // namespace chitu::cuda::sm90
