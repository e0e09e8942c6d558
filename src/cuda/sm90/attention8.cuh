// Attention with INT8 QK and 8-bit PV on Hopper: every tile's product is summed on its own and joins O once, with the row's factor. So a tile's own maximum,
// its scale and chitu_int8's correction cost nothing per key, and the FP8 accumulator never holds more than 128 keys.
#pragma once
#include "epilogue8.cuh"
#include "roles.cuh"
#include "softmax8.cuh"

namespace chitu::cuda::sm90 {

template <class T>
struct Consumer8 : ConsumerBase<T> {
  using Base = ConsumerBase<T>;
  using typename Base::Score;
  using Product = typename T::Product;
  using Base::p, Base::smem, Base::bar, Base::lane, Base::v_descriptor, Base::phase, Base::scale;
  using Base::release, Base::release_values, Base::fetch_tile, Base::leave_bias_group, Base::begin;
  static constexpr Weights kWeights = T::kWeights;
  static constexpr int kProduct = T::kProductChannels / 2, kAccumulators = (T::kProductChannels + T::kSumRows) / 2;
  // Whether the first tile of a piece has code of its own for when it needs no mask. It costs the other methods more in spills than it saves.
  static constexpr bool kFirstUnmasked = kWeights == Weights::e4m3_tile;
  // A level may pass m by so many octaves before O moves to it: far below the range of f32, and the branch is almost never taken.
  static constexpr float kSlack = 32.f;

  float o[T::kHeadDim / 2];
  Product product[kAccumulators];
  uint32_t packed[T::kWords];
  RowState8 state;
  Score s[T::kScores];  // of the tile at hand
  int head_tiles;     // first tile of the sequence among the tiles of all heads
  bool maybe_huge;    // scores of the tile at hand may be huge, by its scales alone
  float value_scale;  // u8_tile: of the tile at hand
  float shift_limit;  // of that tile; not 0: it is flagged

  __device__ __forceinline__ Consumer8(const AttentionParams& p_, char* smem_, Barriers& bar_, int warpgroup_, int warp_, int lane_)
      : Base(p_, smem_, bar_, warpgroup_, warp_, lane_) {
    v_descriptor = ptx::wgmma_descriptor(ptx::smem_u32(smem) + T::kVOffset, 16, 8 * T::kTileN, ptx::Swizzle::b128);
  }

  // The rows of V^T that sum P (Traits8::kSumRows).
  static __device__ __forceinline__ void init_shared(char* smem) {
    if constexpr (T::kSumRows > 0) {
      for (int i = threadIdx.x; i < T::kVStages * T::kSumRows * (T::kTileN / 16); i += T::kThreads) {
        int word = i % 8, r = i / 8 % 8, stage = i / 64;
        bool log = T::kLogWords >> word & 1;
        uint32_t ones = word / 2 == r / 2 && log == (r % 2 == 0) ? 0x38383838u : 0u;
        char* to = smem + T::kVOffset + stage * T::kVStageBytes + T::kVBytes + r * T::kTileN + (word ^ r) * 16;
        *reinterpret_cast<uint4*>(to) = make_uint4(ones, ones, ones, ones);
      }
      ptx::fence_proxy_async();
    }
  }

  // Product of P and the channels from kIndex * kProductChannels on.
  template <int kStage, int kIndex>
  __device__ __forceinline__ void issue_pv() {
    // Products of two shapes in the same registers would be serialized (C7511): those before the last take eight more rows as well, in vain.
    ptx::pin(product);
    ptx::pin(packed);
    ptx::wgmma_fence();
    uint64_t v = v_descriptor + (kStage % T::kVStages * T::kVStageBytes + kIndex * T::kProductChannels * T::kTileN >> 4);
#pragma unroll
    for (int i = 0; i < T::kTileN / 32; ++i) {
      if constexpr (T::kInt8Pv) {
        ptx::wgmma_rs_u8s8(product, packed + i * 4, v + i * 2, i > 0);
      } else {
        ptx::wgmma_rs_e4m3(product, packed + i * 4, v + i * 2, i > 0);
      }
    }
    ptx::wgmma_commit();
  }

