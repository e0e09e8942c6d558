// Attention on mma.sync (sm_80 and newer), one kernel for every method: a block takes 128 query rows of one head and walks the key tiles they see;
// each of its 8 warps keeps 16 rows of O in registers. Tile n + 1 is copied while tile n is computed, one barrier per tile.
//
// Every tile's product is summed on its own and joins O once, with the row's weights (Fold): so a rescaled maximum, a tile's own scale and chitu_int8's
// correction cost nothing per key.
#pragma once
#include "cuda/device/ptx/shared.cuh"
#include "cuda/sm80/bias.cuh"
#include "cuda/sm80/epilogue.cuh"

namespace chitu::cuda::sm80 {

constexpr int kMagic = 0x4b400000;  // the bits of 1.5 * 2^23: an int8 product summed onto it is a float, 12582912 + S, without a conversion

// s = Q K^T of kCount blocks of 8 keys from block `first` on, which lie at k_rows. Scores of int8 come with kMagic added.
template <class T, int kCount>
__device__ __forceinline__ void multiply_qk(const AttentionParams& p, const QueryRows& rows, const uint32_t (&q)[T::kQInRegisters ? T::kSteps : 1][4],
                                            int first, uint32_t k_rows, typename T::Score (&s)[T::kBlocks][4]) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int step = 0; step < T::kSteps; step += 2) {
    uint32_t a[2][4];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      if constexpr (T::kQInRegisters) {
#pragma unroll
        for (int i = 0; i < 4; ++i) a[h][i] = q[step + h][i];
      } else {
        rows.fragment<T>(p, step + h, a[h]);
      }
    }
#pragma unroll
    for (int j = first; j < first + kCount; ++j) {
      uint32_t b[4];
      ptx::ldmatrix_x4(b, k_rows + chunk_offset<T::kRowK>(8 * (j - first) + lane % 8, 2 * step + lane / 8));
      if constexpr (T::kInt8Qk) {
        if (step == 0) {
          ptx::mma_m16n8k32_s8(s[j], a[0], b[0], b[1], kMagic);
        } else {
          ptx::mma_m16n8k32_s8(s[j], a[0], b[0], b[1]);
        }
        ptx::mma_m16n8k32_s8(s[j], a[1], b[2], b[3]);
      } else {
        if (step == 0) s[j][0] = s[j][1] = s[j][2] = s[j][3] = 0.0f;
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          if constexpr (T::kQk == Qk::bf16) {
            ptx::mma_m16n8k16_bf16(s[j], a[h], b[2 * h], b[2 * h + 1]);
          } else {
            ptx::mma_m16n8k16_f16(s[j], a[h], b[2 * h], b[2 * h + 1]);
          }
        }
      }
    }
  }
}

// Logits in log2 units. scale: of the thread's keys in each half of 64, where a block of keys shares it.
template <class T>
__device__ __forceinline__ void scale_scores(const AttentionParams& p, const QueryRows& rows, const float (&k_scale)[2], const float* token_scale,
                                             const typename T::Score (&s)[T::kBlocks][4], float (&x)[T::kBlocks][4]) {
  if constexpr (!T::kInt8Qk) {
#pragma unroll
    for (int j = 0; j < T::kBlocks; ++j)
#pragma unroll
      for (int e = 0; e < 4; ++e) x[j][e] = s[j][e] * rows.scale[e / 2];
  } else {
    float c[2][2];
#pragma unroll
    for (int r = 0; r < T::kHalves; ++r) c[r][0] = rows.scale[r] * k_scale[0], c[r][1] = rows.scale[r] * k_scale[1];
#pragma unroll
    for (int j = 0; j < T::kBlocks; ++j)
#pragma unroll
      for (int e = 0; e < 2 * T::kHalves; ++e) x[j][e] = __int_as_float(s[j][e]) - __int_as_float(kMagic);
    if (token_scale == nullptr) {
#pragma unroll
      for (int j = 0; j < T::kBlocks; ++j)
#pragma unroll
        for (int e = 0; e < 2 * T::kHalves; ++e) x[j][e] *= c[e / 2][j / 8];
    } else {
#pragma unroll
      for (int j = 0; j < T::kBlocks; ++j) {
        const float2 k = *reinterpret_cast<const float2*>(token_scale + 8 * j);
#pragma unroll
        for (int e = 0; e < 2 * T::kHalves; ++e) x[j][e] *= rows.scale[e / 2] * (e % 2 ? k.y : k.x);
      }
    }
  }
}

