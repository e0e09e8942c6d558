// The kernels a benchmark binary holds.
#pragma once
#include <vector>

#include "cuda/sm90/params.h"

struct Variant {
  const char* name;
  int head_dim;
  bool bf16, exact_method, bias_from_memory, dynamic;
  cudaError_t (*launch)(const chitu::cuda::sm90::AttentionParams&, cudaStream_t);
};
const std::vector<Variant>& variants();
