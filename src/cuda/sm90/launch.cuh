// Launch of the kernels with 16-bit PV. Included by the files that instantiate them.
#pragma once
#include "attention.cuh"
#include "tensor_maps.cuh"

namespace chitu::cuda::sm90 {

template <class T>
cudaError_t encode_maps(TensorMaps& maps, const AttentionParams& p) {
  constexpr int kD = T::kHeadDim;
  cudaError_t e = encode_view(maps.v, p.v, kD, p.rows_k(), p.num_heads_kv, p.tensor_batch(), T::kTileN, T::kChunk16);
  if (e != cudaSuccess) return e;
  if constexpr (T::kInt8Qk) {
    return encode_int8_qk<T>(maps, p);
  } else {
    e = encode_view(maps.q, p.q, kD, p.rows_q(), p.num_heads_q, p.tensor_batch(), T::kTileM, T::kQkChunk);
    if (e != cudaSuccess) return e;
    return encode_view(maps.k, p.k, kD, p.rows_k(), p.num_heads_kv, p.tensor_batch(), T::kTileN, T::kQkChunk);
  }
}

template <class T>
cudaError_t launch(const AttentionParams& p, cudaStream_t stream) {
  return launch_persistent<T>(attention_kernel<T>, encode_maps<T>, p, stream);
}

// The kernels of the peers' methods. Blocks of keys share scales in sage1 alone, whose P is always f16.
template <int kHeadDim, int kTileN, int kWarpgroups>
cudaError_t launch_peers(const AttentionParams& p, cudaStream_t stream) {
  if (p.k_block != 1) return launch<Traits<true, false, kHeadDim, kTileN, kWarpgroups, KeyScales::block>>(p, stream);
  return p.input == Float::bf16 ? launch<Traits<true, true, kHeadDim, kTileN, kWarpgroups, KeyScales::token>>(p, stream)
                                : launch<Traits<true, false, kHeadDim, kTileN, kWarpgroups, KeyScales::token>>(p, stream);
}

}  // namespace chitu::cuda::sm90
