// Tiles of K and V into shared memory, fragments out of it.
#pragma once
#include "cuda/sm80/ptx.cuh"
#include "cuda/sm80/work.cuh"

namespace chitu::cuda::sm80 {

// kRows rows of kRowBytes bytes to a multiple of 128; bytes from `valid_bytes` and rows from `valid_rows` on become zero and are not read. By kLoaders
// threads: a block or a warp.
template <int kRows, int kRowBytes, int kLoaders = kThreads>
__device__ __forceinline__ void load_rows(uint32_t to, const void* from, std::int64_t row_stride, int valid_rows, int valid_bytes) {
  constexpr int kChunks = kRowBytes / 16, kStep = kLoaders / kChunks;
  static_assert(kRows % kStep == 0 && (kStep % 8 == 0 || 8 % kStep == 0));
  const unsigned loader = kLoaders == 32 ? threadIdx.x % 32 : threadIdx.x;
  const int row = loader / kChunks, c = loader % kChunks;
  const int bytes = max(0, min(16, valid_bytes - c * 16));
  const char* at = static_cast<const char*>(from) + row * row_stride + c * 16;
  to += chunk_offset<kRowBytes>(row, c);
#pragma unroll
  for (int k = 0; k < kRows / kStep; ++k) {
    const uint32_t flips = swizzle<kRowBytes>(k * kStep, 0) * 16;  // row < kStep: row + k * kStep has the bits of both; 0 where kStep is 8 or more
    ptx::cp_async_16((to ^ flips) + k * kStep * kRowBytes, at, row + k * kStep < valid_rows ? bytes : 0);
    at += kStep * row_stride;
  }
}

// The same for rows of 16-bit elements that start anywhere: ordinary loads and stores.
template <int kRows, int kRowBytes>
__device__ __forceinline__ void load_rows_unaligned(uint8_t* to, const uint16_t* from, std::int64_t row_stride, int valid_rows, int valid_elements) {
  constexpr int kPairs = kRowBytes / 4;
#pragma unroll 4
  for (int i = threadIdx.x; i < kRows * kPairs; i += kThreads) {
    const int row = i / kPairs, pair = i % kPairs;
    uint32_t x = 0;
    if (row < valid_rows) {
      const uint16_t* e = from + row * row_stride + pair * 2;
      if (pair * 2 < valid_elements) x = e[0];
      if (pair * 2 + 1 < valid_elements) x |= static_cast<uint32_t>(e[1]) << 16;
    }
    *reinterpret_cast<uint32_t*>(to + chunk_offset<kRowBytes>(row, pair / 4) + pair % 4 * 4) = x;
  }
}

template <int kRows, int kRowBytes>
__device__ __forceinline__ void load_view_rows(uint8_t* to, const View& v, const Work& w, int first_key, int dim) {
  const uint16_t* from = row_of<uint16_t>(v, w.tensor_batch, w.k_begin + first_key, w.head_kv);
  const int rows = w.k_len - first_key;
  if (v.aligned16) {
    load_rows<kRows, kRowBytes>(ptx::shared_address(to), from, v.seq * 2, rows, dim * 2);
  } else {
    load_rows_unaligned<kRows, kRowBytes>(to, from, v.seq, rows, dim);
  }
}

// Tile n of K and V into one stage.
template <class T>
__device__ __forceinline__ void load_tile(const AttentionParams& p, const Work& w, uint8_t* stage, int n) {
  const std::int64_t head_tiles = (w.tensor_batch * p.heads_kv + w.head_kv) * p.sequence.tiles_k + w.tile0;
  if constexpr (T::kInt8Qk) {
    const int dim = code_dim(p.head_dim);
    const std::int8_t* k = p.k8 + (head_tiles * kTile + static_cast<std::int64_t>(n) * T::kTileN) * dim;
    load_rows<T::kTileN, T::kRowK>(ptx::shared_address(stage), k, dim, T::kTileN, dim);
  } else {
    load_view_rows<T::kTileN, T::kRowK>(stage, p.k, w, n * T::kTileN, p.head_dim);
  }
  uint8_t* v = stage + T::kKBytes;
  if constexpr (T::kInt8Pv) {
    load_rows<T::kHeadDim, T::kRowV>(ptx::shared_address(v), p.v8t + (head_tiles + n) * p.head_dim_v * kTile, kTile, p.head_dim_v, kTile);
  } else {
    load_view_rows<T::kTileN, T::kRowV>(v, p.v, w, n * T::kTileN, p.head_dim_v);
  }
  ptx::cp_async_commit();
}

// Two neighbouring 16-bit elements; those from `valid` on are zero.
__device__ __forceinline__ uint32_t load_pair(const uint16_t* x, int valid) {
  if (valid >= 2 && (reinterpret_cast<uint64_t>(x) & 3) == 0) return *reinterpret_cast<const uint32_t*>(x);
  uint32_t r = valid > 0 ? x[0] : 0;
  if (valid > 1) r |= static_cast<uint32_t>(x[1]) << 16;
  return r;
}

// Where a thread's two rows of Q lie. Rows behind the end read row q_len - 1; their results are never written.
struct QueryRows {
  const void* row[2];
  float scale[2];  // of the codes, with the softmax scale and log2 e

  template <class T>
  __device__ __forceinline__ void init(const AttentionParams& p, const Work& w, const RowPlace (&place)[2]) {
#pragma unroll
    for (int r = 0; r < T::kHalves; ++r) {
      const int row_index = min(place[r].row, w.q_len - 1);
      if constexpr (T::kInt8Qk) {
        const std::int64_t at = (w.tensor_batch * p.heads_q + place[r].head) * p.sequence.q_rows + w.q_row0 + row_index;
        row[r] = p.q8 + at * code_dim(p.head_dim);
        scale[r] = p.scale_log2 * p.q_scale[at];
      } else {
        row[r] = row_of<uint16_t>(p.q, w.tensor_batch, w.q_begin + row_index, place[r].head);
        scale[r] = p.scale_log2;
      }
    }
  }

  // A fragment of k-step `step`.
  template <class T>
  __device__ __forceinline__ void fragment(const AttentionParams& p, int step, uint32_t (&a)[4]) const {
    const int t = threadIdx.x % 4;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int byte = step * 32 + (i / 2) * 16 + t * 4;
      if (i % 2 >= T::kHalves) {
        a[i] = 0;
      } else if constexpr (T::kInt8Qk) {
        const bool inside = step * 32 + (i / 2) * 16 < code_dim(p.head_dim);
        a[i] = inside ? *reinterpret_cast<const uint32_t*>(static_cast<const char*>(row[i % 2]) + byte) : 0;
      } else {
        a[i] = load_pair(static_cast<const uint16_t*>(row[i % 2]) + byte / 2, p.head_dim - byte / 2);
      }
    }
  }
};

}  // namespace chitu::cuda::sm80
