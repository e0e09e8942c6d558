// The kernels a benchmark binary holds: the library's, and other schedules.
#pragma once
#include <vector>

#include "cuda/sm90/params.h"

struct Variant {
  const char* name;
  int head_dim;
  bool bf16, exact_method, bias_from_memory, dynamic;
  cudaError_t (*launch)(const chitu::cuda::sm90::AttentionParams&, cudaStream_t);
  bool library = true;
};
const std::vector<Variant>& variants();
std::vector<Variant> schedule_variants_d64();
std::vector<Variant> schedule_variants_d128();
