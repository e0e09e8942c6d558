// `exact`: 16-bit QK and PV, head_dim 128.
#include "launch.cuh"

namespace chitu::cuda::sm90 {

cudaError_t launch_f16_f16_d128(const AttentionParams& p, cudaStream_t stream) {
  return p.input == Float::bf16 ? launch<Traits<false, true, 128, 128, 2>>(p, stream) : launch<Traits<false, false, 128, 128, 2>>(p, stream);
}

}  // namespace chitu::cuda::sm90
