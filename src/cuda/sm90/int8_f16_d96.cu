// INT8 QK, 16-bit PV, head_dim 96.
#include "launch.cuh"

namespace chitu::cuda::sm90 {

cudaError_t launch_int8_f16_d96(const AttentionParams& p, cudaStream_t stream) {
  return p.input == Float::bf16 ? launch<Traits<true, true, 96, 128, 2>>(p, stream) : launch<Traits<true, false, 96, 128, 2>>(p, stream);
}

}  // namespace chitu::cuda::sm90
