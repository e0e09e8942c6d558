// Host side of a launch that all kernels share: tensor maps, work shape, grid.
#pragma once
#include <cuda.h>

#include <algorithm>

#include "cuda/launch.h"
#include "producer.cuh"

namespace chitu::cuda::sm90 {

inline decltype(&cuTensorMapEncodeTiled) tensor_map_encoder() {
  static const auto encode = [] {
    void* entry = nullptr;
    cudaDriverEntryPointQueryResult found;
    if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000, cudaEnableDefault, &found) != cudaSuccess) entry = nullptr;
    return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(entry);
  }();
  return encode;
}

// Innermost dimension first; strides in bytes of dimensions 1 ..; a box covers `columns` x `rows` of the first two dimensions. chunk: bytes of the swizzle,
// 0: none.
inline cudaError_t encode(TensorMap& map, CUtensorMapDataType type, int rank, const void* data, const uint64_t* size, const uint64_t* stride, int columns,
                          int rows, int chunk) {
  auto encoder = tensor_map_encoder();
  if (!encoder) return cudaErrorNotSupported;
  cuuint32_t box[4] = {static_cast<cuuint32_t>(columns), static_cast<cuuint32_t>(rows), 1, 1};
  cuuint32_t step[4] = {1, 1, 1, 1};
  auto swizzle = chunk == 128  ? CU_TENSOR_MAP_SWIZZLE_128B
                 : chunk == 64 ? CU_TENSOR_MAP_SWIZZLE_64B
                 : chunk == 32 ? CU_TENSOR_MAP_SWIZZLE_32B
                               : CU_TENSOR_MAP_SWIZZLE_NONE;
  CUresult r = encoder(reinterpret_cast<CUtensorMap*>(&map), type, rank, const_cast<void*>(data), size, stride, box, step, CU_TENSOR_MAP_INTERLEAVE_NONE,
                       swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return r == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

// A [batch, seqlen, heads, head_dim] view of 16-bit elements. A dimension of size 1 may have any stride.
inline cudaError_t encode_view(TensorMap& map, const View& view, int head_dim, int seqlen, int heads, int batch, int rows, int chunk) {
  auto bytes = [](int64_t stride, int size) { return size == 1 ? uint64_t{16} : static_cast<uint64_t>(stride) * 2; };
  uint64_t size[4] = {uint64_t(head_dim), uint64_t(seqlen), uint64_t(heads), uint64_t(batch)};
  uint64_t stride[3] = {bytes(view.seq_stride, seqlen), bytes(view.head_stride, heads), bytes(view.batch_stride, batch)};
  return encode(map, CU_TENSOR_MAP_DATA_TYPE_UINT16, 4, view.data, size, stride, chunk / 2, rows, chunk);
}

inline cudaError_t encode_codes(TensorMap& map, const int8_t* data, int head_dim, int rows_per_head, int heads, int rows, int chunk) {
  uint64_t size[3] = {uint64_t(head_dim), uint64_t(rows_per_head), uint64_t(heads)};
  uint64_t stride[2] = {uint64_t(head_dim), uint64_t(head_dim) * rows_per_head};
  return encode(map, CU_TENSOR_MAP_DATA_TYPE_UINT8, 3, data, size, stride, chunk, rows, chunk);
}

// A scale for every key.
inline cudaError_t encode_token_scales(TensorMap& map, const float* data, int keys_per_head, int heads, int keys) {
  uint64_t size[3] = {uint64_t(keys_per_head), uint64_t(heads), 1};
  uint64_t stride[2] = {size[0] * 4, size[0] * size[1] * 4};
  return encode(map, CU_TENSOR_MAP_DATA_TYPE_FLOAT32, 3, data, size, stride, keys, 1, 0);
}

// Codes of q and k, scales where they come with the codes, and q itself where the tile bias is made from it.
template <class T>
cudaError_t encode_int8_qk(TensorMaps& maps, const AttentionParams& p) {
  cudaError_t e = encode_codes(maps.q, p.q8, T::kHeadDim, p.seqlen_q_padded, p.tensor_batch() * p.num_heads_q, T::kTileM, T::kQkChunk);
  if (e != cudaSuccess) return e;
  e = encode_codes(maps.k, p.k8, T::kHeadDim, p.tiles_k * kScaleTile, p.tensor_batch() * p.num_heads_kv, T::kTileN, T::kQkChunk);
  if (e == cudaSuccess && T::kKeyScales == KeyScales::token) {
    e = encode_token_scales(maps.k_scale, p.k_scale, p.tiles_k * kScaleTile, p.tensor_batch() * p.num_heads_kv, T::kTileN);
  }
  if (e != cudaSuccess || !T::kTileBias || !p.k_mean || p.bias) return e;
  return encode_view(maps.q16, p.q, T::kHeadDim, p.rows_q(), p.num_heads_q, p.tensor_batch(), T::kTileM, T::kChunk16);
}

template <class T>
WorkShape work_shape(const AttentionParams& p) {
  auto clamp = [](int64_t x) { return static_cast<int>(std::clamp<int64_t>(x, -kFar, kFar)); };
  WorkShape s;
  s.num_m_blocks = (p.seqlen_q + T::kTileM - 1) / T::kTileM;
  s.num_heads_total = p.batch * p.num_heads_q;
  s.num_tiles = s.num_m_blocks * s.num_heads_total;
  s.gqa_group = p.num_heads_q / p.num_heads_kv;
  s.left = clamp(p.window_left);
  s.right = clamp(p.window_right);
  s.diagonal = clamp(p.diagonal);
  // Uneven rows: walk several heads together, longest rows first, as many as keep their keys in L2. Packed sequences come in an order of their own.
  s.heads_per_group = 1;
  if (!p.packed && (s.right < kFar || s.left < kFar || p.seqlens_k)) {
    int64_t head_bytes = int64_t{p.seqlen_k} * p.head_dim * (T::kQkBytes + T::kPvBytes);
    while (s.heads_per_group < s.num_heads_total && s.heads_per_group * 2 / s.gqa_group * head_bytes <= (int64_t{32} << 20)) s.heads_per_group *= 2;
    s.heads_per_group = std::min(s.heads_per_group, s.num_heads_total);
  }
  return s;
}

template <class T>
cudaError_t launch_persistent(void (*kernel)(AttentionParams, WorkShape, TensorMaps), cudaError_t (*encode_maps)(TensorMaps&, const AttentionParams&),
                              const AttentionParams& p, cudaStream_t stream) {
  WorkShape shape = work_shape<T>(p);
  if (shape.num_tiles == 0) return cudaSuccess;
  TensorMaps maps{};
  if (p.seqlen_k > 0) {
    cudaError_t e = encode_maps(maps, p);
    if (e != cudaSuccess) return e;
  }
  if (p.packed) {
    cudaError_t e = order_pieces(p, T::kTileM, stream);
    if (e != cudaSuccess) return e;
  }
  return launch_kernel(kernel, std::min(p.num_sms, shape.num_tiles), T::kThreads, T::kSharedBytes, stream, p, shape, maps);
}

}  // namespace chitu::cuda::sm90