// o = o * keep + (P V) * weight, for the 32 channels from 32 * block on.
template <class T>
__device__ __forceinline__ void fold_pv_half(uint32_t v_tile, int block, const uint32_t (&pk)[T::kWords], const Fold& fold, float (&o)[T::kHeadDim / 8][4]) {
  const int lane = threadIdx.x % 32;
  constexpr bool kHalfSum = T::kPv == Pv::f16_f16;
  float acc[4][4] = {};
  uint32_t acc16[4][2] = {};
#pragma unroll
  for (int u = 0; u < T::kTileN / 16; ++u) {
    const uint32_t a[4] = {pk[4 * u], pk[4 * u + 1], pk[4 * u + 2], pk[4 * u + 3]};
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      uint32_t b[4];
      ptx::ldmatrix_x4_trans(b, v_tile + chunk_offset<T::kRowV>(16 * u + lane % 16, 4 * block + 2 * c + lane / 16));
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        if constexpr (kHalfSum) {
          ptx::mma_m16n8k16_f16_f16(acc16[2 * c + h], a, b[2 * h], b[2 * h + 1]);
        } else if constexpr (T::kPv == Pv::bf16) {
          ptx::mma_m16n8k16_bf16(acc[2 * c + h], a, b[2 * h], b[2 * h + 1]);
        } else {
          ptx::mma_m16n8k16_f16(acc[2 * c + h], a, b[2 * h], b[2 * h + 1]);
        }
      }
    }
  }
#pragma unroll
  for (int c = 0; c < 4; ++c) {
    if constexpr (kHalfSum) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float2 f = __half22float2(*reinterpret_cast<const __half2*>(&acc16[c][r]));
        acc[c][2 * r] = f.x;
        acc[c][2 * r + 1] = f.y;
      }
    }
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      float& y = o[4 * block + c][e];
      y = fmaf(y, fold.keep[e / 2], acc[c][e] * fold.weight[e / 2]);
    }
  }
}

// The same; the rows of those channels lie at v_rows.
template <class T>
__device__ __forceinline__ void fold_pv_int8(uint32_t v_rows, int block, const uint32_t (&pk)[T::kWords], const Fold& fold, float (&o)[T::kHeadDim / 8][4]) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int c = 0; c < 4; ++c) {
    int acc[4] = {kMagic, kMagic, kMagic, kMagic};  // |sum| <= 255 * 127 * 128 < 2^22
#pragma unroll
    for (int u = 0; u < T::kTileN / 32; u += 2) {
      uint32_t b[4];
      ptx::ldmatrix_x4(b, v_rows + chunk_offset<T::kRowV>(8 * c + lane % 8, 2 * u + lane / 8));
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const uint32_t a[4] = {pk[4 * (u + h)], pk[4 * (u + h) + 1], pk[4 * (u + h) + 2], pk[4 * (u + h) + 3]};
        ptx::mma_m16n8k32_u8s8(acc, a, b[2 * h], b[2 * h + 1]);  // codes of P are at most 127 where the method has signed ones
      }
    }
#pragma unroll
    for (int e = 0; e < 2 * T::kHalves; ++e) {
      float& y = o[4 * block + c][e];
      y = fmaf(y, fold.keep[e / 2], (__int_as_float(acc[e]) - __int_as_float(kMagic)) * fold.weight[e / 2]);
    }
  }
}

// chitu_int8's corrected rows: o += shift * mean of V's codes. Apart from the products, so that these stay one stretch of code without a branch.
template <class T>
__device__ __forceinline__ void add_shift(const float* mean, int head_dim_v, const Fold& fold, float (&o)[T::kHeadDim / 8][4]) {
#pragma unroll
  for (int n = 0; n < T::kHeadDim / 8; ++n) {
    const int d = 8 * n + threadIdx.x % 4 * 2;
    const float mean0 = d < head_dim_v ? mean[d] : 0.0f, mean1 = d + 1 < head_dim_v ? mean[d + 1] : 0.0f;
#pragma unroll
    for (int e = 0; e < 2 * T::kHalves; ++e) o[n][e] = fmaf(fold.shift[e / 2], e % 2 ? mean1 : mean0, o[n][e]);
  }
}

template <class T>
struct Attention {
  const AttentionParams& p;
  const Work& w;  // in shared memory: in registers it would cost 30
  int i;          // first of the thread's two rows
  QueryRows rows;
  RowState state;
  std::int64_t head_tiles;  // first tile of the sequence among the tiles of all heads
  TileBias tile_bias;

  __device__ __forceinline__ Attention(const AttentionParams& p_, const Work& w_) : p(p_), w(w_) {}

  __device__ __forceinline__ void k_scales(int n, float (&scale)[2], const float*& token_scale) const {
    if constexpr (T::kInt8Qk) {
      const int first_key = n * T::kTileN, t = threadIdx.x % 4;
      const std::int64_t key = head_tiles * kTile + first_key;
      token_scale = nullptr;
      if (p.k_block == 1) {
        token_scale = p.k_scale + key + 2 * t;
        scale[0] = scale[1] = 0.0f;
      } else {
        const int shift = p.k_block == 128 ? 7 : 6;
        scale[0] = p.k_scale[(key >> shift) * 4 + t];
        scale[1] = T::kTileN == 128 ? p.k_scale[((key + 64) >> shift) * 4 + t] : scale[0];
      }
    }
  }

  __device__ __forceinline__ void bias_of_tile(int n, bool first, float (&bias)[2]) {
    bias[0] = bias[1] = 0.0f;
    if (p.k_mean == nullptr) return;
    const int tile = n * T::kTileN / kTile;
    if (first || (tile % kBiasTiles == 0 && n * T::kTileN % kTile == 0))
      tile_bias.compute<T>(p, w, {{i, w.head}, {i + 8, w.head}}, tile / kBiasTiles * kBiasTiles, 1);
    bias[0] = tile_bias.of(tile, 0);
    bias[1] = tile_bias.of(tile, 1);
  }

