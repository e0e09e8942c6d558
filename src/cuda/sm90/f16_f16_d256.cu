// `exact`: 16-bit QK and PV, head_dim 256.
#include "launch.cuh"

namespace chitu::cuda::sm90 {

cudaError_t launch_f16_f16_d256(const AttentionParams& p, cudaStream_t stream) {
  return p.input == Float::bf16 ? launch<Traits<false, true, 256, 64, 2>>(p, stream) : launch<Traits<false, false, 256, 64, 2>>(p, stream);
}

}  // namespace chitu::cuda::sm90
