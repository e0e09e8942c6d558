// Kernels of `chitu` that the library does not use.
#pragma once
#include "cuda/sm90/launch.cuh"
#include "sm90_variants.h"

// Inputs of both types, 128 keys; the benchmark times f16.
template <int kHeadDim, int kWarpgroups, chitu::cuda::sm90::Order kOrder, int kPolynomialEighths>
Variant schedule(const char* name) {
  using namespace chitu::cuda::sm90;
  const auto launch_any = [](const AttentionParams& p, cudaStream_t stream) {
    return p.input == Float::bf16 ? launch<OrderedTraits<true, true, kHeadDim, 128, kWarpgroups, kOrder, kPolynomialEighths>>(p, stream)
                                  : launch<OrderedTraits<true, false, kHeadDim, 128, kWarpgroups, kOrder, kPolynomialEighths>>(p, stream);
  };
  return {name, kHeadDim, false, false, false, true, launch_any, false};
}