  __device__ __forceinline__ ValueTile value_tile(int n) const {
    if constexpr (T::kPv == Pv::u8) {
      return ValueTile::load(p, head_tiles + n);
    } else {
      return {};
    }
  }

  __device__ __forceinline__ void weights(const ValueTile& v, const float (&bias)[2], float (&x)[T::kBlocks][4], uint32_t (&pk)[T::kWords], Fold& fold) {
    if constexpr (T::kPv == Pv::u8) {
      weights_u8<T>(v, bias, x, pk, state, fold);
    } else if constexpr (T::kPv == Pv::s8) {
      weights_s8<T>(bias, x, pk, state, fold);
    } else if constexpr (T::kPv == Pv::e4m3) {
      weights_e4m3<T>(p, bias, x, pk, state, fold);
    } else {
      weights_half<T>(p, bias, x, pk, state, fold);
    }
  }

  // Tile n, which lies in `stage`.
  __device__ __forceinline__ void step(const uint32_t (&q)[T::kQInRegisters ? T::kSteps : 1][4], uint32_t stage, int n, bool first,
                                       float (&o)[T::kHeadDim / 8][4]) {
    uint32_t pk[T::kWords];
    Fold fold;
    {
      float scale[2], bias[2], x[T::kBlocks][4];
      const float* token_scale = nullptr;
      k_scales(n, scale, token_scale);
      const ValueTile v = value_tile(n);  // read before the product, which hides the latency
      bias_of_tile(n, first, bias);
      typename T::Score s[T::kBlocks][4];
      multiply_qk<T, T::kBlocks>(p, rows, q, 0, stage, s);
      scale_scores<T>(p, rows, scale, token_scale, s, x);
      if (!w.full(i - threadIdx.x % 32 / 4, n * T::kTileN, T::kTileN)) mask_band<T>(w, {{i, w.head}, {i + 8, w.head}}, n, x);
      if (p.dense != nullptr) mask_dense<T>(p, w, i, n, x);
      weights(v, bias, x, pk, fold);
    }
#pragma unroll
    for (int block = 0; block < T::kHeadDim / 32; ++block) {
      if constexpr (T::kInt8Pv) {
        fold_pv_int8<T>(stage + T::kKBytes + block * 32 * T::kRowV, block, pk, fold, o);
      } else {
        fold_pv_half<T>(stage + T::kKBytes, block, pk, fold, o);
      }
    }
    if constexpr (T::kPv == Pv::u8) {
      if (fold.shifted) add_shift<T>(p.tile_mean + (head_tiles + n) * p.head_dim_v, p.head_dim_v, fold, o);
    }
  }

  __device__ __forceinline__ void run(uint8_t* shared) {
    i = w.i0 + threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4;
    head_tiles = (w.tensor_batch * p.heads_kv + w.head_kv) * p.sequence.tiles_k + w.tile0;
    float o[T::kHeadDim / 8][4];
#pragma unroll
    for (int n = 0; n < T::kHeadDim / 8; ++n) o[n][0] = o[n][1] = o[n][2] = o[n][3] = 0.0f;
    state.reset();
    if (w.n_begin < w.n_end) {
      load_tile<T>(p, w, shared, w.n_begin);
      rows.template init<T>(p, w, {{i, w.head}, {i + 8, w.head}});
      uint32_t q[T::kQInRegisters ? T::kSteps : 1][4];
      if constexpr (T::kQInRegisters) {
#pragma unroll
        for (int step = 0; step < T::kSteps; ++step) rows.template fragment<T>(p, step, q[step]);
      }
      int stage = 0;
#pragma unroll 1
      for (int n = w.n_begin; n < w.n_end; ++n) {
        if (p.stages == 1 && n > w.n_begin) {
          __syncthreads();  // all have read tile n - 1
          load_tile<T>(p, w, shared, n);
        }
        ptx::cp_async_wait<0>();
        __syncthreads();  // tile n is there for all, and with two stages all have read tile n - 1
        if (p.stages == 2 && n + 1 < w.n_end) load_tile<T>(p, w, shared + (stage ^ 1) * T::kStageBytes, n + 1);
        step(q, ptx::shared_address(shared) + stage * T::kStageBytes, n, n == w.n_begin, o);
        if (p.stages == 2) stage ^= 1;
      }
    }
    epilogue<T>(p, w, {{i, w.head}, {i + 8, w.head}}, state, 0, o);
  }
};

template <class T>
__global__ void __launch_bounds__(kThreads, T::kBlocksPerSm) attention_kernel(const __grid_constant__ AttentionParams p) {
  CHITU_DYNAMIC_SHARED(uint8_t, 128, shared);
  __shared__ Work work;
  if (threadIdx.x == 0) decode_work<T>(p, work);
  __syncthreads();
  if (work.i0 >= work.q_len) return;
  Attention<T> attention(p, work);
  attention.run(shared);
}

}  // namespace chitu::cuda::sm80