  // O takes in the product of tile n.
  template <int kIndex>
  __device__ __forceinline__ void fold(int n) {
    constexpr int kFirst = kIndex * kProduct;
#pragma unroll
    for (int i = 0; i < kProduct; ++i) {
      int r = i / 2 % 2;
      float& x = o[kFirst + i];
      x = T::kRunning ? fmaf(x, state.w[r], to_f32(product[i])) : fmaf(state.w[r], to_f32(product[i]), x);
    }
    if constexpr (kWeights == Weights::u8_tile) {
      if (__any_sync(~0u, state.shift[0] != 0.f || state.shift[1] != 0.f)) {
        const float* mean = p.tile_mean + static_cast<int64_t>(head_tiles + n) * T::kHeadDim + kIndex * T::kProductChannels + lane % 4 * 2;
#pragma unroll
        for (int j = 0; j < kProduct / 4; ++j) {
          const float2 m = __ldg(reinterpret_cast<const float2*>(mean + 8 * j));
#pragma unroll
          for (int e = 0; e < 4; ++e) o[kFirst + 4 * j + e] = fmaf(state.shift[e / 2], e % 2 ? m.y : m.x, o[kFirst + 4 * j + e]);
        }
      }
    }
    if constexpr (T::kSumRows > 0 && kIndex == T::kProducts - 1) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        float log_words = product[kProduct + 2 * r], other_words = product[kProduct + 2 * r + 1];
        state.l[r] = fmaf(state.w[r], log_words + other_words, state.l[r]);
        if (T::kLogWords != 0) state.lse[r] = fmaf(state.w[r], log_words, state.lse[r]);
      }
    }
  }

  // Rare: a row's level passed m by more than kSlack. Looks at one row only, so that a row's bits do not depend on its neighbours.
  __device__ __forceinline__ void raise_reference(const float (&level)[2]) {
    float keep[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      bool moves = level[r] > state.m[r] + kSlack;
      keep[r] = moves ? ptx::exp2_approx(state.m[r] - level[r]) : 1.f;
      state.m[r] = moves ? level[r] : state.m[r];
      state.l[r] *= keep[r];
      state.lse[r] *= keep[r];
    }
#pragma unroll
    for (int i = 0; i < T::kHeadDim / 2; ++i) o[i] *= keep[i / 2 % 2];
  }

  // What the weights are measured against.
  template <bool kMasked, int kStage>
  __device__ __forceinline__ void begin_softmax(const VisibleColumns (&columns)[2], TileWeights& tile, bool flagged) {
    constexpr bool kTokens = T::kKeyScales == KeyScales::token;
    if constexpr (kTokens) {
      scale_tokens(s, this->template tile_scale<kStage>());
      logit_tops<kMasked>(s, tile.top, columns);
    } else {
      row_tops<kMasked>(s, tile.top, scale.c, columns);
    }
    // of this thread's keys: what one of the quad sees, the row has
    tile.moves = !T::kRunning && __any_sync(~0u, tile.top[0] + scale.bias[0] > state.m[0] + kSlack || tile.top[1] + scale.bias[1] > state.m[1] + kSlack);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      tile.top[r] = quad_max_nan(tile.top[r]);
      tile.level[r] = tile.top[r] + scale.bias[r];
      tile.raw[r][0] = tile.raw[r][1] = 0.f;
      tile.code[r] = 0;
    }
    if constexpr (T::kRunning) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        float m = ptx::max_nan(state.m[r], tile.top[r]);
        tile.w[r] = ptx::exp2_approx(state.m[r] - m);
        state.m[r] = m;
      }
    }
    float from[2] = {tile.top[0], tile.top[1]};  // what base counts from
    if constexpr (T::kRunning) from[0] = state.m[0], from[1] = state.m[1];
    if (kTokens || maybe_huge) {
      const bool huge[2] = {is_huge(tile.top[0]) && tile.top[0] != kLowest<float>, is_huge(tile.top[1]) && tile.top[1] != kLowest<float>};
      if (__any_sync(~0u, huge[0] || huge[1])) {
        if constexpr (kTokens) {
          tame_logits(s, huge, tile.top);
        } else {
          tame_scores(s, huge, tile.top, scale.c);
        }
#pragma unroll
        for (int r = 0; r < 2; ++r) from[r] = huge[r] ? from[r] - tile.top[r] : from[r];
      }
    }
    if constexpr (T::kRunning) {
      constexpr float kUnit = T::kInt8Pv ? 24 : 0;  // s8 codes are f16 subnormals, multiples of 2^-24
#pragma unroll
      for (int r = 0; r < 2; ++r) tile.base[r] = kLog2RunningRange<kWeights> - kUnit - from[r];
    } else {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        tile.base[r] = 8.f - from[r];
        if constexpr (kWeights == Weights::u8_tile) {
          tile.margin[r] = flagged ? 0.f : margin(from[r]);
          // Flagged: weights are scaled by a power of two near 1/t, so that their products with t stay in the range of f32 whatever the size of V.
          float offset = flagged ? static_cast<float>(127 - value_exponent()) : kLog2CodeUnit - tile.margin[r];
          tile.base[r] = offset - from[r];
        }
      }
    }
  }

  // u8_tile, plain: s * c is exact inside the sum and `top` is rounded: where scores are large the largest weight could pass 255.5, and its byte wrap to 0.
  // Finite even where the row sees nothing and `top` is -inf.
  static __device__ __forceinline__ float margin(float top) { return fmaxf(fminf(fabsf(top), FLT_MAX) - 4096.f, 0.f) * 0x1p-22f; }

  // Moves the reference where the tile's level calls for it, and measures the tile against it.
  __device__ __forceinline__ void settle_reference(TileWeights& tile) {
    if constexpr (!T::kRunning) {
      if (tile.moves) raise_reference(tile.level);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        float above = tile.level[r] - state.m[r];
        if constexpr (kWeights == Weights::u8_tile) above += tile.margin[r];
        tile.w[r] = ptx::exp2_approx(above);
      }
    }
  }

  __device__ __forceinline__ int value_exponent() { return __float_as_int(value_scale) >> 23 & 0xff; }

  template <bool kMasked>
  __device__ __forceinline__ void make_weights(int n, const VisibleColumns (&columns)[2], TileWeights& tile, bool flagged) {
    if constexpr (kWeights == Weights::u8_tile) {
      if (flagged) {
        scaled_weights<T, kMasked>(s, tile, p.token_scale + static_cast<int64_t>(head_tiles + n) * kScaleTile + lane % 4 * 2, scale.c, columns);
        weights_of_scaled<T>(s, packed, tile);
        sum_up<true>(tile);
      } else {
        weights_u8<T, kMasked>(s, packed, tile, scale.c, columns);
        sum_up<false>(tile);
      }
    } else {
      if constexpr (T::kInt8Pv) {
        weights_u8<T, kMasked>(s, packed, tile, scale.c, columns);
      } else {
        weights_e4m3<T, kMasked>(s, packed, tile, scale.c, columns);
      }
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        float raw = tile.raw[r][0] + tile.raw[r][1];
        if constexpr (T::kRunning) {
          state.l[r] = fmaf(state.l[r], tile.w[r], T::kInt8Pv ? raw * 0x1p24f : raw);
        } else if constexpr (T::kLogWords != (1u << T::kTileN / 16) - 1) {
          state.lse[r] = fmaf(tile.w[r], raw, state.lse[r]);
        }
      }
    }
  }

  // u8_tile: the three sums of docs/methods.md 2, and the factors of the product.
  template <bool kFlagged>
  __device__ __forceinline__ void sum_up(TileWeights& tile) {
    const float power = __int_as_float(value_exponent() << 23);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      // In codes: the raw sum, the sum of the codes, what rounding lost.
      float raw = quad_sum(tile.raw[r][0] + tile.raw[r][1]) * 0x1p24f;
      float codes = to_f32(static_cast<int>(quad_sum(tile.code[r]))), lost = raw - codes;
      bool corrected = kFlagged || fabsf(lost) > raw * 0x1p-6f;
      float true_sum = kFlagged ? quad_sum(tile.true_sum[r]) * power : raw * (1.f / 255);
      state.l[r] = fmaf(tile.w[r], corrected ? true_sum : codes * (1.f / 255), state.l[r]);
      state.lse[r] = fmaf(tile.w[r], true_sum, state.lse[r]);
      float most = tile.w[r] * true_sum * shift_limit;
      tile.w[r] *= (kFlagged ? tile.largest[r] * power : value_scale) * (1.f / 255);
      if (raw == 0.f) tile.w[r] = 0.f;  // a row that sees nothing of the tile is not touched by a NaN in its scale
      tile.shift[r] = corrected ? tile.w[r] * lost : 0.f;
      if constexpr (kFlagged) tile.shift[r] = fmaxf(-most, fminf(most, tile.shift[r]));
    }
  }

  __device__ __forceinline__ bool is_flagged() { return kWeights == Weights::u8_tile && __any_sync(~0u, shift_limit != 0.f); }

  static __device__ __forceinline__ uint32_t quad_sum(uint32_t x) {
    x += __shfl_xor_sync(~0u, x, 1);
    return x + __shfl_xor_sync(~0u, x, 2);
  }
  static __device__ __forceinline__ float quad_sum(float x) { return cuda::quad_sum(x); }

  __device__ __forceinline__ void take(const TileWeights& tile) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      state.w[r] = tile.w[r];
      if constexpr (kWeights == Weights::u8_tile) state.shift[r] = tile.shift[r];
    }
  }

  // Scale, bias and what else tile n needs before its scores are there.
  __device__ __forceinline__ void fetch(int n) {
    fetch_tile(n);
    note_scales();
    if constexpr (kWeights == Weights::u8_tile) {
      value_scale = __ldg(p.token_scale + static_cast<int64_t>(head_tiles + n) * kScaleTile);
      shift_limit = __ldg(p.shift_limit + (head_tiles + n));
    }
  }

  __device__ __forceinline__ void note_scales() {
    constexpr float kLargestScore = 128.f * 128.f * T::kHeadDim;
    if constexpr (T::kKeyScales != KeyScales::token) {
      maybe_huge = __any_sync(~0u, is_huge(fmaxf(fabsf(scale.c[0]), fabsf(scale.c[1])) * kLargestScore));
    }
  }

  // The product of the tile before, S of tile n, its weights. Two warpgroups, up to head_dim 128, issue the first two together, and O takes in the product
  // beside S; else one thing comes after the other, and the other warpgroups fill the gaps.
  template <bool kMasked, int kStage>
  __device__ __forceinline__ void step(const Work& w, int n) {
    // Product, S and O of 64 channels fit the registers of three warpgroups once the weights are gone.
    constexpr bool kFoldFirst = !T::kOverlap && (T::kHeadDim > 64 || kWeights != Weights::e4m3_tile);
    if constexpr (kStage == 0) phase ^= 1;
    if constexpr (T::kOverlap) {
      issue_pv<kStage ^ 1, 0>();
      this->template issue_qk<kStage>(s);
      end_pv<kStage ^ 1, 1>();
      fold<0>(n + 1);
      fetch(n);
    } else {
      multiply_v<kStage ^ 1, 0, kFoldFirst>(n + 1);
      this->template issue_qk<kStage>(s);
      fetch(n);
      if constexpr (!kFoldFirst) fold<T::kProducts - 1>(n + 1);
    }
    finish_tile<kMasked, kStage>(w, n);
  }

  template <bool kMasked>
  __device__ __forceinline__ void first_tile(const Work& w, int n) {
    phase ^= 1;
    ptx::mbarrier_wait(&bar.k_full[0], phase);
    this->template issue_qk<0>(s);
    finish_tile<kMasked, 0>(w, n);
  }

  // Weights of tile n, whose scores are on their way.
  template <bool kMasked, int kStage>
  __device__ __forceinline__ void finish_tile(const Work& w, int n) {
    VisibleColumns columns[2];
    TileWeights tile;
    this->template visible_columns<kMasked>(w, n, columns);
    const bool flagged = is_flagged();
    ptx::wgmma_wait<0>();
    ptx::pin(s);
    begin_softmax<kMasked, kStage>(columns, tile, flagged);
    settle_reference(tile);
    make_weights<kMasked>(n, columns, tile, flagged);
    release(&bar.k_empty[kStage]);
    take(tile);
    // values of this tile, keys of the next one; one stage of values: every piece of work fills it an even number of times, so its parity is that of the tile
    this->wait_both(&bar.v_full[kStage % T::kVStages], T::kVStages == 2 ? phase : kStage, &bar.k_full[kStage ^ 1], phase ^ kStage,
                    this->template has_next<kMasked, kStage>(w, n));
  }

  // The last part of the product is there; kBehind: groups issued since.
  template <int kStage, int kBehind>
  __device__ __forceinline__ void end_pv() {
    ptx::wgmma_wait<kBehind>();
    ptx::pin(product);
    ptx::pin(packed);
    release_values(kStage);
  }

  // The product of tile n, in parts one after the other where it does not fit as a whole.
  template <int kStage, int kIndex, bool kFoldLast>
  __device__ __forceinline__ void multiply_v(int n) {
    constexpr bool kLast = kIndex == T::kProducts - 1;
    issue_pv<kStage, kIndex>();
    if constexpr (kLast) {
      end_pv<kStage, 0>();
    } else {
      ptx::wgmma_wait<0>();
      ptx::pin(product);
    }
    if constexpr (!kLast || kFoldLast) fold<kIndex>(n);
    if constexpr (!kLast) multiply_v<kStage, kIndex + 1, kFoldLast>(n);
  }

  __device__ __forceinline__ void run(const Work& w) {
    state.reset();
#pragma unroll
    for (float& x : o) x = 0.f;
    if (w.n_end <= w.n_begin) return;
    head_tiles = (w.at.batch * p.num_heads_kv + w.head_kv) * p.tiles_k + w.at.tile;
    if constexpr (kWeights == Weights::u8_tile) {
      value_scale = __ldg(p.token_scale + static_cast<int64_t>(head_tiles + w.n_end - 1) * kScaleTile);
      shift_limit = __ldg(p.shift_limit + (head_tiles + w.n_end - 1));
    }
    begin(w);
    note_scales();
    this->walk(*this, w);
    const bool odd = (w.n_end - w.n_begin) % 2;
    if (odd) {
      multiply_v<0, 0, true>(w.n_begin);
    } else {
      multiply_v<1, 0, true>(w.n_begin);
    }
    if (odd) this->skip_stage();
    if constexpr (T::kTileBias) leave_bias_group();
  }

  __device__ __forceinline__ void finish(const Work& w, int row) { epilogue8<T>(p, w, o, state, row, lane); }
};

template <class T>
__global__ void __launch_bounds__(T::kThreads, 1)
    attention8_kernel(const __grid_constant__ AttentionParams p, const __grid_constant__ WorkShape shape, const __grid_constant__ TensorMaps maps) {
  run_roles<T, Consumer8<T>>(p, shape, maps);
}

}  // namespace chitu::cuda::sm90
