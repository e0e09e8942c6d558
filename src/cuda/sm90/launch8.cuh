// Launch of the kernels with 8-bit PV. Included by the files that instantiate them.
#pragma once
#include "attention8.cuh"
#include "tensor_maps.cuh"

namespace chitu::cuda::sm90 {

template <class T>
cudaError_t encode_maps8(TensorMaps& maps, const AttentionParams& p) {
  cudaError_t e =
      encode_codes(maps.v, static_cast<const int8_t*>(p.v8t), T::kTileN, p.tiles_k * T::kHeadDim, p.tensor_batch() * p.num_heads_kv, T::kHeadDim, T::kTileN);
  return e != cudaSuccess ? e : encode_int8_qk<T>(maps, p);
}

template <class T>
cudaError_t launch8(const AttentionParams& p, cudaStream_t stream) {
  return launch_persistent<T>(attention8_kernel<T>, encode_maps8<T>, p, stream);
}

// One kernel for each type of the inputs, which the tile bias is made from.
template <Weights kWeights, uint32_t kLogWords, int kHeadDim, int kWarpgroups>
cudaError_t launch8_any(const AttentionParams& p, cudaStream_t stream) {
  constexpr bool kReadsInputs = Traits8<kWeights, kLogWords, false, kHeadDim, kWarpgroups>::kTileBias;
  return kReadsInputs && p.input == Float::bf16 ? launch8<Traits8<kWeights, kLogWords, kReadsInputs, kHeadDim, kWarpgroups>>(p, stream)
                                                : launch8<Traits8<kWeights, kLogWords, false, kHeadDim, kWarpgroups>>(p, stream);
}

}  // namespace chitu::cuda::sm90
