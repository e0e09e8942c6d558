// The kernels with 8-bit PV that a benchmark binary holds: the library's, and other schedules and shares of log-code.
#pragma once
#include <vector>

#include "cuda/sm90/params.h"

struct Variant8 {
  const char* name;
  int head_dim;
  int kind;            // bench::Kind
  unsigned log_words;  // of a tile's eight
  bool bf16, library;
  cudaError_t (*launch)(const chitu::cuda::sm90::AttentionParams&, cudaStream_t);
};
std::vector<Variant8> variants8();
std::vector<Variant8> library_variants8();
std::vector<Variant8> schedule_variants8();
