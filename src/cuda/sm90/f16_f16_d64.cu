// `exact`: 16-bit QK and PV, head_dim 64.
#include "launch.cuh"

namespace chitu::cuda::sm90 {

cudaError_t launch_f16_f16_d64(const AttentionParams& p, cudaStream_t stream) {
  return p.input == Float::bf16 ? launch<Traits<false, true, 64, 128, 3>>(p, stream) : launch<Traits<false, false, 64, 128, 3>>(p, stream);
}

}  // namespace chitu::cuda::sm90
